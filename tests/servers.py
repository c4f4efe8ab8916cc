"""The real servers, one of each for the whole run, or for each side of one whose files run side by side.

Each is started when a test first needs it; a run fails, not skips, where one cannot start.

Tests keep out of each other's way by names of their own: of topics, keyspaces, prefixes. A test that stops a server for a while, or kills
it, leaves it running and whole.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from stack.cassandra import Cassandra
from stack.cluster import KafkaCluster
from stack.etcd import Etcd
from stack.jvm import QUICK


@cache
def shared_kafka() -> KafkaCluster:
    """One broker. Its cleaner looks for work all the time."""
    cluster = KafkaCluster(_folder("kafka"), brokers=1, settings={"log.cleaner.backoff.ms": "100"}, jvm=QUICK)
    cluster.start()
    atexit.register(cluster.brokers[0].kill)  # nobody needs what it stored
    return cluster


@cache
def shared_cassandra() -> Cassandra:
    """One node. What it acknowledged is there after a kill (batch)."""
    server = Cassandra(_folder("cassandra"), commitlog_sync="batch", heap_mb=512, jvm=QUICK)
    server.start()
    atexit.register(server.kill)
    return server


@cache
def shared_etcd() -> Etcd:
    """One member."""
    etcd = Etcd(_folder("etcd"))
    etcd.start()
    atexit.register(etcd.stop)
    return etcd


def _folder(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"aorist-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # called after what is registered later
    return folder
