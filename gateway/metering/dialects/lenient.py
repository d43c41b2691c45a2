"""JSON as the standard library reads it, within a bound on the time that it takes.

It accepts what strict parsers refuse and many servers take: NaN, lone surrogates,
UTF-16. It is about 20 times slower, and runs on the event loop.
"""

from __future__ import annotations

import json
from typing import Any

from gateway.metering.dialects.names import UniqueMembers

# The longest that one text may take, in nanoseconds: about 5,000 objects. Cost of each
# character to read, and to write again as the raw text of a member, measured by
# ``python tests/bench/bench_dialects.py``.
BUDGET_NS = 5_000_000
_COST_NS = {b"{": 900, b"[": 120, b",": 150, b":": 160, b'"': 20, b"\\": 10}
_NS_PER_BYTE = 1
# Shorter texts are within the budget, whatever they hold.
_FREE_BYTES = BUDGET_NS // max(_COST_NS.values())


def loads(text: bytes) -> Any:
    """The value of a JSON text; its objects are ``UniqueMembers``.

    Raises ValueError, also for a text that would take longer than BUDGET_NS, and
    RecursionError.
    """
    if len(text) > _FREE_BYTES:
        cost = len(text) * _NS_PER_BYTE
        cost += sum(text.count(mark) * ns for mark, ns in _COST_NS.items())
        if cost > BUDGET_NS:
            raise ValueError("too much structure for a text that strict parsers refuse")
    return json.loads(text, object_pairs_hook=UniqueMembers)
