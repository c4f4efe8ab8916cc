"""Ports a server can have again when it comes back."""

import random
import socket
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
_TRIES = 1000


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, outside the range the kernel hands to outgoing connections.

    From within that range a client that keeps trying to reach a killed server would sooner or later be given the
    server's port for its own end, connect to itself, and keep the server from coming back.
    """
    highest = int(_EPHEMERAL.read_text().split()[0]) - 1
    if highest - _LOWEST < _TRIES:  # somebody widened the range to nearly everything: take what there is
        highest = 65_535
    chosen: list[int] = []
    for port in random.sample(range(_LOWEST, highest + 1), _TRIES):
        if len(chosen) < count and _free(port):
            chosen.append(port)
    if len(chosen) < count:
        raise OSError(f"found only {len(chosen)} of {count} free ports between {_LOWEST} and {highest}")
    return chosen


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
