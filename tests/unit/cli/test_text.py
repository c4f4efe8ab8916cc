"""Messages of any type become readable lines and steady columns, and none of their values is lost or moved."""

from __future__ import annotations

import io
from typing import Any

import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from rich.console import Console

from aorist.cli.columns import MOST_INDEXES, columns_of, number, table_of
from aorist.cli.text import as_data, as_text
from aorist.v1 import position_pb2, read_pb2, status_pb2, worker_pb2
from fleet.arms.v1.queries_pb2 import ArmPosition, AxisReading, GetArmPositionResponse
from tests.unit.cli.double import arm, header


def lines(table: Any) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=500)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_fields_keep_the_order_of_the_contract_also_where_they_are_zero() -> None:
    data = as_data(GetArmPositionResponse(header=header(), arm=arm("r1", 0.0)))
    assert list(data) == ["header", "arm"]
    assert list(data["arm"]["axes"][0]) == ["axis", "position", "sampled_at_us"]
    assert list(data["header"]) == ["position", "lag_events", "lag_ms", "epoch", "role", "stale"]


def test_text_nests_by_indentation_and_quotes_what_could_be_misread() -> None:
    missing = read_pb2.MissingPartition(partition=3, reason="NO_OWNER", message='nobody: "x"')
    page = worker_pb2.Page(entries=[worker_pb2.Entry(key=b"k")], header=header(), last_key=b"\xff")
    assert as_text(missing).splitlines() == ["partition: 3", "reason: NO_OWNER", 'message: "nobody: \\"x\\""']
    assert as_text(page, leave_out=["more"]).splitlines() == [
        "entries:",
        '- {key: "aw==", item: ""}',
        "header:",
        "  position: {topic: fleet.arms.v1, partition: 0, offset: 41}",
        "  lag_events: 2",
        "  lag_ms: 7",
        "  epoch: 5",
        "  role: ROLE_OWNER",
        "  stale: false",
        'last_key: "/w=="',
    ]


def test_elements_that_nest_are_told_apart() -> None:
    options = read_pb2.ReadOptions(at_least=[position_pb2.Position(topic="t")])
    asked = worker_pb2.AskRequest(questions=[worker_pb2.Question(view="v", read=options)])
    text = as_text(asked).splitlines()
    assert text[:2] == ["questions:", "- view: v"]
    assert "    - {topic: t, partition: 0, offset: 0}" in text


def test_numbered_elements_become_one_column_per_number() -> None:
    rows: dict[tuple[str, ...], Message] = {("r2",): arm("r2", 0.5), ("r1",): arm("r1", 0.0, -1.25, 1e-7)}
    assert lines(table_of(rows, ["arm_id"], [])) == [
        ["arm_id", "axis", "0", "axis", "1", "axis", "2"],
        ["r1", "0.0000", "-1.2500", "1e-07"],
        ["r2", "0.5000"],
    ]


def test_an_axis_that_one_row_lacks_leaves_its_cell_empty() -> None:
    gap = ArmPosition(axes=[AxisReading(axis=7, position=1)])
    columns = columns_of([arm("r1", 0.5), gap], ["arm_id"])
    assert [(c.title, c.read(gap), c.numeric) for c in columns] == [("axis 0", "", True), ("axis 7", "1.0000", True)]


def test_too_many_numbers_are_no_index() -> None:
    many = ArmPosition(axes=[AxisReading(axis=i) for i in range(MOST_INDEXES + 1)])
    (column,) = columns_of([many], ["arm_id"])
    assert column.title == "axes"
    assert column.read(many).startswith("[{axis: 0, position: 0.0, sampled_at_us: 0}")


def test_every_other_kind_of_field_has_a_cell() -> None:
    shard = status_pb2.ShardStatus(view="v", role=read_pb2.ROLE_STANDBY, offset=-1)
    cells = {c.title: c.read(shard) for c in columns_of([shard], [])}
    assert (cells["view"], cells["role"], cells["offset"], cells["member"]) == ("v", "ROLE_STANDBY", "-1", "")

    options = read_pb2.ReadOptions(max_wait_ms=0, at_least=[position_pb2.Position(topic="t", offset=3)])
    cells = {c.title: c.read(options) for c in columns_of([options], [])}
    assert (cells["max_wait_ms"], cells["max_staleness_ms"]) == ("0", "")
    assert cells["at_least"] == "[{topic: t, partition: 0, offset: 3}]"

    bad = error_details_pb2.BadRequest(field_violations=[{"field": "a"}])
    cells = {c.title: c.read(bad) for c in columns_of([bad], [])}
    assert cells["field_violations"].startswith("[{field: a, ")
    assert {c.title: c.read(worker_pb2.Entry(key=b"\x01")) for c in columns_of([worker_pb2.Entry()], [])}["key"] == "01"
    held = read_pb2.ReadHeader(position=position_pb2.Position(topic="t"))
    assert {c.title: c.read(held) for c in columns_of([held], [])}["position"] == "{topic: t, partition: 0, offset: 0}"


def test_no_rows_still_show_what_the_key_is() -> None:
    assert lines(table_of({}, ["site", "group"], [])) == [["site", "group"]]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.0000"), (-3.14159, "-3.1416"), (1e-5, "1e-05"), (2e12, "2e+12"), (float("nan"), "nan")]
)
def test_numbers_keep_their_width_while_that_says_something(value: float, text: str) -> None:
    assert number(value) == text
