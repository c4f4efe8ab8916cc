"""A small view over many keys, held in memory without a log: what gateways and workers make of shards."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from aorist.declare import View
from aorist.declare.queries import shape_of
from aorist.engine.shard import Entry, Shard
from aorist.ports import Fetched, ShardRows
from aorist.position import NOTHING, Partition
from tests.unit.declare.contract import Contract, compile_proto
from tests.unit.declare.things import PROTO

PARTITIONS = 4


class World:
    """Shards of the view `thing`. The state of a key is a Thing; `at` 0 is left out of lists, below 0 its handlers raise."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.view: View[Any] = View(
            "thing", events=contract.ThingEvent, state=contract.Thing, ignores=[contract.Moved, contract.Stopped]
        )

        def get(state: Any, ask: Any) -> Any:
            if state.at < 0:
                raise ZeroDivisionError("a query of the domain that raises")
            return contract.GetThingResponse(thing=state)

        def each(state: Any, ask: Any) -> Any:
            return state if state.at else None

        get.__annotations__ = {
            "state": contract.Thing,
            "ask": contract.GetThingRequest,
            "return": contract.GetThingResponse,
        }
        each.__annotations__ = {
            "state": contract.Thing,
            "ask": contract.ListThingsRequest,
            "return": contract.Thing | None,
        }
        self.view.get(get)
        self.view.list(each)
        self.list_shape = shape_of(contract.ListThingsRequest, self.view.schema)

    def shard(self, partition: int, things: dict[str, int]) -> Shard:
        """Serving, with these keys. Made on a loop."""
        rows = ShardRows("thing", 1, UUID(int=0), partition)
        shard = Shard(self.view, Partition("things", partition), rows, epoch=1)
        shard.entries = {key.encode(): Entry(self.contract.Thing(at=at), NOTHING) for key, at in things.items()}
        shard.begin(0)
        shard.folded(Fetched(shard.partition, [], 0, 0, 0), 0, [])
        return shard


def world() -> World:
    return World(compile_proto(PROTO))
