"""Unknown endpoints: relayed unchanged, metered if their answers state usage."""

from __future__ import annotations

from typing import ClassVar

from gateway.metering.dialects.dialect import Dialect, Search
from gateway.metering.dialects.meters import ANY_HIT


class Passthrough(Dialect):
    """Errors in OpenAI's format, usage in any provider's."""

    name = "passthrough"
    searcher: ClassVar[tuple[Search]] = (ANY_HIT,)
