"""One Cassandra node in a JVM of its own."""

import json
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from stack import tools
from stack.jvm import java
from stack.ports import free_ports
from stack.server import Server

CommitlogSync = Literal["periodic", "batch"]

# Cassandra 5.0 reaches into the JDK it was written against; these are the doors its own start script opens.
_EXPORTS = """
    java.base/jdk.internal.misc java.base/java.lang.ref java.management.rmi/com.sun.jmx.remote.internal.rmi
    java.management/com.sun.jmx.remote.security java.rmi/sun.rmi.registry java.rmi/sun.rmi.server
    java.rmi/sun.rmi.transport java.rmi/sun.rmi.transport.tcp java.sql/java.sql jdk.unsupported/sun.misc
    jdk.compiler/com.sun.tools.javac.file jdk.compiler/com.sun.tools.javac.main
"""
_OPENS = """
    java.base/java.lang java.base/java.lang.module java.base/java.lang.reflect java.base/java.io java.base/java.nio
    java.base/java.net java.base/java.util java.base/java.util.concurrent java.base/java.util.concurrent.atomic
    java.base/sun.nio.ch java.base/jdk.internal.loader java.base/jdk.internal.ref java.base/jdk.internal.reflect
    java.base/jdk.internal.math java.base/jdk.internal.module java.base/jdk.internal.util.jar
    jdk.management/com.sun.management.internal
"""

# The native protocol, version 4: as much of it as one SELECT takes.
_STARTUP, _READY, _QUERY, _RESULT = 0x01, 0x02, 0x07, 0x08
_HEADER = struct.Struct(">BBhBi")  # version, flags, stream, opcode, length of the body
_CONSISTENCY_ONE = 1


class Cassandra(Server):
    """`commitlog_sync` decides which acknowledged writes may be lost.

    periodic (Cassandra's own default): the last 10 s when the machine dies, and still the last 0.1 s when only the
    process is killed: replay stops at a marker that is written ten times a second. batch: none in either case.
    """

    def __init__(
        self,
        folder: Path,
        *,
        commitlog_sync: CommitlogSync = "periodic",
        heap_mb: int = 1024,
        jvm: Sequence[str] = (),
        outlive: bool = False,
    ) -> None:
        super().__init__("cassandra", folder, outlive=outlive)
        self.port, self._storage_port = free_ports(2)
        self._commitlog_sync = commitlog_sync
        self._heap_mb = heap_mb
        self._jvm = jvm

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> list[str]:
        config = self.folder / "cassandra.yaml"
        config.write_text(json.dumps(self._config(), indent=2))  # JSON is YAML
        classpath = tools.cassandra_classpath()
        jamm = next(jar for jar in classpath.split(":") if Path(jar).name.startswith("jamm-"))
        doors = [f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTS.split()]
        doors += [f"--add-opens={name}=ALL-UNNAMED" for name in _OPENS.split()]
        settings = {
            "jdk.attach.allowAttachSelf": "true",
            "io.netty.tryReflectionSetAccessible": "true",
            "logback.configurationFile": Path(__file__).with_name("logback.xml").as_uri(),
            "cassandra.config": config.as_uri(),
            "cassandra.storagedir": str(self.folder),
            "cassandra-foreground": "yes",
            # A node without neighbours has nobody to wait for.
            "cassandra.skip_wait_for_gossip_to_settle": "0",
            "cassandra.ring_delay_ms": "0",
            "cassandra.superuser_setup_delay_ms": "0",
            "cassandra.load_ring_state": "false",
            "cassandra.shutdown_announce_in_ms": "0",
        }
        flags = ["-Xss512k", f"-javaagent:{jamm}", *doors, *(f"-D{key}={value}" for key, value in settings.items())]
        command = java(self.folder, self._heap_mb, *self._jvm, *flags)
        return [*command, "-cp", classpath, "org.apache.cassandra.service.CassandraDaemon"]

    def answers(self) -> bool:
        """One SELECT, by hand: the driver would leave a thread and its log lines about every refused attempt."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as link:
            if _ask(link, _STARTUP, struct.pack(">h", 1) + _text("CQL_VERSION") + _text("3.0.0")) != _READY:
                return False
            query = b"SELECT release_version FROM system.local"
            body = struct.pack(f">i{len(query)}sHB", len(query), query, _CONSISTENCY_ONE, 0)
            return _ask(link, _QUERY, body) == _RESULT

    def _config(self) -> dict[str, Any]:
        folders = ("commitlog", "saved_caches", "hints", "cdc_raw")
        sync: dict[str, Any] = {"commitlog_sync": self._commitlog_sync}
        if self._commitlog_sync == "periodic":
            sync["commitlog_sync_period"] = "10000ms"
        seed = {"seeds": f"127.0.0.1:{self._storage_port}"}
        return {
            "cluster_name": "aorist",
            "num_tokens": 1,
            "initial_token": "0",
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "endpoint_snitch": "SimpleSnitch",
            "data_file_directories": [str(self.folder / "data")],
            **{f"{name}_directory": str(self.folder / name) for name in folders},
            **sync,
            "listen_address": "127.0.0.1",
            "rpc_address": "127.0.0.1",
            "native_transport_port": self.port,
            "storage_port": self._storage_port,
            "seed_provider": [{"class_name": "org.apache.cassandra.locator.SimpleSeedProvider", "parameters": [seed]}],
            "concurrent_reads": 16,
            "concurrent_writes": 16,
            "auto_snapshot": False,  # tests drop tables by the dozen
        }


def _ask(link: socket.socket, opcode: int, body: bytes) -> int:
    """Send one frame, read one frame, answer its opcode."""
    link.sendall(_HEADER.pack(4, 0, 0, opcode, len(body)) + body)
    with link.makefile("rb") as stream:
        header = stream.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise ConnectionError("closed in the middle of an answer")
        answered, length = _HEADER.unpack(header)[3:]
        stream.read(length)
    return int(answered)


def _text(text: str) -> bytes:
    return struct.pack(f">H{len(text)}s", len(text), text.encode())
