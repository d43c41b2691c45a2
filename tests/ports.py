"""Loopback ports for servers that need their port before they start.

A port chosen by the kernel (port 0) is in the ephemeral range, so any outgoing
connection can take it before the server binds it. These ports are below that range.
Each worker of a parallel test run has its own part of them, and no port is returned
twice in a process.
"""

from __future__ import annotations

import functools
import os
import random
import socket
from pathlib import Path

_LOWEST = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_PARTS = 8  # number of parallel test workers with disjoint ports
_TRIES = 200


def free_port() -> int:
    """A TCP port that is free and not in the ephemeral range."""
    for _ in range(_TRIES):
        given = _shuffled()
        if not given:
            break
        port = given.pop()
        if _is_free(port):
            return port
    msg = "no free port of loopback below the range of outgoing connections"
    raise OSError(msg)


@functools.cache
def _shuffled() -> list[int]:
    """The unused ports of this process in random order; taken from the end."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    part = int(worker) % _PARTS
    ports = list(range(_LOWEST + part, _highest(), _PARTS))
    random.SystemRandom().shuffle(ports)
    return ports


def _highest() -> int:
    try:
        lowest_ephemeral = int(_EPHEMERAL.read_text().split()[0])
    except OSError:  # not Linux: 49152 by RFC 6335
        lowest_ephemeral = 49_152
    return lowest_ephemeral if lowest_ephemeral > _LOWEST + 1_000 else 65_535


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
