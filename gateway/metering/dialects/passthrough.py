"""Endpoints nobody knows: relayed as they are, metered if they happen to say usage."""

from __future__ import annotations

from typing import ClassVar

from gateway.metering.dialects.dialect import Dialect, Search
from gateway.metering.dialects.meters import ANY_HIT


class Passthrough(Dialect):
    """OpenAI-shaped errors, any provider's usage."""

    name = "passthrough"
    searcher: ClassVar[tuple[Search]] = (ANY_HIT,)
