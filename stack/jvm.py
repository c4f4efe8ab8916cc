"""What the two JVM servers share on their command line."""

from collections.abc import Sequence
from pathlib import Path

from stack import tools

QUICK: Sequence[str] = ("-XX:TieredStopAtLevel=1",)
"""For servers that live for minutes: a third less processor time at start, and less while the code is new. In the long run it is slower."""


def java(folder: Path, heap_mb: int, *flags: str) -> list[str]:
    """Small and self-contained: what libraries unpack at run time goes into the server's folder, and leaves with it."""
    temp = folder / "tmp"
    temp.mkdir(exist_ok=True)
    return [
        str(tools.java()),
        f"-Xms{min(heap_mb, 256)}m",
        f"-Xmx{heap_mb}m",
        # The collectors for big heaps reserve memory and threads that two cores do not have.
        "-XX:+UseSerialGC",
        "-XX:-UsePerfData",  # else a killed JVM leaves its counters behind, outside its folder
        f"-Djava.io.tmpdir={temp}",
        f"-Djna.tmpdir={temp}",
        *flags,
    ]
