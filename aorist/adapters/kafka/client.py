"""What the clients of Kafka have in common: settings with their reasons, and errors in aorist's words."""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from aorist.errors import AoristError, LogUnavailableError, RecordTooLargeError, UnknownTopicError

T = TypeVar("T")

REQUEST_S = 5.0
"""How long a question to the brokers may take."""

FIRST_S = 1.0
"""How long before it is tried in another way."""

TELL_EVERY_S = 10.0
"""While no broker answers, librdkafka complains forty times a second."""

log = structlog.get_logger()

COMMON: dict[str, Any] = {
    "broker.address.family": "v4",
    "socket.nagle.disable": True,  # a request is written whole: waiting for more only delays it
    "socket.timeout.ms": 10_000,  # a broker that stands still keeps its connections: 60 s by default until others are asked
    "reconnect.backoff.ms": 250,
    "reconnect.backoff.max.ms": 1_000,  # back within a second of a broker's return; the default grows to 10 s
    "allow.auto.create.topics": False,  # topics come from declarations
    "log_level": 2,  # what librdkafka writes to stderr by itself; `Complaints` and errors of calls tell the same once
}

PRODUCER: dict[str, Any] = {
    **COMMON,
    "enable.idempotence": True,  # off by default: without it a retry may double or reorder
    "acks": "all",
    "request.timeout.ms": 10_000,  # as above; sent again to the next leader, an event is not doubled
    "message.max.bytes": 1_048_576,  # the port's limit and the framing around it
    "linger.ms": 1,  # beside batches that form by themselves under load, a millisecond packs those of many streams
    # Never: an event given up here would leave those behind it to be written, and come after them when its sender sends it again. Senders
    # are told after `ACKNOWLEDGED_WITHIN_S` that it is *unknown* whether it is in the log; it keeps its place.
    "message.timeout.ms": 0,
    "queue.buffering.max.messages": 1_000_000,  # the bound that counts is `Budget`, in bytes
    "queue.buffering.max.kbytes": 1_048_576,
    "compression.type": "lz4",
}

CONSUMER: dict[str, Any] = {
    **COMMON,
    "enable.auto.commit": False,  # snapshots decide how far we are
    "auto.offset.reset": "error",  # a position that is not there any more must be seen, not replaced
    "enable.partition.eof": True,  # the end is where the broker says it is: offsets have gaps
    "isolation.level": "read_committed",
    "fetch.wait.max.ms": 10,  # a newly assigned partition waits for the fetch under way: 500 by default
    "fetch.queue.backoff.ms": 2,  # 1000 by default: a catch-up would starve at 200 k/s
    "check.crcs": False,  # TCP and the broker check; it costs a tenth of the client
}


FETCH_BYTES = 64 * 2**20
"""What one reader may hold in memory of events that are fetched and not read yet, unless it is told otherwise."""

UNPACKED = 32
"""What an answer of small events takes in memory, by its bytes on the way: they are unpacked, and each takes some 300 bytes beside."""

SMALL_BYTES = 400
"""What a small event takes in memory."""

LEAST_ANSWER, MOST_ANSWER = 2**16, 2**23


def fetching(budget_bytes: int) -> dict[str, int]:
    """How much librdkafka fetches, so that all it holds for one reader stays within `budget_bytes`.

    It asks for more while less than a quarter is waiting, and an answer, unpacked, is half. The rest is what an allocator keeps for itself.
    Not within it: a broker gives a whole batch, however large; each of several brokers may send an answer at the same time.
    """
    answer = min(max(LEAST_ANSWER, budget_bytes // 2 // UNPACKED), MOST_ANSWER)
    return {
        "queued.max.messages.kbytes": min(2**20, budget_bytes // 4 // 1024),  # counts keys and values alone
        "queued.min.messages": min(20_000, budget_bytes // 4 // SMALL_BYTES),
        "fetch.max.bytes": answer,
        "message.max.bytes": answer,  # of a consumer, it does nothing but keep `fetch.max.bytes` from being less
        "fetch.message.max.bytes": answer // 4,  # of one partition: the others have their turn
    }


class Complaints:
    """Tells of what a client complains about without being asked: each kind once in `TELL_EVERY_S`."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._told: dict[int, float] = {}  # kind -> when

    def __call__(self, error: KafkaError) -> None:
        now, kind = time.monotonic(), error.code()
        if now - self._told.get(kind, -TELL_EVERY_S) >= TELL_EVERY_S:
            self._told[kind] = now
            log.warning(self._who, problem=error.str())


def problem(error: KafkaError | KafkaException, what: str, topic: str | None = None) -> AoristError:
    """`error` as aorist says it."""
    reason = error.args[0] if isinstance(error, KafkaException) else error
    code = reason.code() if isinstance(reason, KafkaError) else None
    if code in UNKNOWN_TOPIC:
        return UnknownTopicError(
            f"{what}: the log has no {topic or 'such topic'}; create it with `aorist topics apply`"
        )
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return RecordTooLargeError(f"{what}: an event is larger than Kafka takes; send less in one event")
    text = reason.str() if isinstance(reason, KafkaError) else str(error)
    return LogUnavailableError(f"{what}: Kafka {'does not answer' if code in AWAY else 'fails'}: {text}")


AWAY = (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)  # noqa: SLF001
UNKNOWN_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)  # noqa: SLF001


def result(future: Future[T], what: str, topic: str | None = None) -> T:
    """Waits for an answer of the admin client. Raises what `problem` makes of a failure."""
    try:
        return future.result(REQUEST_S + 1)
    except KafkaException as error:
        raise problem(error, what, topic) from error
    except TimeoutError as error:
        raise LogUnavailableError(f"{what}: Kafka does not answer") from error


def describe(admin: AdminClient, topic: str, what: str) -> Any:
    """What Kafka says about `topic`. Raises UnknownTopicError, LogUnavailableError.

    A client puts this question to the broker that it takes for the controller. Where that one has died, it would wait for it to come
    back: it learns of another only with an answer about topics from whichever broker is there, which we then ask for.
    """
    try:
        return result(admin.describe_topics(TopicCollection([topic]), request_timeout=FIRST_S)[topic], what, topic)
    except LogUnavailableError:
        look_for_controller(admin, topic)
    return result(admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_S)[topic], what, topic)


def look_for_controller(admin: AdminClient, topic: str) -> None:
    """Of any broker that answers soon."""
    with suppress(KafkaException):
        admin.list_topics(topic, timeout=FIRST_S)


def uuid_of(id_: Any) -> UUID:
    """Kafka's topic id."""
    high, low = id_.get_most_significant_bits(), id_.get_least_significant_bits()
    return UUID(int=(high & 0xFFFFFFFFFFFFFFFF) << 64 | low & 0xFFFFFFFFFFFFFFFF)
