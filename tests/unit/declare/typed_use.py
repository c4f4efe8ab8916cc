"""The public face of `declare` is typed. Not run: `make type` checks that each line has this type, and that each ignored error is one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_type

from aorist.declare import Codec, Commands, Project, Queries, View, check_fold, find_root, given, load_project
from aorist.declare.check_fold import Checked
from aorist.declare.given import Asked, Given
from fleet.arms.v1.commands_pb2 import JointSample
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from fleet.arms.v1.queries_pb2 import (
    ArmPosition,
    GetArmPositionRequest,
    GetArmPositionResponse,
    ListArmPositionsRequest,
)


@dataclass(slots=True)
class Arm:
    axes: int = 0


def pack(arm: Arm) -> ArmPosition:
    return ArmPosition()


def unpack(message: ArmPosition) -> Arm:
    return Arm()


codec = Codec.through(ArmPosition, pack, unpack)
assert_type(codec, Codec[Arm])
assert_type(codec.encode(Arm()), bytes)
assert_type(codec.decode(b""), Arm)
Codec.through(GetArmPositionRequest, pack, unpack)  # type: ignore[arg-type]

view = View("arms", events=ArmEvent, state=Arm, codec=codec, ignores=[JointPositionsChanged], build=2)
assert_type(view, View[Arm])
assert_type(View("arms", events=ArmEvent, state=ArmPosition), View[ArmPosition])
View("arms", events=int, state=Arm)  # type: ignore[arg-type]
View("arms", events=ArmEvent, state=ArmPosition, codec=codec)  # type: ignore[misc]
View("arms", events=ArmEvent, state=Arm, ignores=JointPositionsChanged)  # type: ignore[arg-type]
View("arms", ArmEvent, Arm)  # type: ignore[call-arg]


@view.apply
def moved(arm: Arm, event: JointPositionsChanged) -> None: ...


@view.get
def get(arm: Arm, ask: GetArmPositionRequest) -> GetArmPositionResponse:
    return GetArmPositionResponse()


@view.list
def each(arm: Arm, ask: ListArmPositionsRequest) -> ArmPosition | None:
    return None


handler: Callable[[Arm, JointPositionsChanged], None] = moved
assert_type(get(Arm(), GetArmPositionRequest()), GetArmPositionResponse)
assert_type(each(Arm(), ListArmPositionsRequest()), ArmPosition | None)
moved(ArmPosition(), JointPositionsChanged())  # type: ignore[arg-type]

commands = Commands("fleet.arms.v1.ArmCommandService", publishes=ArmEvent)
Commands("fleet.arms.v1.ArmCommandService", publishes="ArmEvent")  # type: ignore[arg-type]


@commands.stream
def changed(sample: JointSample) -> JointPositionsChanged:
    return JointPositionsChanged()


assert_type(changed(JointSample()), JointPositionsChanged)


@commands.command  # type: ignore[type-var]
def nothing(ask: JointSample) -> int:
    return 0


queries = Queries("fleet.arms.v1.ArmQueryService", events=ArmEvent)
queries.merge_by_key(ListArmPositionsRequest)
queries.merge_by_key("ListArmPositionsRequest")  # type: ignore[arg-type]

assert_type(given(view, [JointPositionsChanged()]), Given)
assert_type(given(view).ask(GetArmPositionRequest()), Asked)
given(view, [1])  # type: ignore[list-item]
given(view).ask("arm")  # type: ignore[arg-type]
given(view).ask(GetArmPositionRequest()).then(None)  # type: ignore[arg-type]

assert_type(check_fold(view, examples=5), Checked)
check_fold("view")  # type: ignore[arg-type]

project = load_project(Path())
assert_type(project, Project)
assert_type(project.views, dict[str, View[Any]])
assert_type(find_root(Path()), Path | None)
