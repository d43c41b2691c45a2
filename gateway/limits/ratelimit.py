"""The header lines about a limit, and its description in messages.

Two families of header fields. ``x-ratelimit-*`` as OpenAI writes them, durations like
``6m0s`` or ``17ms``. And the structured fields of draft-ietf-httpapi-ratelimit-
headers-10: ``RateLimit-Policy: "name";q=quota;w=window`` (``qu`` where the quota is not
requests) and ``RateLimit: "name";r=remaining;t=seconds``. The partition key ``pk`` is
left out: it would disclose how a client is identified, and clients have no use for it.
"""

from __future__ import annotations

import math
from typing import Final

from gateway.core.model import Limit, format_window
from gateway.core.money import usd_text
from gateway.limits.meters import FAMILY_NAMES, METER_TABLE

_US: Final = 1_000_000
_MS_PER_S: Final = 1000
# Structured-field integers have at most 15 digits (RFC 9651 section 3.3.1).
_MAX_INTEGER: Final = 999_999_999_999_999
_SUBJECTS: Final = {
    "client_ip": "address",
    "key": "API key",
    "network": "IPv6 network (/48)",
    "throttled_client_ip": "address",
    "throttled_user": "user",
    "throttled_tenant": "tenant",
}


def format_reset(duration_us: int) -> str:
    """A duration as OpenAI writes it: ``17ms``, ``1s``, ``6m0s``, ``1h0m0.5s``.

    Rounded up to the next millisecond, so that waiting that long is enough.
    """
    ms = -(-max(0, duration_us) // 1000)
    if ms < _MS_PER_S:
        return f"{ms}ms"
    minutes, ms = divmod(ms, 60_000)
    seconds = f"{ms / _MS_PER_S:.3f}".rstrip("0").rstrip(".") + "s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


class LimitHeaderTemplate:
    """The header lines of one limit with everything static filled in.

    ``lines`` % remaining: the x-ratelimit lines, b"" for meters of neither family.
    The reset of a sliding window is its whole length, because what was just counted
    leaves it last; that of a calendar window is the end of its period.
    """

    __slots__ = (
        "_ends_us",
        "_policy_line",
        "_reset_us",
        "_second",
        "_structured",
        "_unit",
        "amount",
        "family",
        "limit",
        "lines",
        "reciprocal",
    )

    def __init__(
        self, limit: Limit, *, ends_at: float = 0.0, length_s: int = 0
    ) -> None:
        """``ends_at`` and ``length_s``: end (epoch s) and length of a calendar period."""
        spec = METER_TABLE[limit.meter]
        self.limit = limit
        self.amount = limit.amount
        # Multiplying by it gives the remaining share; 0 for a limit of 0.
        self.reciprocal = 1 / limit.amount if limit.amount else 0.0
        self.family = spec.family
        self._unit = spec.per_header_unit
        self._policy_line = _policy_line(limit, length_s)
        self._reset_us = limit.window_us
        self._ends_us = int(ends_at * _US)
        self._second = 0
        self.lines, self._structured = self._render(limit.window_us)

    def _render(self, reset_us: int) -> tuple[bytes, bytes]:
        """The lines of both kinds, each with a ``%d`` for the remaining amount."""
        lines = ""
        name = FAMILY_NAMES[self.family]
        if name:
            lines = (
                f"x-ratelimit-limit-{name}: {self.amount}\r\n"
                f"x-ratelimit-remaining-{name}: %d\r\n"
                f"x-ratelimit-reset-{name}: {format_reset(reset_us)}\r\n"
            )
        until = f";t={-(-reset_us // _US)}" if reset_us else ""
        rest = f'RateLimit: "{self.limit.name}";r=%d{until}\r\n'
        return lines.encode(), (self._policy_line + rest).encode()

    def refresh(self, now_us: int) -> None:
        """Update the reset time of a calendar period, at most once a second. Does nothing
        for a sliding window. ``now_us``: the store's clock.
        """
        second = now_us // _US
        if self._ends_us and second != self._second:
            self._second = second
            reset_us = max(_US, self._ends_us - second * _US)
            self.lines, self._structured = self._render(reset_us)

    def structured(self, remaining: int) -> bytes:
        """The RateLimit-Policy and RateLimit lines."""
        return self._structured % min(remaining // self._unit, _MAX_INTEGER)

    def refused(self, remaining: int, retry_after: float) -> bytes:
        """All lines for a 429; the reset equals Retry-After (``retry_after`` s)."""
        lines, structured = self._render(math.ceil(retry_after * _US))
        left = min(remaining // self._unit, _MAX_INTEGER)
        return (lines % remaining if lines else b"") + structured % left


def _policy_line(limit: Limit, length_s: int) -> str:
    spec = METER_TABLE[limit.meter]
    seconds = length_s if limit.calendar else -(-limit.window_us // _US)
    window = f";w={seconds}" if seconds else ""
    unit = f';qu="{spec.header_unit}"' if spec.header_unit else ""
    quota = min(limit.amount // spec.per_header_unit, _MAX_INTEGER)
    return f'RateLimit-Policy: "{limit.name}";q={quota}{window}{unit}\r\n'


def describe(limit: Limit) -> str:
    """A limit in words, without any id: ``200000 tokens per 1m for this user``."""
    subject = " and ".join(_SUBJECTS.get(kind, kind) for kind in limit.per.split("+"))
    if METER_TABLE[limit.meter].leased:
        return f"{limit.amount} requests at a time for this {subject}"
    period = limit.calendar or format_window(limit.window_us)
    return f"{write_amount(limit, limit.amount)} per {period} for this {subject}"


def write_amount(limit: Limit, amount: int) -> str:
    """An amount in the limit's own unit: ``1200 prompt tokens``, ``$0.50``."""
    spec = METER_TABLE[limit.meter]
    value = spec.in_units(amount)
    if limit.meter == "usd" and value < 1:
        return usd_text(value)
    return spec.words.format(value)
