"""Endpoints nobody knows: relayed as they are, metered if they happen to say usage."""

from __future__ import annotations

from gateway.core.dialects.dialect import Dialect
from gateway.core.dialects.meters import ANY_HIT


class Passthrough(Dialect):
    """OpenAI-shaped errors, any provider's usage."""

    name = "passthrough"
    hit = staticmethod(ANY_HIT)
