"""How a limit is written: the header lines about it and the words for it.

Two families of header fields. ``x-ratelimit-*`` as OpenAI writes them, durations like
``6m0s`` or ``17ms``. And the structured fields of draft-ietf-httpapi-ratelimit-
headers-10: ``RateLimit-Policy: "name";q=quota;w=window`` (``qu`` where the quota is not
requests) and ``RateLimit: "name";r=remaining;t=seconds``. The partition key ``pk`` is
left out: it would tell a client how it is identified, and it helps no one.
"""

from __future__ import annotations

import math
from typing import Final

from gateway.core.model import NANOS_PER_USD, Limit, Meter, format_window

_US: Final = 1_000_000
_MS_PER_S: Final = 1000
# Structured-field integers have at most 15 digits (RFC 9651 §3.3.1).
_MAX_INTEGER: Final = 999_999_999_999_999
# Money leaves as micro-dollars: nano-dollars of a large budget would not fit.
_NANOS_PER_QUOTA: Final = 1_000

# Which of OpenAI's two families a meter belongs to; none for the others.
_FAMILY: Final[dict[Meter, str]] = {
    "requests": "requests",
    "tokens": "tokens",
    "prompt_tokens": "tokens",
    "completion_tokens": "tokens",
}
REQUESTS, TOKENS, OTHER = range(3)
_GROUP: Final = {"requests": REQUESTS, "tokens": TOKENS, "": OTHER}
# Units other than "requests" are said, else a client would read tokens as requests.
_UNITS: Final[dict[Meter, str]] = {
    "tokens": "tokens",
    "prompt_tokens": "prompt-tokens",
    "completion_tokens": "completion-tokens",
    "concurrent": "concurrent-requests",
    "usd": "usd-micros",
}
_SUBJECTS: Final = {
    "client_ip": "address",
    "throttled_client_ip": "address",
    "throttled_user": "user",
    "throttled_tenant": "tenant",
}


def format_reset(duration_us: int) -> str:
    """A duration as OpenAI writes it: ``17ms``, ``1s``, ``6m0s``, ``1h0m0.5s``.

    Rounded up to the next millisecond: who waits that long has waited long enough.
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


class ShownLimit:
    """One limit of a plan as header lines, everything that is static made ready.

    A sliding window is told to be full again after its whole length, since what was
    just counted leaves it last; a calendar one at the end of its period.
    """

    __slots__ = (
        "_ends_us",
        "_name",
        "_policy_line",
        "_reset_us",
        "_second",
        "_structured",
        "amount",
        "group",
        "limit",
        "share",
        "template",
        "unit",
    )

    def __init__(
        self, limit: Limit, *, ends_at: float = 0.0, length_s: int = 0
    ) -> None:
        """``ends_at`` and ``length_s``: end (epoch s) and length of a calendar period."""
        self.limit = limit
        self.amount = limit.amount
        self.share = 1 / limit.amount if limit.amount else 0.0
        self.unit = _NANOS_PER_QUOTA if limit.meter == "usd" else 1
        self._name = _FAMILY.get(limit.meter, "")
        self.group = _GROUP[self._name]
        self._policy_line = _policy_line(limit, self.unit, length_s)
        self._reset_us = limit.window_us
        self._ends_us = int(ends_at * _US)
        self._second = 0
        self._write(limit.window_us)

    def _write(self, reset_us: int) -> None:
        # ``template`` % remaining: the x-ratelimit lines; only for the two groups.
        self.template, self._structured = self._templates(reset_us)

    def _templates(self, reset_us: int) -> tuple[bytes, bytes]:
        """The lines with one ``%d`` each, for what remains."""
        lines = ""
        if self._name:
            lines = (
                f"x-ratelimit-limit-{self._name}: {self.amount}\r\n"
                f"x-ratelimit-remaining-{self._name}: %d\r\n"
                f"x-ratelimit-reset-{self._name}: {format_reset(reset_us)}\r\n"
            )
        until = f";t={-(-reset_us // _US)}" if reset_us else ""
        rest = f'RateLimit: "{self.limit.name}";r=%d{until}\r\n'
        return lines.encode(), (self._policy_line + rest).encode()

    def at(self, now_us: int) -> None:
        """Bring a calendar period's remaining time up to date, by whole seconds."""
        second = now_us // _US
        if self._ends_us and second != self._second:
            self._second = second
            self._write(max(_US, self._ends_us - second * _US))

    def structured(self, remaining: int) -> bytes:
        """The RateLimit-Policy and RateLimit lines."""
        return self._structured % min(remaining // self.unit, _MAX_INTEGER)

    def refused(self, remaining: int, retry_after: float) -> bytes:
        """All lines of the limit that refused: reset and Retry-After agree."""
        lines, structured = self._templates(math.ceil(retry_after * _US))
        left = min(remaining // self.unit, _MAX_INTEGER)
        return (lines % remaining if lines else b"") + structured % left


def _policy_line(limit: Limit, unit: int, length_s: int) -> str:
    seconds = length_s if limit.calendar else -(-limit.window_us // _US)
    window = f";w={seconds}" if seconds else ""
    units = _UNITS.get(limit.meter)
    units = f';qu="{units}"' if units else ""
    quota = min(limit.amount // unit, _MAX_INTEGER)
    return f'RateLimit-Policy: "{limit.name}";q={quota}{window}{units}\r\n'


def describe(limit: Limit) -> str:
    """A limit in plain words, without any id: ``200000 tokens per 1m for this user``."""
    subject = " and ".join(_SUBJECTS.get(kind, kind) for kind in limit.per.split("+"))
    if limit.meter == "concurrent":
        return f"{limit.amount} requests at a time for this {subject}"
    period = limit.calendar or format_window(limit.window_us)
    return f"{write_amount(limit, limit.amount)} per {period} for this {subject}"


def write_amount(limit: Limit, amount: int) -> str:
    """An amount in the limit's own unit: ``1200 prompt tokens``, ``$0.50``."""
    if limit.meter == "usd":
        return f"${amount / NANOS_PER_USD:.2f}"
    return f"{amount} {limit.meter.replace('_', ' ')}"
