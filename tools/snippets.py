"""Code in documents is a region of a tested file: nothing is shown that does not run.

    python -m tools.snippets check [FILE...]    fails where a document differs from its sources
    python -m tools.snippets write [FILE...]    brings documents up to date

In a document stands `<!-- snippet: path#region -->`, the path from the root of the repository, and right after it a fenced block.
In the source the region stands between `# region NAME` and `# endregion`, or the same after `//`. Without files: README.md and docs/.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]

_SNIPPET = re.compile(
    r"^<!-- snippet: (?P<path>[^#\s]+)#(?P<region>\S+) -->\n(?P<open>```\w*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_ANNOUNCED = re.compile(r"^<!-- snippet:.*$", re.MULTILINE)
_MARK = re.compile(r"^\s*(?:#|//) (?:region (?P<name>\S+)|endregion)\s*$")


class SnippetError(Exception):
    """A document or a source is not as it should be. Names the file."""


def region(source: Path, name: str) -> str:
    """The lines of a region, without those that mark regions, and without what all are indented by. Raises SnippetError."""
    try:
        lines = source.read_text().splitlines()
    except OSError as error:
        raise SnippetError(f"{source}: cannot be read: {error.strerror}") from None
    marks = [_MARK.match(line) for line in lines]
    starts = [number for number, mark in enumerate(marks) if mark is not None and mark["name"] == name]
    if len(starts) != 1:
        raise SnippetError(
            f"{source}: has {len(starts)} regions `{name}`: mark one with `region {name}` and `endregion`"
        )
    depth, found = 1, list[str]()
    for line, mark in list(zip(lines, marks, strict=True))[starts[0] + 1 :]:
        if mark is None:
            found.append(line)
            continue
        depth += 1 if mark["name"] else -1
        if depth == 0:
            return dedent("\n".join(found)).strip("\n") + "\n"
    raise SnippetError(f"{source}: region `{name}` does not end: add `endregion`")


def updated(document: Path, root: Path = ROOT) -> str:
    """The text of a document with every snippet as its source has it. Raises SnippetError."""
    text = document.read_text()
    snippets = list(_SNIPPET.finditer(text))
    starts = {match.start() for match in snippets}
    for announced in _ANNOUNCED.finditer(text):
        if announced.start() not in starts:
            raise SnippetError(
                f"{document}: `{announced[0]}`: write it as path#region, with a fenced block right after it"
            )

    def fill(match: re.Match[str]) -> str:
        try:
            body = region(root / match["path"], match["region"])
        except SnippetError as error:
            raise SnippetError(f"{document}: {error}") from None
        return f"<!-- snippet: {match['path']}#{match['region']} -->\n{match['open']}\n{body}```"

    return _SNIPPET.sub(fill, text)


def documents(root: Path = ROOT) -> list[Path]:
    """Those that are checked when none is named."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 where all is well."""
    if not arguments or arguments[0] not in ("check", "write"):
        print(__doc__, file=sys.stderr)
        return 2
    code = 0
    for document in [Path(name) for name in arguments[1:]] or documents():
        try:
            text = updated(document)
        except SnippetError as error:
            print(error, file=sys.stderr)
            code = 1
            continue
        if text == document.read_text():
            continue
        if arguments[0] == "write":
            document.write_text(text)
            print(f"{document}: brought up to date")
        else:
            print(f"{document}: differs from its sources: run `python -m tools.snippets write`", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
