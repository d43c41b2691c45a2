"""Ports of loopback for servers that must be told theirs before they start.

The kernel's own choice (port 0) lies in the range that outgoing connections take their
source ports from, so between the choice and the server's bind any client on the machine
may take it. These come from below that range, each worker of a parallel test run from a
part of its own, and no process is given the same one twice.
"""

from __future__ import annotations

import functools
import os
import random
import socket
from pathlib import Path

_LOWEST = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_PARTS = 8  # parallel test workers with ports of their own
_TRIES = 200


def free_port() -> int:
    """A TCP port that nobody has, and that nobody is given by chance."""
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
    """The ports of this process, in its own order; taken from the end."""
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
