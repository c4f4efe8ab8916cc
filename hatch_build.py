"""Build hook: generates the Python code of `proto/` in place, then packs it.

`python hatch_build.py` does the first half alone.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent

GENERATED = ("aorist/v1", "aorist/adapters/etcd/v3", "fleet", "buf")
"""Folders that hold nothing but generated code. What the contract no longer has is removed from them."""


def imports() -> descriptor_pb2.FileDescriptorSet:
    """Every file that `proto/` imports from elsewhere, from installed wheels: no .proto is copied here."""
    from protovalidate._gen.buf.validate import validate_pb  # the wheel ships validate.proto in this form only

    for name in ("protobuf.duration", "protobuf.field_mask", "protobuf.timestamp", "rpc.error_details", "rpc.status"):
        importlib.import_module(f"google.{name}_pb2")
    rules = descriptor_pb2.FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name not in found:
            proto = descriptor_pb2.FileDescriptorProto()
            descriptor_pool.Default().FindFileByName(name).CopyToProto(proto)
            for dependency in proto.dependency:
                add(dependency)
            found[name] = proto

    for name in (*rules.dependency, "google/rpc/error_details.proto", "google/rpc/status.proto"):
        add(name)
    return descriptor_pb2.FileDescriptorSet(file=[*found.values(), rules])


def protoc(*args: str, root: Path = ROOT) -> None:
    """Runs protoc over all of `root`/proto. Raises CalledProcessError; protoc has then printed why."""
    with tempfile.TemporaryDirectory() as tmp:
        known = Path(tmp, "imports.binpb")
        known.write_bytes(imports().SerializeToString())
        own = sorted(str(p.relative_to(root / "proto")) for p in (root / "proto").rglob("*.proto"))
        command = [sys.executable, "-m", "grpc_tools.protoc", "-Iproto", f"--descriptor_set_in={known}"]
        # The mypy plugins lie beside this interpreter, which need not be on the PATH.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        subprocess.run([*command, *args, *own], cwd=root, env={**os.environ, "PATH": path}, check=True)


def generate() -> None:
    """Python code, gRPC stubs and type stubs, beside their users. Files that stay the same keep their times."""
    with tempfile.TemporaryDirectory() as tmp:
        out = [f"--{kind}_out={tmp}" for kind in ("python", "grpc_python")]
        typed = [f"--{kind}_out=quiet:{tmp}" for kind in ("mypy", "mypy_grpc")]
        protoc(*out, *typed, "buf/validate/validate.proto")
        new = {file.relative_to(tmp): file.read_bytes() for file in Path(tmp).rglob("*") if file.is_file()}
    for name, content in new.items():
        file = ROOT / name
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    for folder in GENERATED:
        for file in (ROOT / folder).rglob("*_pb2*.py*"):
            if file.suffix != ".pyc" and file.relative_to(ROOT) not in new:
                file.unlink()


class GenerateProtobuf(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate()
        build_data["artifacts"] += [f"/{folder}/**/*_pb2*.py*" for folder in GENERATED]
        if version != "editable":
            # Sources lie beside the code: one -I serves contracts of others, which import aorist/v1/options.proto.
            build_data["force_include"].update({"proto/aorist": "aorist", "proto/fleet": "fleet"})


if __name__ == "__main__":
    generate()
