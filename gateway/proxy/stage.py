"""How far an exchange is."""

from __future__ import annotations

from enum import IntEnum


class Stage(IntEnum):
    """Progress of an exchange."""

    READING = 0
    RESERVING = 1
    CONNECTING = 2
    SENT = 3
    ANSWERING = 4
    TUNNEL = 5
    ENDED = 6
