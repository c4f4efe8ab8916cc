"""Logs: one JSON object per line where nobody looks, a readable line where somebody does, libraries included."""

from __future__ import annotations

import json
import logging
import re

import pytest
import structlog

from aorist.logs import set_up_logging


def test_json_lines_of_our_own_and_of_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", "auto")
    structlog.get_logger("aorist.x").info("owned", shard="v/0", epoch=3)
    logging.getLogger("grpc").warning("lost %s", "h:1")
    logging.getLogger("asyncio").debug("not said")
    out, err = capsys.readouterr()
    own, library = map(json.loads, err.splitlines())
    assert out == ""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", own.pop("timestamp"))
    assert own == {"event": "owned", "shard": "v/0", "epoch": 3, "level": "info", "logger": "aorist.x"}
    assert (library["event"], library["level"], library["logger"]) == ("lost h:1", "warning", "grpc")


def test_errors_carry_their_traceback_in_the_same_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", "json")
    try:
        {"a": 1}["no floor"]
    except KeyError:
        structlog.get_logger().exception("fell")
    (line,) = capsys.readouterr().err.splitlines()
    assert "KeyError: 'no floor'" in json.loads(line)["exception"]


def test_the_human_form_and_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("warning", "human")
    structlog.get_logger("x").info("not said")
    structlog.get_logger("x").warning("slow", lag_ms=5)
    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line
    assert re.search(r"\[warning +\] slow .*lag_ms=5", line)


def test_the_last_call_counts(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("error", "json")
    early = structlog.get_logger("x")
    set_up_logging("debug", "json")
    early.debug("said")
    assert len(capsys.readouterr().err.splitlines()) == 1
