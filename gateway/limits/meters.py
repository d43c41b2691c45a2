"""The table of meters: what each counts, in which unit, under which header names.

A new meter needs its name in ``core.model.Meter``, a row here, and a key of ``limits``
in ``config/structs.py``; tests check that the three agree. Plans, refusals, header
lines, windows and the admin API read the row. A meter of something that no row reads yet
also needs an index in ``Quantity`` and its figure in the cost functions of
``admission.py``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal

import msgspec

from gateway.core.model import NANOS_PER_USD, Meter


class Quantity(IntEnum):
    """What a meter reads of a request: an index into the cost tuples of admission."""

    ONE = 0
    TOTAL_TOKENS = 1  # weighted, see ``metering.usage.weigh``
    PROMPT_TOKENS = 2
    COMPLETION_TOKENS = 3
    USD_NANOS = 4


TOKEN_QUANTITIES: Final = frozenset(
    {Quantity.TOTAL_TOKENS, Quantity.PROMPT_TOKENS, Quantity.COMPLETION_TOKENS}
)
# Families of the ``x-ratelimit-*`` headers: OpenAI has these two; OTHER has no lines.
REQUESTS, TOKENS, OTHER = range(3)
FAMILY_NAMES: Final = ("requests", "tokens", "")


class MeterSpec(msgspec.Struct, frozen=True):
    """One meter.

    ``words``: an amount in messages. ``per_unit``: store units in one unit of the
    configuration and the admin API. ``per_header_unit``: store units in one unit of the
    RateLimit fields, whose name ``header_unit`` is (the ``qu`` parameter; "" where the
    unit is requests, which is the draft's default).
    """

    reads: Quantity
    words: str
    family: int = OTHER
    header_unit: str = ""
    per_unit: int = 1
    per_header_unit: int = 1
    # Which requests cost at least 1, whatever the answer: the gate may check these.
    always_costs: Literal["", "any request", "billable request"] = ""
    # A reservation is final: the request counts even if it fails.
    firm: bool = False
    # Open exchanges with a lease each, instead of a sum over a window.
    leased: bool = False

    def in_units(self, amount: int) -> int | float:
        """An amount of store units in units of the configuration."""
        return amount if self.per_unit == 1 else amount / self.per_unit


METER_TABLE: Final[dict[Meter, MeterSpec]] = {
    "requests": MeterSpec(
        Quantity.ONE,
        "{} requests",
        REQUESTS,
        always_costs="any request",
        firm=True,
    ),
    "tokens": MeterSpec(
        Quantity.TOTAL_TOKENS,
        "{} tokens",
        TOKENS,
        "tokens",
        always_costs="billable request",
    ),
    "prompt_tokens": MeterSpec(
        Quantity.PROMPT_TOKENS,
        "{} prompt tokens",
        TOKENS,
        "prompt-tokens",
        always_costs="billable request",
    ),
    "completion_tokens": MeterSpec(
        Quantity.COMPLETION_TOKENS,
        "{} completion tokens",
        TOKENS,
        "completion-tokens",
    ),
    "concurrent": MeterSpec(
        Quantity.ONE, "{} concurrent", OTHER, "concurrent-requests", leased=True
    ),
    "usd": MeterSpec(
        Quantity.USD_NANOS,
        "${:.2f}",
        OTHER,
        "usd-micros",
        per_unit=NANOS_PER_USD,
        # Micro-dollars: nano-dollars of a large budget exceed 15 digits (RFC 9651).
        per_header_unit=1_000,
    ),
}
