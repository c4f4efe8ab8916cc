"""What the last durable snapshot of a key says, and how old it says that it is."""

from __future__ import annotations

import pytest

from aorist.engine.stored import read_stored
from aorist.errors import RestoringError
from aorist.v1.read_pb2 import ROLE_STORE
from tests.unit.engine.rig import Rig
from tests.unit.engine.views import Added, counts


async def test_a_snapshot_says_how_far_it_is(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=2), Added(id="a", amount=3))
    rig.fold()
    rig.checkpoint()
    await rig.publish(Added(id="a", amount=4), Added(id="a", amount=5))
    rig.fold()
    for key in (b"a", b"b"):  # of b, too, all is known up to the checkpoint
        stored = read_stored(rig.view, rig.partition, key, rig.store, rig.log)
        assert (stored.header.role, stored.header.stale, stored.header.epoch) == (ROLE_STORE, True, 1)
        assert (stored.header.position.offset, stored.header.lag_events) == (2, 2)
        assert stored.header.position.topic == rig.topic.name
        assert 0 <= stored.header.lag_ms < 60_000
    assert (
        rig.view.codec.encode(read_stored(rig.view, rig.partition, b"b", rig.store, rig.log).state)
        == rig.states()[b"b"]
    )


async def test_what_has_no_snapshot_is_not_denied(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    with pytest.raises(RestoringError, match="no snapshot of a yet"):
        read_stored(rig.view, rig.partition, b"a", rig.store, rig.log)


async def test_a_snapshot_of_a_parked_key_says_no_more_than_it_holds(rig: Rig) -> None:
    rig.quarantine._most_keys = 1
    rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=2), Added(id="a", amount=99, breaks=True))
    await rig.publish(Added(id="a", amount=3), Added(id="b", amount=4))
    rig.fold()
    rig.checkpoint()
    before = read_stored(rig.view, rig.partition, b"a", rig.store, rig.log)
    assert (rig.view.codec.encode(before.state), before.header.position.offset) == (counts(1), 1)
    assert before.header.lag_events == 3
    other = read_stored(rig.view, rig.partition, b"b", rig.store, rig.log)
    assert (rig.view.codec.encode(other.state), other.header.position.offset) == (counts(2, 4), 4)
    rig.quarantine.skip(rig.shard, b"a", 2, "by ada")
    freed = read_stored(rig.view, rig.partition, b"a", rig.store, rig.log)
    assert (rig.view.codec.encode(freed.state), freed.header.position.offset) == (counts(1, 3), 4)
