"""Build hook: generates the Python code of `proto/` in place, then packs it. `python hatch_build.py` does the first half alone."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent


def imports() -> descriptor_pb2.FileDescriptorSet:
    """Every file that `proto/` imports from elsewhere, from the descriptors inside installed wheels: no .proto is copied here."""
    from protovalidate._gen.buf.validate import validate_pb  # the wheel ships validate.proto in this form only

    for module in ("google.protobuf.duration", "google.protobuf.field_mask", "google.protobuf.timestamp", "google.rpc.error_details", "google.rpc.status"):
        importlib.import_module(f"{module}_pb2")
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
        subprocess.run([*command, *args, *own], cwd=root, check=True)


def generate() -> None:
    """Python code, gRPC stubs and type stubs: `aorist/v1`, `fleet/` and `buf/` beside their users, git-ignored."""
    out = [f"--{kind}_out=." for kind in ("python", "mypy", "grpc_python", "mypy_grpc")]
    protoc(*out, "buf/validate/validate.proto")


class GenerateProtobuf(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate()
        build_data["artifacts"] += ["/aorist/v1/**", "/fleet/**", "/buf/**"]


if __name__ == "__main__":
    generate()
