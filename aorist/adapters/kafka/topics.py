"""Topics as declared against topics as they are, and what may be done about the difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from aorist.adapters.kafka.client import COMMON, REQUEST_S, problem, result
from aorist.adapters.kafka.log import KafkaEventLog, topic_config
from aorist.errors import LogUnavailableError, SettingError
from aorist.ports import TopicSpec


class Found(NamedTuple):
    """A topic as it is. `config`: all its settings, defaults included. `replicas`: of the partition that has the fewest."""

    name: str
    partitions: int
    replicas: int
    config: dict[str, str]


class Differing(NamedTuple):
    """One setting of a topic that is not as declared."""

    topic: str
    setting: str
    found: str
    declared: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.setting} is {self.found}, declared {self.declared}"


class Objection(NamedTuple):
    """What is not as declared and cannot be made so."""

    topic: str
    why: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.why}"


@dataclass(frozen=True)
class Comparison:
    """`missing`, `altered`: what `apply` makes so. `refused`: what must never be. `stuck`: what has to be done elsewhere.

    `undeclared`: names of topics that are nobody's business here.
    """

    replicas: int
    same: Sequence[str]
    missing: Sequence[TopicSpec]
    altered: Sequence[Differing]
    refused: Sequence[Objection]
    stuck: Sequence[Objection]
    undeclared: Sequence[str]

    @property
    def differs(self) -> bool:
        return bool(self.missing or self.altered or self.refused or self.stuck)

    def lines(self) -> Iterator[tuple[str, str]]:
        """A mark and a sentence for each topic, and for each setting that is another."""
        yield from (("=", f"{name}: as declared") for name in self.same)
        yield from (("+", f"{spec.name}: missing, declared {self._declared(spec)}") for spec in self.missing)
        yield from (("~", str(one)) for one in self.altered)
        yield from (("!", str(one)) for one in (*self.stuck, *self.refused))
        yield from ((" ", f"{name}: not declared, not touched") for name in self.undeclared)

    def _declared(self, spec: TopicSpec) -> str:
        config = topic_config(spec, self.replicas).items()
        return f"partitions={spec.partitions} replicas={self.replicas} " + " ".join(f"{k}={v}" for k, v in config)


def compare(declared: Sequence[TopicSpec], found: Sequence[Found], replicas: int) -> Comparison:
    """What has to be done so that `found` is as `declared`, with `replicas` copies."""
    there = {topic.name: topic for topic in found}
    pairs = [(spec, there[spec.name]) for spec in declared if spec.name in there]
    altered = [
        Differing(spec.name, name, topic.config.get(name, "unset"), wanted)
        for spec, topic in pairs
        for name, wanted in topic_config(
            spec, topic.replicas
        ).items()  # more in sync than there are would stop all appends
        if topic.config.get(name) != wanted
    ]
    refused = [Objection(s.name, _other_partitions(s, topic)) for s, topic in pairs if topic.partitions != s.partitions]
    stuck = [Objection(s.name, _other_replicas(topic, replicas)) for s, topic in pairs if topic.replicas != replicas]
    unlike = {one.topic for one in altered} | {one.topic for one in (*refused, *stuck)}
    return Comparison(
        replicas,
        same=[spec.name for spec, _ in pairs if spec.name not in unlike],
        missing=[spec for spec in declared if spec.name not in there],
        altered=altered,
        refused=refused,
        stuck=stuck,
        undeclared=sorted(set(there) - {spec.name for spec in declared}),
    )


def _other_partitions(spec: TopicSpec, found: Found) -> str:
    return (
        f"REFUSED: has {found.partitions} partitions and is declared with {spec.partitions}. Which partition a key belongs to follows from "
        f"their number, so that it is for ever: among {spec.partitions}, most keys would go on in a partition that lacks their "
        f"history, out of order and folded in two places. Declare {found.partitions} again; or, to have {spec.partitions}, declare "
        "a topic of another name and publish there anew what is still needed"
    )


def _other_replicas(found: Found, replicas: int) -> str:
    return (
        f"has {found.replicas} replicas, not {replicas}. Copies are moved between brokers by Kafka's own "
        f"kafka-reassign-partitions; or set replicas to {found.replicas}"
    )


class KafkaTopics:
    """The topics of one Kafka. Blocks. Raises LogUnavailableError when it does not answer."""

    def __init__(self, brokers: str, replicas: int, overrides: dict[str, Any] | None = None) -> None:
        self._brokers, self._replicas = brokers, replicas
        self._admin = AdminClient({**COMMON, "bootstrap.servers": brokers, **(overrides or {})})
        self._log = KafkaEventLog(brokers, replicas=replicas, overrides=overrides)

    def compare(self, declared: Sequence[TopicSpec]) -> Comparison:
        return compare(declared, self._found(), self._replicas)

    def apply(self, comparison: Comparison) -> None:
        """Creates what is missing, then sets what differs. Raises SettingError where a topic cannot have so many replicas."""
        for spec in comparison.missing:
            self._create(spec)
        self._alter(comparison.altered)

    def _create(self, spec: TopicSpec) -> None:
        try:
            self._log.create(spec)
        except LogUnavailableError as error:
            reason = getattr(error.__cause__, "args", [None])[0]
            if isinstance(reason, KafkaError) and reason.code() == KafkaError.INVALID_REPLICATION_FACTOR:
                raise SettingError(
                    f"{spec.name} cannot have {self._replicas} replicas: Kafka has fewer brokers; set --replicas or AORIST_REPLICAS"
                ) from error
            raise

    def _alter(self, changes: Sequence[Differing]) -> None:
        """Sets what differs, and nothing else. Of one topic, all or nothing."""
        topics = sorted({change.topic for change in changes})
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                topic,
                incremental_configs=[
                    ConfigEntry(change.setting, change.declared, incremental_operation=AlterConfigOpType.SET)
                    for change in changes
                    if change.topic == topic
                ],
            )
            for topic in topics
        ]
        if resources:
            for resource, answer in self._admin.incremental_alter_configs(resources, request_timeout=REQUEST_S).items():
                result(answer, f"changing topic {resource.name}", resource.name)

    def _found(self) -> list[Found]:
        """All but Kafka's own."""
        what = f"listing topics at {self._brokers}"
        try:
            names = sorted(self._admin.list_topics(timeout=REQUEST_S).topics)
        except KafkaException as error:
            raise problem(error, what) from error
        if not names:
            return []
        asked = self._admin.describe_topics(TopicCollection(names), request_timeout=REQUEST_S)
        described: list[Any] = [result(answer, what, name) for name, answer in asked.items()]
        topics = [one for one in described if not one.is_internal]
        configs = self._configs([topic.name for topic in topics])
        return [
            Found(
                topic.name,
                len(topic.partitions),
                min(len(partition.replicas) for partition in topic.partitions),
                configs[topic.name],
            )
            for topic in topics
        ]

    def _configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        asked = self._admin.describe_configs(
            [ConfigResource(ResourceType.TOPIC, name) for name in names], request_timeout=REQUEST_S
        )
        return {
            resource.name: {
                entry.name: entry.value
                for entry in result(answer, "reading settings of topics", resource.name).values()
            }
            for resource, answer in asked.items()
        }
