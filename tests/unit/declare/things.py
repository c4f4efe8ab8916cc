"""A small project that is right, to be made wrong in one place by a test."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest

from aorist.declare import Project, load_project
from aorist.errors import AoristError
from tests.unit.declare.contract import Contract, compile_proto

PROTO = """
message Moved { string id = 1; int64 to = 2; }
message Stopped { string id = 1; }
message ThingEvent {
  option (aorist.v1.topic) = { name: "things" partitions: 4 key: "id" retention_ms: 1000 };
  aorist.v1.EventMeta meta = 1;
  oneof event {
    Moved moved = 2;
    Stopped stopped = 3;
  }
}

message Thing { string id = 1 [(aorist.v1.key) = true]; int64 at = 2; }
message Other { string id = 1; }

message GetThingRequest { string id = 1 [(aorist.v1.route) = true]; aorist.v1.ReadOptions read = 2; }
message GetThingResponse { aorist.v1.ReadHeader header = 1; Thing thing = 2; }
message WatchThingRequest { string id = 1 [(aorist.v1.route) = true]; aorist.v1.ReadOptions read = 2; }
message WatchThingResponse { aorist.v1.ReadHeader header = 1; Thing thing = 2; }
message ListThingsRequest { uint32 page_size = 1; string page_token = 2; aorist.v1.ReadOptions read = 3; }
message ListThingsResponse {
  repeated Thing things = 1;
  string next_page_token = 2;
  repeated aorist.v1.ReadHeader headers = 3;
  repeated aorist.v1.MissingPartition missing = 4;
}
service ThingQueries {
  rpc GetThing(GetThingRequest) returns (GetThingResponse) { option (aorist.v1.answered_by) = "thing"; }
  rpc WatchThing(WatchThingRequest) returns (stream WatchThingResponse) { option (aorist.v1.answered_by) = "thing"; }
  rpc ListThings(ListThingsRequest) returns (ListThingsResponse) { option (aorist.v1.answered_by) = "thing"; }
}

message Step { string id = 1; int64 to = 2; }
message MoveRequest { Step step = 1; }
message MoveResponse { aorist.v1.Position position = 1; }
message StreamStepsRequest { uint64 sequence = 1; repeated Step steps = 2; }
message StreamStepsResponse {
  uint64 acknowledged_sequence = 1;
  repeated aorist.v1.Position positions = 2;
  repeated RefusedStep refused = 3;
}
message RefusedStep { uint64 sequence = 1; uint32 index = 2; google.rpc.BadRequest violations = 3; }
service ThingCommands {
  rpc Move(MoveRequest) returns (MoveResponse);
  rpc StreamSteps(stream StreamStepsRequest) returns (stream StreamStepsResponse);
}
"""

VIEW = """
from dataclasses import dataclass
from aorist.declare import Codec, Seed, View
from CONTRACT import *

thing = View("thing", events=ThingEvent, state=Thing, ignores=[Stopped])

@thing.apply
def moved(state: Thing, event: Moved) -> None:
    state.at = event.to

@thing.get
def get(state: Thing, ask: GetThingRequest) -> GetThingResponse:
    return GetThingResponse(thing=state)

@thing.watch
def watch(state: Thing, ask: WatchThingRequest) -> WatchThingResponse:
    return WatchThingResponse(thing=state)

@thing.list
def each(state: Thing, ask: ListThingsRequest) -> Thing | None:
    return state if state.at else None
"""

COMMANDS = """
from aorist.declare import Commands
from CONTRACT import *

things = Commands("CONTRACT.ThingCommands", publishes=ThingEvent)

@things.command
def move(ask: MoveRequest) -> Moved:
    return stepped(ask.step)

@things.stream
def stepped(sample: Step) -> Moved:
    return Moved(id=sample.id, to=sample.to)
"""

QUERIES = """
from aorist.declare import Queries
from CONTRACT import *

things = Queries("CONTRACT.ThingQueries", events=ThingEvent)

things.merge_by_key(ListThingsRequest)
"""

VIEW_FILE, COMMANDS_FILE, QUERIES_FILE = "thing_view.py", "thing_commands.py", "thing_queries.py"


@dataclass(frozen=True)
class Wrong:
    """One change to the right project and what its refusal says. `{old: new}`; each old text must be there."""

    says: tuple[str, ...]
    proto: dict[str, str] | None = None
    view: dict[str, str] | None = None
    commands: dict[str, str] | None = None
    queries: dict[str, str] | None = None


class Things:
    """The project on the disk, loaded as `aorist` loads it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._monkeypatch = folder, monkeypatch
        monkeypatch.syspath_prepend(str(folder))
        self.contract = Contract("", {})

    def write(self, wrong: Wrong) -> None:
        self.contract = compile_proto(_changed(PROTO, wrong.proto))
        self.roles = {
            role: f"{self.contract.package}_{role}" for role in ("materializers", "command_gateway", "query_gateway")
        }
        module = ModuleType(self.contract.package)
        vars(module).update(self.contract.classes)
        self._monkeypatch.setitem(sys.modules, module.__name__, module)
        self.add("materializers", VIEW_FILE, _changed(VIEW, wrong.view))
        self.add("command_gateway", COMMANDS_FILE, _changed(COMMANDS, wrong.commands))
        self.add("query_gateway", QUERIES_FILE, _changed(QUERIES, wrong.queries))
        self.config("[roles]\n" + "".join(f'{role} = "{folder}"\n' for role, folder in self.roles.items()))

    def add(self, role: str, name: str, text: str) -> Path:
        """A file in a role folder. CONTRACT in its text stands for the contract's package."""
        file = self.root / self.roles[role] / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(dedent(text).replace("CONTRACT", self.contract.package))
        return file

    def config(self, text: str) -> None:
        (self.root / "aorist.toml").write_text(text)

    def load(self) -> Project:
        return load_project(self.root)

    def refusal(self, kind: type[AoristError]) -> str:
        """The sentence with which it is refused."""
        with pytest.raises(kind) as refused:
            self.load()
        return str(refused.value)


def _changed(text: str, changes: dict[str, str] | None) -> str:
    for old, new in (changes or {}).items():
        assert old in text, f"a test changes what is not there: {old}"
        text = text.replace(old, new)
    return text
