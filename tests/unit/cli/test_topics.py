"""`aorist topics`: what is found to differ, and what is done about it. The broker is a double here."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from click.testing import Result

from aorist.adapters.kafka.log import topic_config
from aorist.adapters.kafka.topics import Comparison, Differing, Found, compare
from aorist.ports import TopicSpec

Run = Callable[..., Result]

KEPT = TopicSpec("kept", 4, retention_ms=1000)
COMPACTED = TopicSpec("compacted", 4, compacted=True)


def found(spec: TopicSpec, replicas: int = 3, **config: str) -> Found:
    """As it was made, but for `config`."""
    own = topic_config(spec, replicas) | {name.replace("_", "."): value for name, value in config.items()}
    return Found(spec.name, spec.partitions, replicas, {"retention.ms": "604800000", "segment.ms": "1", **own})


@dataclass
class Topics:
    """In place of Kafka."""

    there: list[Found]
    replicas: int = 3
    applied: list[Comparison] = field(default_factory=list)

    def compare(self, _declared: Any) -> Comparison:
        return compare([KEPT, COMPACTED], self.there, self.replicas)

    def apply(self, comparison: Comparison) -> None:
        self.applied.append(comparison)


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Topics:
    double = Topics([])
    module: Any = types.ModuleType("aorist.app")
    module.open_topics = lambda _: double
    monkeypatch.setitem(sys.modules, "aorist.app", module)
    return double


def test_topics_as_declared_do_not_differ() -> None:
    comparison = compare([KEPT, COMPACTED], [found(KEPT), found(COMPACTED)], 3)
    assert not comparison.differs
    assert list(comparison.lines()) == [("=", "kept: as declared"), ("=", "compacted: as declared")]


def test_a_compacted_topic_may_have_any_retention() -> None:
    assert not compare([COMPACTED], [found(COMPACTED, retention_ms="7")], 3).differs


def test_how_long_a_compacted_topic_keeps_tombstones_is_not_left_open() -> None:
    """A restore goes by it."""
    (differing,) = compare([COMPACTED], [found(COMPACTED, delete_retention_ms="7")], 3).altered
    assert differing == Differing("compacted", "delete.retention.ms", "7", "86400000")


def test_each_setting_that_is_another_is_told() -> None:
    comparison = compare([KEPT], [found(KEPT, cleanup_policy="compact", min_insync_replicas="1")], 3)
    assert comparison.altered == [
        Differing("kept", "cleanup.policy", "compact", "delete"),
        Differing("kept", "min.insync.replicas", "1", "2"),
    ]
    assert (comparison.differs, comparison.same) == (True, [])


def test_copies_in_sync_follow_from_the_copies_that_are_there() -> None:
    """More of them than there are copies would stop every append."""
    comparison = compare([KEPT], [found(KEPT, replicas=1)], 3)
    assert not comparison.altered
    assert [mark for mark, _ in comparison.lines()] == ["!"]


@pytest.mark.parametrize("partitions", [3, 5])
def test_another_number_of_partitions_is_refused(partitions: int) -> None:
    comparison = compare([KEPT], [found(KEPT)._replace(partitions=partitions)], 3)
    ((mark, line),) = comparison.lines()
    assert mark == "!"
    assert line.startswith(f"kept: REFUSED: has {partitions} partitions and is declared with 4.")
    assert f"Declare {partitions} again; or, to have 4, declare a topic of another name" in line


def test_what_would_be_made_is_said(run: Run, kafka: Topics) -> None:
    kafka.there = [found(COMPACTED), Found("strange", 1, 1, {})]
    line = "partitions=4 replicas=3 cleanup.policy=delete retention.ms=1000 min.insync.replicas=2"
    shown = f"= compacted: as declared\n+ kept: missing, declared {line}\n  strange: not declared, not touched\n"
    result = run("topics", "diff")
    assert (result.exit_code, result.stdout) == (1, shown)
    result = run("topics", "apply", "--dry-run")
    assert (result.exit_code, result.stdout) == (0, f"{shown}nothing was changed: --dry-run\n")
    assert not kafka.applied
    result = run("topics", "apply")
    assert (result.exit_code, result.stdout) == (0, f"{shown}topics created: 1, settings changed: 0\n")
    assert kafka.applied[0].missing == [KEPT]


def test_strange_topics_alone_are_no_difference(run: Run, kafka: Topics) -> None:
    kafka.there = [found(KEPT), found(COMPACTED), Found("strange", 1, 1, {})]
    assert run("topics", "diff").exit_code == 0


def test_one_refusal_and_nothing_is_done(run: Run, kafka: Topics) -> None:
    kafka.there = [found(KEPT)._replace(partitions=5)]
    result = run("topics", "apply")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (1, "nothing was changed")
    assert not kafka.applied


def test_another_number_of_replicas_stays_and_fails(run: Run, kafka: Topics) -> None:
    kafka.there = [found(KEPT, replicas=2), found(COMPACTED, retention_ms="1")]
    result = run("topics", "apply")
    assert result.exit_code == 1
    assert "! kept: has 2 replicas, not 3." in result.stdout
    assert len(kafka.applied) == 1
