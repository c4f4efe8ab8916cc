"""What documents show is what is tested, and the tool that says so notices every way in which it may not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.snippets import ROOT, SnippetError, documents, main, region, updated

SOURCE = """
import this
# region outer
class A:
    # region inner
    def f(self):
        return 1

    # endregion
# endregion
// region other
x
// endregion
"""

DOCUMENT = """
Text.

<!-- snippet: code.py#inner -->
```python
old
```

More `text`.

```sh
untouched
```
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "code.py").write_text(SOURCE)
    (tmp_path / "README.md").write_text(DOCUMENT)
    return tmp_path


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_show_what_their_sources_say(document: Path) -> None:
    assert document.read_text() == updated(document), "run `python -m tools.snippets write`"


def test_a_region_is_shown_without_marks_and_indentation(project: Path) -> None:
    assert region(project / "code.py", "inner") == "def f(self):\n    return 1\n"
    assert region(project / "code.py", "outer") == "class A:\n    def f(self):\n        return 1\n"
    assert region(project / "code.py", "other") == "x\n"


def test_only_the_fenced_block_after_a_mark_is_replaced(project: Path) -> None:
    assert updated(project / "README.md", project) == DOCUMENT.replace("old\n", "def f(self):\n    return 1\n")


def test_what_is_written_is_then_right(project: Path) -> None:
    document = project / "README.md"
    document.write_text(updated(document, project))
    assert updated(document, project) == document.read_text()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("code.py#inner", "code.py#inmost", "code.py: has 0 regions `inmost`: mark one"),
        ("code.py#inner", "gone.py#inner", "gone.py: cannot be read"),
        ("code.py#inner", "code.py", "write it as path#region, with a fenced block right after it"),
        ("-->\n```", "-->\n\n```", "write it as path#region, with a fenced block right after it"),
    ],
    ids=["no region", "no source", "no name", "no block"],
)
def test_a_wrong_mark_is_refused_by_its_document(project: Path, old: str, new: str, says: str) -> None:
    document = project / "README.md"
    document.write_text(DOCUMENT.replace(old, new))
    with pytest.raises(SnippetError) as refused:
        updated(document, project)
    assert str(refused.value).startswith(f"{document}: ")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("# region inner\n", "region `inner` does not end"),
        ("# region inner\n# region other\n# endregion\n", "region `inner` does not end"),
        ("# region inner\n# endregion\n# region inner\n# endregion\n", "has 2 regions `inner`"),
    ],
)
def test_a_wrong_source_is_refused(project: Path, source: str, says: str) -> None:
    (project / "code.py").write_text(source)
    with pytest.raises(SnippetError, match=says):
        updated(project / "README.md", project)


def test_check_fails_and_changes_nothing_and_write_mends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = tmp_path / "page.md"
    old = "<!-- snippet: tests/unit/tools/test_snippets.py#shown -->\n```python\nold\n```\n"
    document.write_text(old)
    assert main(["check", str(document)]) == 1
    assert "differs from its sources: run `python -m tools.snippets write`" in capsys.readouterr().err
    assert document.read_text() == old
    assert main(["write", str(document)]) == 0
    assert document.read_text() == old.replace("old", "SHOWN = 1")
    assert main(["check", str(document)]) == 0


# region shown
SHOWN = 1
# endregion


@pytest.mark.parametrize("arguments", [[], ["chek"]])
def test_anything_else_is_answered_with_how_to_use_it(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "python -m tools.snippets check" in capsys.readouterr().err
