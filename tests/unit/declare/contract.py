"""Contracts made while a test runs: proto text in, message classes out, each under a package of its own."""

from __future__ import annotations

import itertools
import os
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google.rpc.error_details_pb2 as refusals
import grpc_tools  # type: ignore[import-untyped]  # no stubs exist
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc

from aorist.v1 import event_pb2, options_pb2, position_pb2, read_pb2, series_pb2
from hatch_build import imports as from_wheels

ROOT = Path(__file__).parents[3]

IMPORTS = (ROOT / "proto", Path(grpc_tools.__file__).parent / "_proto", Path(sysconfig.get_path("purelib")))
"""Where aorist/v1, google/protobuf and google/rpc lie."""

IMPORTED = (event_pb2, options_pb2, position_pb2, read_pb2, series_pb2, refusals)
"""In the pool because they were imported, as in a domain file."""

_numbers = itertools.count(1)


class Contract:
    """One compiled proto file. Its messages are attributes."""

    def __init__(self, package: str, classes: dict[str, type[Any]]) -> None:
        self.package = package
        self.classes = classes

    def __getattr__(self, name: str) -> Any:
        try:
            return self.classes[name]
        except KeyError:
            raise AttributeError(name) from None


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """What protoc says of imports that a body does not use goes past `sys.stderr`, and would come after the summary of a run."""
    before = os.dup(2)
    try:
        with path.open("wb") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def compile_proto(body: str) -> Contract:
    """Compiles messages and services. The syntax line, the package and the imports are added; `PACKAGE` stands for its name."""
    package = f"made{next(_numbers)}"
    imports = "\n".join(f'import "{module.DESCRIPTOR.name}";' for module in IMPORTED)
    text = f'syntax = "proto3";\npackage {package};\n{imports}\n{body.replace("PACKAGE", package)}'
    with tempfile.TemporaryDirectory() as tmp:
        source, compiled = Path(tmp, f"{package}.proto"), Path(tmp, "out.binpb")
        source.write_text(text)
        (known := Path(tmp, "imports.binpb")).write_bytes(from_wheels().SerializeToString())
        arguments = [f"-I{folder}" for folder in (tmp, *IMPORTS)] + [f"--descriptor_set_in={known}"]
        with _stderr_to(said := Path(tmp, "said")):
            failed = protoc.main(["protoc", *arguments, f"--descriptor_set_out={compiled}", source.name])
        assert not failed, said.read_text()
        (file,) = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    messages = pool.FindFileByName(file.name).message_types_by_name
    return Contract(package, {name: GetMessageClass(descriptor) for name, descriptor in messages.items()})
