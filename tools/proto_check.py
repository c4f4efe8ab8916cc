"""Checks the contract in `proto/`: its style, and that it breaks no caller of the contract that landed last.

    python -m tools.proto_check [COMMIT]

The contract that landed last is, in this order: that of COMMIT; that of `origin/main`, where it differs; that of the
newest commit too old to belong to the piece of work at hand. Without any there is nothing to break, and a line says so.
Works offline.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

from hatch_build import ROOT, protoc

OURS = ("--path", "aorist", "--path", "fleet")

UNLANDED_S = 3 * 60 * 60
"""Commits at most this much older than the newest may belong to the same piece of work. A clone of main has no ref that
tells where the last piece ended. The parent commit would not do: it would show one step of several, and hold the
unfinished ones before it against this one."""


def main(commit: str | None = None) -> int:
    """Exit code: 0 where all is well, else that of the first check that failed; buf has then printed why."""
    with tempfile.TemporaryDirectory() as tmp:
        new = image(ROOT, Path(tmp, "new.binpb"))
        code = buf("lint", str(new), *OURS)
        if code:
            return code
        base = commit or landed()
        if base is None or not git("ls-tree", base, "proto"):
            print(f"proto-check: style is good; no contract to compare with in {base or 'the history at hand'}")
            return 0
        with tarfile.open(fileobj=BytesIO(git("archive", base, "proto"))) as archive:
            archive.extractall(tmp, filter="data")
        code = buf("breaking", str(new), "--against", str(image(Path(tmp), Path(tmp, "old.binpb"))), *OURS)
        print(f"proto-check: style is good; the contract of {base[:12]} is {'BROKEN, see above' if code else 'kept'}")
        return code


def landed() -> str | None:
    """The commit whose contract callers may rely on already."""
    main = git("rev-parse", "--verify", "--quiet", "origin/main", missing=b"").decode().strip()
    if main and git("diff", "--name-only", main, "--", "proto"):
        return main
    newest = int(git("log", "-1", "--format=%ct"))
    return git("rev-list", "-1", f"--before={newest - UNLANDED_S}", "HEAD").decode().strip() or None


def image(root: Path, target: Path) -> Path:
    """The contract in `root`/proto with all it imports, in the form that buf takes in place of sources."""
    protoc("--include_imports", "--include_source_info", f"--descriptor_set_out={target}", root=root)
    return target


def buf(*args: str) -> int:
    """Runs buf, which lies beside this interpreter."""
    return subprocess.run([Path(sys.executable).with_name("buf"), *args], cwd=ROOT, check=False).returncode


def git(*args: str, missing: bytes | None = None) -> bytes:
    """Output of git; `missing` instead where it fails."""
    done = subprocess.run(["git", *args], cwd=ROOT, stdout=subprocess.PIPE, check=missing is None)
    return missing if missing is not None and done.returncode else done.stdout


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
