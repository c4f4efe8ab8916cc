"""Reading: partitions that are assigned, never rebalanced."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from uuid import UUID

import structlog
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from aorist.adapters.kafka.client import (
    CONSUMER,
    FIRST_S,
    UNKNOWN_TOPIC,
    Complaints,
    describe,
    problem,
    uuid_of,
)
from aorist.adapters.kafka.looking import ANEW, GONE, LOOK_S, SAME_S, Look, Same
from aorist.errors import LogTruncatedError, LogUnavailableError, UnknownTopicError
from aorist.ports import NO_LEADER, Fetched
from aorist.position import NOTHING, Partition

TRUNCATED = (
    KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001  # the client's own codes are named so
    KafkaError._LOG_TRUNCATION,  # noqa: SLF001
    KafkaError.OFFSET_OUT_OF_RANGE,
    *UNKNOWN_TOPIC,
)

SILENT_S = 5.0
"""Without a word about a partition that is known to have more, though nothing waits to be polled, it is assigned anew."""

log = structlog.get_logger()
_offset, _key, _value, _partition, _error = Message.offset, Message.key, Message.value, Message.partition, Message.error


@dataclass(slots=True)
class _Place:
    topic_id: UUID
    next_offset: int
    end_offset: int
    leader_epoch: int  # of the newest event read, or of that before where reading began
    proving: bool  # reading began one event earlier, to see that it is still the one that was there
    at_end: bool = False
    end_told: bool = False  # a poll has said since `assign` that the end was reached
    heard_at: float = field(default_factory=time.monotonic)  # or when a look found that there was nothing to be heard


class KafkaLogReader:
    """Used by one thread only. `admin` answers where ends are."""

    def __init__(self, brokers: str, group: str, overrides: dict[str, Any], admin: AdminClient) -> None:
        settings = {
            **CONSUMER,
            "bootstrap.servers": brokers,
            "group.id": group,
            "error_cb": Complaints("kafka consumer"),
            **overrides,
        }
        self._consumer = Consumer(settings)
        self._admin = admin
        self._places: dict[Partition, _Place] = {}
        self._refused: list[LogTruncatedError] = []  # to be raised by the next poll
        self._look: Look | None = None
        self._same: Same | None = None
        self._same_at = 0.0
        self._polled_at = self._listening_since = time.monotonic()
        self._drained = True  # by the last poll: nothing that was fetched waits
        self._closed = False

    def assign(
        self, partition: Partition, offset: int, leader_epoch: int = NO_LEADER, topic_id: UUID | None = None
    ) -> None:
        self.unassign(partition)
        what = f"assigning {partition}"
        try:
            found = uuid_of(describe(self._admin, partition.topic, what).topic_id)
        except UnknownTopicError as error:
            if topic_id is None:
                raise
            raise LogTruncatedError(f"{partition}: {GONE}", partition, replaced=True) from error
        if topic_id not in (None, found):
            raise LogTruncatedError(f"{partition}: {ANEW}", partition, replaced=True)
        proving = leader_epoch != NO_LEADER and offset > 0
        where = TopicPartition(*partition, offset)
        if proving:
            where = TopicPartition(*partition, offset - 1, "", leader_epoch)
        try:
            self._consumer.incremental_assign([where])
        except KafkaException as error:
            raise problem(error, what, partition.topic) from error
        self._places[partition] = _Place(found, offset, offset, leader_epoch, proving)
        self._same = None  # may tell of the topic before, or not of this one

    def unassign(self, partition: Partition) -> None:
        self._refused = [refusal for refusal in self._refused if refusal.partition != partition]
        if self._places.pop(partition, None) is not None:
            self._consumer.incremental_unassign([TopicPartition(partition.topic, partition.number)])

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Fetched]:
        if self._closed:
            raise LogUnavailableError("the log is closed")
        self._check_same_topics()
        self._wake_up()
        until = time.monotonic() + timeout_s
        fetched: list[Fetched] = []
        while not self._refused:
            # consume() waits for *all* it was asked for; one poll waits for the first, and what else is there costs no wait.
            first = self._consumer.poll(max(0.0, until - time.monotonic()))
            if first is None:
                self._drained = True
                return [*fetched, *self._looked_at()]
            more = self._consumer.consume(max_records - 1, 0) if max_records > 1 else []
            self._drained = len(more) < max_records - 1
            if self._sort([first, *more], fetched) or time.monotonic() >= until:
                return [*fetched, *self._looked_at()]  # the ends of those that are quiet beside busy ones, too
        if fetched:
            return fetched  # what was read beside it is not lost
        raise self._refused.pop(0)

    def _sort(self, messages: list[Message], fetched: list[Fetched]) -> bool:
        """Adds what `messages` say to `fetched`; says whether the caller should hear of it before the time is up."""
        news = False
        for topic, number, run in _runs(messages):
            partition = Partition(topic, number)
            place = self._places.get(partition)
            if place is None:
                continue  # unassigned while it was on its way
            events, ended = self._without_errors(partition, run) if any(map(_error, run)) else (run, None)
            if place.proving and (events or ended is not None) and self._is_another(partition, place, events, ended):
                continue
            if events and self._goes_back(partition, place, events):
                continue
            news = news or bool(events) or (ended is not None and not place.end_told)
            if events:
                high = self._consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True)[1]
                place.next_offset = events[-1].offset() + 1  # type: ignore[operator]  # events have offsets
                place.end_offset = max(high, place.next_offset)
                place.at_end = place.end_told = place.next_offset >= high
            if ended is not None:
                place.next_offset = place.end_offset = ended
                place.at_end = place.end_told = True
            if events or ended is not None:
                place.heard_at = time.monotonic()
                fetched.append(self._fetched(partition, place, events))
        return news

    def _is_another(self, partition: Partition, place: _Place, events: list[Message], ended: int | None) -> bool:
        """Whether the event before where reading goes on is not the one that was there; takes it out of `events`.

        Offset and leader name an event for good. librdkafka compares them with the log's only when it hears of a new leader: a client
        that knows the leader already would read on. Where compaction has taken the event, nothing can be said.
        """
        place.proving = False
        there: int | None = NO_LEADER
        if not events and ended is not None and ended < place.next_offset:
            there = None
        elif events and events[0].offset() == place.next_offset - 1:
            there = _leader(events.pop(0))
        if there in (NO_LEADER, place.leader_epoch):
            return False
        self._refused.append(
            LogTruncatedError(
                f"{partition} has lost its end: at {place.next_offset - 1} there was an event of leader {place.leader_epoch}, now there "
                f"is {'none' if there is None else f'one of leader {there}'}; rebuild the view, or restore the log",
                partition,
                replaced=True,
            )
        )
        return True

    def _goes_back(self, partition: Partition, place: _Place, events: list[Message]) -> bool:
        """Whether they were written under an older leader than what was read before them. Then they are refused: a log never does so."""
        first, last = (_leader(events[0]), _leader(events[-1]))
        if NO_LEADER in (first, last):
            return False
        if place.leader_epoch <= first <= last:
            place.leader_epoch = last
            return False
        self._refused.append(
            LogTruncatedError(
                f"{partition} goes on at {events[0].offset()} under leader {min(first, last)}, after events of leader "
                f"{max(place.leader_epoch, first)}: these are other events; rebuild the view, or restore the log",
                partition,
                replaced=True,
            )
        )
        return True

    @staticmethod
    def _fetched(partition: Partition, place: _Place, events: list[Message]) -> Fetched:
        records = list(zip(map(_offset, events), map(_key, events), map(_value, events), strict=True))
        time_us = events[-1].timestamp()[1] * 1000 if events else 0
        return Fetched(
            partition,
            records,  # type: ignore[arg-type]  # events have keys
            place.next_offset,
            place.end_offset,
            time_us,
            _leader(events[-1]) if events else NO_LEADER,
        )

    def _without_errors(self, partition: Partition, run: list[Message]) -> tuple[list[Message], int | None]:
        """The events among `run`, and the end of the partition if it was reached behind them. Other errors are refusals."""
        events: list[Message] = []
        ended = None
        for message in run:
            error = message.error()
            if error is None:
                events.append(message)
                ended = None
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                ended = message.offset()
            elif error.code() in TRUNCATED:
                self._refuse_or_go_on(partition, self._places[partition], error)
            else:
                log.warning("kafka consumer", partition=str(partition), problem=error.str())
        return events, ended

    def _refuse_or_go_on(self, partition: Partition, place: _Place, error: KafkaError) -> None:
        """Goes on where only the event before is gone, with all that is older."""
        try:
            start, _ = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=FIRST_S)
        except KafkaException:
            start = NOTHING
        if place.proving and start == place.next_offset:
            place.proving = False
            self._consumer.incremental_unassign([TopicPartition(*partition)])
            self._consumer.incremental_assign([TopicPartition(*partition, start)])
            return
        trimmed = start > place.next_offset  # what was read is as true as before; else the log may have lost its end
        message = f"{partition} cannot be read from {place.next_offset}: {error.str()}"
        self._refused.append(LogTruncatedError(message, partition, replaced=not trimmed))

    # --- while nothing comes ---

    def _wake_up(self) -> None:
        """Assigns anew what is known to have more and gives nothing: the client may have been left waiting for a broker that died."""
        now = time.monotonic()
        if not self._drained or now - self._polled_at > 1:
            self._listening_since = now  # others have their turn, or nobody asked
        self._polled_at = now
        silent = [
            partition
            for partition, place in self._places.items()
            if now - max(place.heard_at, self._listening_since) > SILENT_S
            and not (place.at_end and place.end_offset <= place.next_offset)
        ]
        if silent:
            log.warning("kafka consumer: silent, asking anew", partitions=", ".join(map(str, silent)))
        for partition in silent:
            place = self._places[partition]
            place.heard_at = now
            place.proving = place.leader_epoch != NO_LEADER and place.next_offset > 0
            offset = place.next_offset - 1 if place.proving else place.next_offset
            # Without the leader's epoch: what the client does with it may be what it waits for.
            self._consumer.incremental_unassign([TopicPartition(*partition)])
            self._consumer.incremental_assign([TopicPartition(*partition, offset)])

    def _looked_at(self) -> Sequence[Fetched]:
        """What an answer about the ends says, if one has come; asks again."""
        fetched: list[Fetched] = []
        if self._look is not None and self._look.done():
            for partition, end in self._look.ends():
                place = self._places.get(partition)
                if place is not None and place.at_end:
                    if place.end_offset <= place.next_offset:
                        place.heard_at = max(place.heard_at, self._look.asked_at)
                    place.end_offset = max(end, place.next_offset)
                    fetched.append(Fetched(partition, (), place.next_offset, place.end_offset, 0))
            self._look = None
        if self._look is None:
            quiet = time.monotonic() - LOOK_S
            if waiting := [p for p, place in self._places.items() if place.at_end and place.heard_at <= quiet]:
                self._look = Look(self._admin, waiting)
        return fetched

    def _check_same_topics(self) -> None:
        """Refuses partitions whose topic was deleted, or deleted and made anew. Asks in passing: a log that is away holds nobody up."""
        if self._same is None:
            if time.monotonic() >= self._same_at and self._places:
                self._same_at = time.monotonic() + SAME_S
                self._same = Same(self._admin, sorted({partition.topic for partition in self._places}))
        elif self._same.done():
            same, self._same = self._same, None
            for partition, place in self._places.items():
                if trouble := same.trouble(partition.topic, place.topic_id):
                    self._refused.append(LogTruncatedError(f"{partition}: {trouble}", partition, replaced=True))

    def commit(self, partition: Partition, next_offset: int) -> None:
        where = TopicPartition(partition.topic, partition.number, next_offset)
        try:
            self._consumer.commit(offsets=[where], asynchronous=True)
        except KafkaException as error:
            log.debug("offset not committed; only lag tools miss it", problem=str(error))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._places.clear()
            self._consumer.close()


def _leader(event: Message) -> int:
    """Under which it was written, if the log says so."""
    epoch = event.leader_epoch()
    return NO_LEADER if epoch is None else epoch


def _runs(messages: list[Message]) -> Iterator[tuple[str, int, list[Message]]]:
    """Topic, partition and messages of each piece that is of one partition: fetches come that way."""
    for number, of_number in groupby(messages, _partition):
        run = list(of_number)
        topics = run[0].topic(), run[-1].topic()
        if topics[0] == topics[1]:
            yield topics[0], number, run  # type: ignore[misc]  # messages of a consumer have both
        else:  # two topics in a row with the same number: rare, so looked at one by one
            for topic, of_topic in groupby(run, Message.topic):
                yield topic, number, list(of_topic)  # type: ignore[misc]
