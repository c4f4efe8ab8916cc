"""A project that is wrong is refused at import, with a sentence that names the file (or proto) and function and says what to do."""

from __future__ import annotations

import pytest

from aorist.errors import MisdeclaredError
from tests.unit.declare.things import COMMANDS_FILE, QUERIES_FILE, VIEW_FILE, Things, Wrong

MOVED = "def moved(state: Thing, event: Moved) -> None:\n    state.at = event.to"
GET = "def get(state: Thing, ask: GetThingRequest) -> GetThingResponse:"
EACH = "def each(state: Thing, ask: ListThingsRequest) -> Thing | None:"
KEY = 'key: "id" retention_ms: 1000'
TOPIC = 'option (aorist.v1.topic) = { name: "things" partitions: 4 key: "id" retention_ms: 1000 };'
ENVELOPE = ".ThingEvent: "

CONTRACT = {
    "not an envelope": Wrong((ENVELOPE, "is not an envelope: give it `option (aorist.v1.topic)"), proto={TOPIC: ""}),
    "topic without name": Wrong((ENVELOPE, "its topic has no name: set `name`"), proto={'name: "things"': ""}),
    "no partitions": Wrong((ENVELOPE, "has no partitions: set `partitions`"), proto={"partitions: 4": ""}),
    "no key": Wrong((ENVELOPE, "its topic has no key: set `key`"), proto={'key: "id"': ""}),
    "forgets nothing": Wrong((ENVELOPE, "set `retention_ms` or `compacted`"), proto={"retention_ms: 1000": ""}),
    "key not in an event": Wrong(
        (".Stopped has no field `id`, which is the key of topic things: add it",),
        proto={"message Stopped { string id = 1; }": "message Stopped { string name = 1; }"},
    ),
    "key of many": Wrong(
        (".Stopped: field `id` is the key of topic things and must be a single string or whole number",),
        proto={"message Stopped { string id = 1; }": "message Stopped { repeated string id = 1; }"},
    ),
    "key that is no text or whole number": Wrong(
        (".Stopped: field `id` is the key of topic things and must be a single string or whole number",),
        proto={"message Stopped { string id = 1; }": "message Stopped { double id = 1; }"},
    ),
    "key of two kinds": Wrong(
        (".Stopped: field `id` is the key of topic things: give it the type that it has in Moved",),
        proto={"message Stopped { string id = 1; }": "message Stopped { int64 id = 1; }"},
    ),
    "partition_by outside the key": Wrong(
        (ENVELOPE, "partition_by names `to`, which is not in the key", "add it to `key`"),
        proto={KEY: KEY + ' partition_by: "to"'},
    ),
    "no meta": Wrong(
        (ENVELOPE, "has no `aorist.v1.EventMeta meta`: add it"), proto={"aorist.v1.EventMeta meta = 1;": ""}
    ),
    "meta of another type": Wrong(
        (ENVELOPE, "has no `aorist.v1.EventMeta meta`: add it"), proto={"aorist.v1.EventMeta meta": "string meta"}
    ),
    "no oneof": Wrong((ENVELOPE, "has no `oneof event`: put the events"), proto={"oneof event": "oneof fact"}),
    "event that is no message": Wrong(
        (ENVELOPE, "`stopped` in `oneof event` is not a message: an event is one"),
        proto={"Stopped stopped = 3;": "string stopped = 3;"},
    ),
    "one type twice": Wrong(
        (ENVELOPE, "two fields of `oneof event` have the same type: give every event a message of its own"),
        proto={"Stopped stopped = 3;": "Moved stopped = 3;"},
    ),
    "command streamed one way": Wrong(
        (".ThingCommands.Move: a command is unary, or a stream both ways",),
        proto={"returns (MoveResponse)": "returns (stream MoveResponse)"},
    ),
    "answer without position": Wrong(
        (".ThingCommands.Move: MoveResponse needs one aorist.v1.Position",),
        proto={"MoveResponse { aorist.v1.Position position = 1; }": "MoveResponse {}"},
    ),
    "acknowledgement without positions": Wrong(
        (".ThingCommands.StreamSteps: StreamStepsResponse needs one repeated aorist.v1.Position",),
        proto={"repeated aorist.v1.Position positions = 2;": "aorist.v1.Position positions = 2;"},
    ),
    "batch without sequence": Wrong(
        (".StreamSteps: StreamStepsRequest needs `uint64 sequence` and one repeated message field",),
        proto={"StreamStepsRequest { uint64 sequence = 1;": "StreamStepsRequest {"},
    ),
    "batch of two kinds": Wrong(
        (".StreamSteps: StreamStepsRequest needs `uint64 sequence` and one repeated message field",),
        proto={"repeated Step steps = 2;": "repeated Step steps = 2; repeated Moved moved = 3;"},
    ),
    "acknowledgement that acknowledges nothing": Wrong(
        (".StreamSteps: StreamStepsResponse needs `uint64 acknowledged_sequence` and one repeated message",),
        proto={"uint64 acknowledged_sequence = 1;": ""},
    ),
    "refusal that names no sample": Wrong(
        ("with `sequence`, `index` and `google.rpc.BadRequest violations`",), proto={"uint32 index = 2;": ""}
    ),
    "query of no view": Wrong(
        (".ThingQueries.GetThing: does not say which view answers: add `option (aorist.v1.answered_by) =",),
        proto={'(GetThingResponse) { option (aorist.v1.answered_by) = "thing"; }': "(GetThingResponse);"},
    ),
    "query of another view": Wrong(
        (VIEW_FILE, " get: ", "GetThing: is answered by view `it`, not `thing`: correct (aorist.v1.answered_by)"),
        proto={
            '(GetThingResponse) { option (aorist.v1.answered_by) = "thing"; }': "(GetThingResponse) "
            '{ option (aorist.v1.answered_by) = "it"; }'
        },
    ),
    "query that asks in a stream": Wrong(
        ("GetThing: a query is one request: remove `stream` before GetThingRequest",),
        proto={"GetThing(GetThingRequest)": "GetThing(stream GetThingRequest)"},
    ),
    "query without read options": Wrong(
        ("GetThing: GetThingRequest needs one field of type aorist.v1.ReadOptions",),
        proto={
            "GetThingRequest { string id = 1 [(aorist.v1.route) = true]; aorist.v1.ReadOptions read = 2; }": (
                "GetThingRequest { string id = 1 [(aorist.v1.route) = true]; }"
            )
        },
    ),
    "answer without header": Wrong(
        ("GetThing: GetThingResponse needs one field of type aorist.v1.ReadHeader",),
        proto={"GetThingResponse { aorist.v1.ReadHeader header = 1;": "GetThingResponse {"},
    ),
    "route that is not the key": Wrong(
        ("must mark exactly the key of topic things (id) with [(aorist.v1.route) = true]; it marks nothing",),
        proto={"GetThingRequest { string id = 1 [(aorist.v1.route) = true];": "GetThingRequest { string id = 1;"},
    ),
    "route of another type": Wrong(
        (".GetThingRequest: field `id` is the key of topic things: give it the type that it has in Moved",),
        proto={"GetThingRequest { string id": "GetThingRequest { int64 id"},
    ),
    "list in a stream": Wrong(
        ("ListThings: a list is unary and its request has `page_size` and `page_token`",),
        proto={"returns (ListThingsResponse)": "returns (stream ListThingsResponse)"},
    ),
    "list without page size": Wrong(
        ("ListThings: a list is unary and its request has `page_size` and `page_token`",),
        proto={"uint32 page_size = 1; ": ""},
    ),
    "page without next": Wrong(
        ("ListThingsResponse needs `string next_page_token`, one `repeated aorist.v1.ReadHeader` and one",),
        proto={"string next_page_token = 2;": ""},
    ),
    "list that cannot say what is missing": Wrong(
        ("one `repeated aorist.v1.ReadHeader` and one `repeated aorist.v1.MissingPartition`",),
        proto={"repeated aorist.v1.MissingPartition missing = 4;": ""},
    ),
    "list of nothing": Wrong(
        ("ListThingsResponse needs one repeated message field for its items, it has 0",),
        proto={"repeated Thing things = 1;": ""},
    ),
    "list of two kinds": Wrong(
        ("ListThingsResponse needs one repeated message field for its items, it has 2",),
        proto={"repeated Thing things = 1;": "repeated Thing things = 1; repeated Other others = 9;"},
    ),
    "key in an answer that does not exist": Wrong(
        ("Thing.at is marked (aorist.v1.key), but the key of topic things is id: rename or unmark it",),
        proto={"int64 at = 2; }": "int64 at = 2 [(aorist.v1.key) = true]; }"},
    ),
    "key in an answer of another type": Wrong(
        (".Thing: field `id` is the key of topic things: give it the type that it has in Moved",),
        proto={"Thing { string id": "Thing { int64 id"},
    ),
}

VIEW = {
    "name": Wrong(("view `a thing`: its name must be made of letters",), view={'View("thing"': 'View("a thing"'}),
    "build": Wrong(("build is 0; builds count from 1",), view={"ignores=[Stopped]": "ignores=[Stopped], build=0"}),
    "seed of no older build": Wrong(
        ("seeded_from names build 2, which is not an older one than 2",),
        view={
            "thing = View(": "def before(old: bytes) -> Thing:\n    return Thing()\n\nthing = View(",
            "ignores=[Stopped]": "ignores=[Stopped], build=2, seeded_from=Seed(2, before)",
        },
    ),
    "seed of another state": Wrong(
        ("seeded_from: before must make its state of bytes: def before(old: bytes) -> Thing",),
        view={
            "thing = View(": "def before(old: bytes) -> bytes:\n    return old\n\nthing = View(",
            "ignores=[Stopped]": "ignores=[Stopped], build=2, seeded_from=Seed(1, before)",
        },
    ),
    "state that cannot be serialised": Wrong(
        ("its state is not a protobuf message: give it `codec=Codec(encode, decode)`",),
        view={"state=Thing,": "state=dict,"},
    ),
    "state without slots": Wrong(
        ("Box has no slots: write @dataclass(slots=True)",),
        view={
            "thing = View(": "@dataclass\nclass Box:\n    at: int = 0\n\nbytes_of = Codec(lambda s: b'', lambda d: Box())\n\nthing = View(",
            "state=Thing,": "state=Box, codec=bytes_of,",
        },
    ),
    "state that needs arguments": Wrong(
        ("Box() cannot be made without arguments", "give its fields defaults"),
        view={
            "thing = View(": "@dataclass(slots=True)\nclass Box:\n    at: int\n\nbytes_of = Codec(lambda s: b'', lambda d: Box(0))\n\n"
            "thing = View(",
            "state=Thing,": "state=Box, codec=bytes_of,",
        },
    ),
    "codec that loses": Wrong(
        ("decode(encode(...)) of a new Thing is not equal to it: correct its codec",),
        view={"state=Thing,": "state=Thing, codec=Codec(lambda s: b'', lambda d: Thing(at=1)),"},
    ),
    "event without handler": Wrong(
        ("Stopped has no handler: add `@thing.apply` for it, or name it in `ignores`",),
        view={", ignores=[Stopped]": ""},
    ),
    "ignores a stranger": Wrong(
        ("ignores: Thing is not an event of ThingEvent (it has: Moved, Stopped)",), view={"[Stopped]": "[Thing]"}
    ),
    "query nobody answers": Wrong(
        ("nothing answers ", ".ThingQueries.GetThing: add a handler that takes GetThingRequest"),
        view={f"@thing.get\n{GET}": GET},
    ),
}

HANDLER = {
    "two handlers of one event": Wrong(
        (" again: Moved already has a handler, ", " moved: remove one of them"),
        view={"@thing.get": "@thing.apply\ndef again(state: Thing, event: Moved) -> None: ...\n\n@thing.get"},
    ),
    "handled and ignored": Wrong(
        (" moved: Moved is also in `ignores`: remove it there, or remove this handler",),
        view={"ignores=[Stopped]": "ignores=[Stopped, Moved]"},
    ),
    "not an event": Wrong(
        (" moved: Thing is not an event of ThingEvent (it has: Moved, Stopped)",),
        view={"event: Moved": "event: Thing"},
    ),
    "event that is no message": Wrong(
        (" moved: its event must be a protobuf message, not int",), view={"event: Moved": "event: int"}
    ),
    "another state": Wrong(
        (" moved: its first parameter must be the state of view `thing`, Thing, not Other",),
        view={"def moved(state: Thing": "def moved(state: Other"},
    ),
    "apply that returns": Wrong(
        (" moved: must return None: apply changes the state it is given",),
        view={"event: Moved) -> None": "event: Moved) -> Thing"},
    ),
    "generator": Wrong(
        (" moved: is a generator, which may be left half-run: return a value or a list",),
        view={"state.at = event.to": "yield"},
    ),
    "async": Wrong(
        (" moved: must be a plain function: def moved(state, event); handlers do no I/O",),
        view={"def moved": "async def moved"},
    ),
    "parameters": Wrong(
        (" moved: must take exactly 2 parameters: def moved(state, event)",), view={"def moved(": "def moved(self, "}
    ),
    "defaults by keyword": Wrong(
        (" moved: must take exactly 2 parameters: def moved(state, event)",),
        view={"def moved(state: Thing, ": "def moved(state: Thing, *, "},
    ),
    "unknown annotation": Wrong(
        (" moved: an annotation cannot be resolved", "import the type at the top of the file"),
        view={"event: Moved": "event: 'Mowed'"},
    ),
    "unknown annotation in a module": Wrong(
        (" moved: an annotation cannot be resolved", "import the type at the top of the file"),
        view={
            "from CONTRACT import *": "import CONTRACT\nfrom CONTRACT import *",
            "event: Moved": "event: 'CONTRACT.Mowed'",
        },
    ),
    "no annotation": Wrong(
        (" moved: parameter `event` has no annotation: types are how handlers are found",),
        view={"event: Moved": "event"},
    ),
    "no annotated result": Wrong(
        (" moved: has no annotation of its result: write `-> ...`",), view={"event: Moved) -> None:": "event: Moved):"}
    ),
    "query no service has": Wrong(
        (" get: no service in ", " takes Other: add an rpc for it"), view={"ask: GetThingRequest": "ask: Other"}
    ),
    "watch as get": Wrong(
        (" watch: ", ".WatchThing is a watch: use `@thing.watch`"), view={"@thing.watch": "@thing.get"}
    ),
    "get as list": Wrong((" get: ", ".GetThing is a get: use `@thing.get`"), view={"@thing.get": "@thing.list"}),
    "another answer": Wrong(
        (" get: must return GetThingResponse, as ", ".GetThing does, not Thing"),
        view={"-> GetThingResponse": "-> Thing"},
    ),
    "another item": Wrong(
        (" each: must return Thing, as ", ".ListThings does, not Other"), view={"-> Thing | None": "-> Other | None"}
    ),
    "answer that is no message": Wrong(
        (" get: its result must be a protobuf message, not str",), view={"-> GetThingResponse": "-> str"}
    ),
    "two answers to one query": Wrong(
        (" again: GetThingRequest already has a handler, ", " get: remove one of them"),
        view={"@thing.list": f"@thing.get\n{GET.replace('def get', 'def again')} ...\n\n@thing.list"},
    ),
}

OTHER_KEYS = {
    "global dict": ("seen = {}", "seen[event.id] = state", " moved: uses `seen`, a dict outside its state"),
    "global deque": ("from collections import deque\nlast = deque()", "last.append(event)", "uses `last`, a deque"),
    "global message": ("total = Thing()", "total.at += 1", "uses `total`, a Thing outside its state"),
    "global object": (
        "@dataclass\nclass Total:\n    n: int = 0\n\ntotal = Total()",
        "total.n += 1",
        "uses `total`, a Total outside its state",
    ),
    "global number": ("count = 0", "global count\n    count += 1", "changes `count` outside its state"),
    "in a comprehension": ("seen = []", "[seen.append(event) for _ in 'a']", "uses `seen`, a list outside its state"),
    "in a lambda": ("seen = set()", "(lambda: seen.add(event.id))()", "uses `seen`, a set outside its state"),
    "in a function of the file": (
        "seen = {}\ndef remember(event):\n    seen[event.id] = event",
        "remember(event)",
        "uses `seen`, a dict outside its state",
    ),
}

COMMANDS = {
    "no such service": Wrong(
        (".ThingOrders: no such service: correct the name, or import the module generated from its proto file",),
        commands={".ThingCommands": ".ThingOrders"},
    ),
    "command without handler": Wrong(
        ("nothing handles Move: add a handler that takes MoveRequest, with `.command`",),
        commands={"@things.command\n": ""},
    ),
    "stream without handler": Wrong(
        ("nothing handles StreamSteps: add a handler that takes Step, with `.stream`",),
        commands={"@things.stream\n": ""},
    ),
    "not its event": Wrong(
        (" move: returns Thing, which is not an event of ThingEvent (it has: Moved, Stopped)",),
        commands={"ask: MoveRequest) -> Moved": "ask: MoveRequest) -> Thing"},
    ),
    "no rpc for it": Wrong(
        (" move: ", ".ThingCommands has no unary rpc that takes Thing: add the rpc, or correct the annotation"),
        commands={"ask: MoveRequest": "ask: Thing"},
    ),
    "stream as command": Wrong(
        (" stepped: ", ".ThingCommands has no unary rpc that takes Step: add the rpc"),
        commands={"@things.stream": "@things.command"},
    ),
    "command as stream": Wrong(
        (" move: ", ".ThingCommands has no stream of batches of MoveRequest: add the rpc"),
        commands={"@things.command": "@things.stream"},
    ),
    "two handlers of one command": Wrong(
        (" again: Move already has a handler, ", " move: remove one of them"),
        commands={"@things.stream": "@things.command\ndef again(ask: MoveRequest) -> Moved: ...\n\n@things.stream"},
    ),
}

QUERIES = {
    "no such service": Wrong(
        (".ThingQuestions: no such service: correct the name",), queries={".ThingQueries": ".ThingQuestions"}
    ),
    "list that nobody merges": Wrong(
        ("nothing says how ListThings merges the partitions' answers: add `.merge_by_key(ListThingsRequest)`",),
        queries={"things.merge_by_key(ListThingsRequest)": ""},
    ),
    "merges what is no list": Wrong(
        ("GetThingRequest asks for no list of ", ".ThingQueries: merge what its lists take"),
        queries={"merge_by_key(ListThingsRequest)": "merge_by_key(GetThingRequest)"},
    ),
}


def _named(cases: dict[str, Wrong]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("wrong", cases.values(), ids=list(cases))


def _check(sentence: str, wrong: Wrong, *places: str) -> None:
    for part in (*places, *wrong.says):
        assert part in sentence


def test_the_project_is_right_before_it_is_changed(things: Things) -> None:
    things.write(Wrong(()))
    project = things.load()
    assert list(project.views) == ["thing"]
    assert [len(project.commands), len(project.queries)] == [1, 1]


@_named(CONTRACT)
def test_a_wrong_contract_is_refused_by_the_name_of_its_proto_file(things: Things, wrong: Wrong) -> None:
    things.write(wrong)
    _check(things.refusal(MisdeclaredError), wrong, f"{things.contract.package}.proto: ")


@_named(VIEW)
def test_a_wrong_view_is_refused_where_it_is_declared(things: Things, wrong: Wrong) -> None:
    things.write(wrong)
    sentence = things.refusal(MisdeclaredError)
    _check(sentence, wrong, f"{VIEW_FILE}:", "view `")
    line = int(sentence.partition(f"{VIEW_FILE}:")[2].partition(":")[0])
    text = (things.root / things.roles["materializers"] / VIEW_FILE).read_text()
    assert text.splitlines()[line - 1].startswith("thing = View(")


@_named(HANDLER)
def test_a_wrong_handler_is_refused_by_file_line_and_function(things: Things, wrong: Wrong) -> None:
    things.write(wrong)
    _check(things.refusal(MisdeclaredError), wrong, f"{VIEW_FILE}:")


@pytest.mark.parametrize(("outside", "body", "says"), OTHER_KEYS.values(), ids=list(OTHER_KEYS))
def test_an_apply_that_could_touch_another_key_is_refused(things: Things, outside: str, body: str, says: str) -> None:
    things.write(Wrong((), view={"@thing.apply": f"{outside}\n\n@thing.apply", "state.at = event.to": body}))
    sentence = things.refusal(MisdeclaredError)
    for part in (f"{VIEW_FILE}:", " moved: ", says, "apply may touch the state of the event's own key only"):
        assert part in sentence


def test_an_apply_that_captures_what_can_change_is_refused(things: Things) -> None:
    factory = """def make():
    seen = []
    def moved(state: Thing, event: Moved) -> None:
        seen.append(event)
    return moved

thing.apply(make())
"""
    things.write(Wrong((), view={f"@thing.apply\n{MOVED}": factory}))
    assert " moved: uses `seen`, a list outside its state" in things.refusal(MisdeclaredError)


@pytest.mark.parametrize(
    ("outside", "body"),
    [
        ("STEP = 2\nNAMES = ('a', 'b')", "state.at = event.to * STEP + len(NAMES)"),
        ("", "scale = event.to\n    state.at = sum(scale for _ in range(3))"),
        ("", "count = 0\n    def add():\n        nonlocal count\n        count += 1\n    add()\n    state.at = count"),
        ("def double(n):\n    return n * 2", "state.at = double(event.to)"),
        ("def down(n):\n    return down(n - 1) if n else 0", "state.at = down(event.to)"),
    ],
    ids=["constants", "locals in a comprehension", "locals of a nested function", "a pure function", "recursion"],
)
def test_an_apply_may_use_what_cannot_change(things: Things, outside: str, body: str) -> None:
    things.write(Wrong((), view={"@thing.apply": f"{outside}\n\n@thing.apply", "state.at = event.to": body}))
    assert "thing" in things.load().views


def test_a_method_is_no_handler(things: Things) -> None:
    method = "class Fold:\n    def moved(self, event): ...\n\nthing.apply(Fold().moved)"
    things.write(Wrong((), view={f"@thing.apply\n{MOVED}": method}))
    sentence = things.refusal(MisdeclaredError)
    assert f"{VIEW_FILE}:" in sentence
    assert " moved: must be a plain function: def moved(state, event); handlers do no I/O" in sentence


@_named(COMMANDS)
def test_wrong_commands_are_refused(things: Things, wrong: Wrong) -> None:
    things.write(wrong)
    _check(things.refusal(MisdeclaredError), wrong, f"{COMMANDS_FILE}:")


@_named(QUERIES)
def test_wrong_queries_are_refused(things: Things, wrong: Wrong) -> None:
    things.write(wrong)
    _check(things.refusal(MisdeclaredError), wrong, f"{QUERIES_FILE}:")
