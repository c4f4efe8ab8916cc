"""A build that begins with the snapshots of an older one ends where it would have ended had it folded everything."""

from __future__ import annotations

import pytest

from aorist.declare import Seed
from aorist.engine.restore import restore
from aorist.engine.shard import Shard
from aorist.errors import LogTruncatedError, QuarantinedError, StoreUnavailableError
from aorist.ports import ParkedEvent, ParkedState, SnapshotRow
from aorist.position import build_name
from tests.unit.engine.rig import Rig
from tests.unit.engine.stores import FailingStore
from tests.unit.engine.views import PROTO, Added, Counts, counts, unpack

LONG_US = 10_000_000_000


def lowered(counted: Counts, event: object) -> None:
    """What build 2 makes of an event: its sum goes down."""
    counted.amounts.append(event.amount)  # type: ignore[attr-defined]
    counted.total -= event.amount  # type: ignore[attr-defined]


# region convert
def before(old: bytes) -> Counts:
    counted = unpack(PROTO.Counts.FromString(old))
    return Counts(counted.amounts, -counted.total)


SEED = Seed(1, before)  # View(..., build=2, seeded_from=SEED)
# endregion


def rebuild(rig: Rig) -> None:
    """From now on the rig runs build 2."""
    view = rig.view
    view.build, view.build_name = 2, build_name(view.name, 2)
    view.seeded_from = SEED
    view.handlers = dict.fromkeys(view.handlers, lowered)
    rig.rows = rig.rows._replace(build=2)


async def test_it_folds_on_from_where_the_older_build_was(rig: Rig) -> None:
    """Also where rows were ahead of the checkpoint, and the log has forgotten what is in them."""
    rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=10))
    rig.fold()
    rig.checkpoint()
    rig.log.maintain(rig.clock_us() + LONG_US)
    await rig.publish(Added(id="a", amount=2))
    rig.fold()
    whole, rig.store = rig.store, FailingStore(rig.store, "write_checkpoint")
    with pytest.raises(StoreUnavailableError):
        rig.checkpoint()  # the row of "a" is at 2, the checkpoint below it
    rig.store = whole
    await rig.publish(Added(id="a", amount=3), Added(id="c", amount=5))
    rebuild(rig)
    shard = rig.open()
    assert (shard.next_offset, shard.row_offset) == (2, 2)
    rig.fold()
    assert {key: (list(e.state.amounts), e.state.total) for key, e in shard.entries.items()} == {
        b"a": ([1, 2, 3], -6),
        b"b": ([10], -10),
        b"c": ([5], -5),
    }
    rig.checkpoint()
    rig.view.seeded_from = None  # it has rows of its own by now
    again = rig.open()
    assert (again.next_offset, len(again.entries)) == (5, 3)


async def test_keys_that_are_parked_have_to_be_freed_first(rig: Rig) -> None:
    """Their events are in no row, and the log gives them no more."""
    rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=2))
    rig.fold()
    rig.checkpoint()
    await rig.publish(Added(id="a", amount=3))
    rig.store.write_parked(rig.rows, [ParkedEvent(b"a", 2, b"", "poison", 1)])
    older = rig.rows
    rebuild(rig)
    with pytest.raises(QuarantinedError, match="build 1, which has 1 keys parked"):
        rig.open()
    assert rig.store.read_checkpoint(rig.rows) is None
    rig.store.write_parked(older, [ParkedEvent(b"a", 2, None, "mended", 2, ParkedState.RELEASED)])
    rig.store.write_rows(older, [SnapshotRow(b"a", counts(1, 3), 2, 1)])
    assert rig.open().entries[b"a"].state == Counts([1, 3], -4)


async def test_without_a_checkpoint_of_the_older_build_it_folds_the_log_if_that_reaches_back(rig: Rig) -> None:
    await rig.publish(Added(id="a", amount=1))
    rebuild(rig)
    assert rig.open().next_offset == 0
    rig.log.maintain(rig.clock_us() + LONG_US)
    with pytest.raises(LogTruncatedError):
        restore(Shard(rig.view, rig.partition, rig.rows, 1), rig.store, rig.log, beside=True)
