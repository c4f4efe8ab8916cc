"""Kafka Streams, built by Maven into the cache folder."""

from __future__ import annotations

import uuid
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.processes import Child
from bench.rig import Filled, Rig
from stack import tools
from stack.tools import _JDK, _OUT, _resolve, _Tool

_CLASSES = ("Arm", "Backlog", "Event", "Fold", "Motion", "Span", "Totals", "Verdict")
_SOURCES = ("pom.xml", *(f"src/main/java/bench/{name}.java" for name in _CLASSES))
_FOLDER = "../bench/peers/kafka-streams"


@cache
def class_path() -> str:
    goals = ("compile", "dependency:copy-dependencies", "-DincludeScope=runtime")
    into = (f"-Dbench.out={_OUT}/target", f"-DoutputDirectory={_OUT}/jars")
    command = ("mvn", "-B", "-q", "-f", f"{_FOLDER}/pom.xml", *goals, *into)
    folder = _resolve(_Tool("bench-kafka-streams", tuple(f"{_FOLDER}/{source}" for source in _SOURCES), command, _JDK))
    return f"{folder}/target/classes:{folder}/jars/*"


def run(rig: Rig, program: str, filled: Filled) -> dict[str, Any]:
    """One run of `Fold` or `Motion` over the backlog, in a JVM of its own."""
    name = f"aorist-bench-{uuid.uuid4().hex[:8]}"
    with TemporaryDirectory(prefix="aorist-bench-") as folder:
        flags = ("-Xms256m", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", f"-Djava.io.tmpdir={folder}")
        arguments = (rig.kafka, filled.topic, str(filled.events), name, str(Path(folder, "state")))
        command = [str(tools.java()), *flags, "-cp", class_path(), f"bench.{program}", *arguments]
        with Child(command, rig.cores.server) as child:
            result = child.result(150)
        rig.forget_application(name)
    return result
