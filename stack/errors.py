"""What goes wrong outside this package: a tool that cannot be built, a server that does not answer."""

from pathlib import Path

_TAIL_BYTES = 64 * 1024


class StackError(Exception):
    """Says what failed, what the machine needs, and ends with the last lines the failing program wrote."""


def tail(text: str, lines: int = 25) -> str:
    return "\n".join(text.rstrip().splitlines()[-lines:]) or "(it wrote nothing)"


def tail_of(log: Path, lines: int = 25) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            return tail(file.read().decode(errors="replace"), lines)
    except OSError as error:
        return f"(no log: {error})"
