"""What a reader asks in passing: where the ends are, and whether its topics are still the same. A log that is away holds nobody up."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any
from uuid import UUID

from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from aorist.adapters.kafka.client import REQUEST_S, UNKNOWN_TOPIC, look_for_controller, uuid_of
from aorist.position import Partition

LOOK_S = 0.1
"""How often the end of a partition is asked for while nothing comes of it. Silence alone does not tell an idle log from one that is cut
off."""

SAME_S = 0.5
"""How often the topic is asked whether it is still the one that was assigned: the client goes on in one made anew, by its name, where it
was in the former one. Its first event gives it away where the former one had seen more leaders. Else nothing tells, and what was read
since the last look may be such events, so whoever folded them lets the state go.
"""

LAST: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]

GONE = "its topic was deleted while it was read"
ANEW = "its topic was deleted and made anew: these are other events; rebuild the view"


class Look:
    """A question where the ends are, on its way."""

    def __init__(self, admin: AdminClient, partitions: Sequence[Partition]) -> None:
        asked = {TopicPartition(*partition): LAST for partition in partitions}
        self.asked_at = time.monotonic()
        answers = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_S)
        self._answers: dict[Partition, Future[Any]] = {
            Partition(where.topic, where.partition): answer for where, answer in answers.items()
        }

    def done(self) -> bool:
        return time.monotonic() >= self.asked_at + LOOK_S and all(answer.done() for answer in self._answers.values())

    def ends(self) -> Iterator[tuple[Partition, int]]:
        """Of the partitions that could be looked at."""
        for partition, answer in self._answers.items():
            if answer.exception() is None:
                yield partition, int(answer.result().offset)


class Same:
    """A question which topics have these names, on its way."""

    def __init__(self, admin: AdminClient, topics: Sequence[str]) -> None:
        self._admin = admin
        self._answers: dict[str, Future[Any]] = admin.describe_topics(
            TopicCollection(list(topics)), request_timeout=REQUEST_S
        )

    def done(self) -> bool:
        if not all(answer.done() for answer in self._answers.values()):
            return False
        if all(_is_away(answer) for answer in self._answers.values()):
            look_for_controller(self._admin, next(iter(self._answers)))
        return True

    def trouble(self, topic: str, topic_id: UUID) -> str:
        """What is known against its being the one with this id; nothing while the log is away: its lag ages."""
        answer = self._answers[topic]
        if _is_away(answer):
            return ""
        if answer.exception() is not None:
            return GONE
        return ANEW if uuid_of(answer.result().topic_id) != topic_id else ""


def _is_away(answer: Future[Any]) -> bool:
    error = answer.exception()
    return error is not None and not (isinstance(error, KafkaException) and error.args[0].code() in UNKNOWN_TOPIC)
