"""Which prompt templates a tenant's traffic is made of, and how they swell.

Fingerprints are grouped around leaders. Finding the leader costs eight look-ups: two
prints of one template agree in at least one of eight bytes nearly always (ten changed
bits leave a byte untouched in 92 % of cases), and a leader that is hit writes itself
into the table again, so a stream of unrelated prompts cannot push it out.
"""

from __future__ import annotations

import msgspec

from gateway.detect.features import MINUTE_S, WINDOW_S

_BANDS = 8
_SLOTS = 256
# From leader to member: two members may differ by twice the flips of one.
NEAR_BITS = 12
# Sources of one template that are told apart.
SOURCES = 64
_LEAK_PER_WINDOW = 0.97


class Template(msgspec.Struct, array_like=True):
    """Prompts around one leader. ``fresh`` counts requests of newcomers, ``peak`` is
    the leaking maximum of what a ten-minute window held before this one.
    """

    print: int
    born: float
    last: float
    minute: int = 0
    requests_m: int = 0
    requests_b: int = 0
    window: int = 0
    requests: int = 0
    fresh: int = 0
    peak: float = 0.0
    sources: set[str] = msgspec.field(default_factory=set)
    windows: int = 0  # in how many it was seen
    skip: int = 7
    abusive_until: float = 0.0
    apart: float = 0.0

    def count(self, ts: float, source: str, bits: int, *, fresh: bool) -> None:
        """One more prompt of this template."""
        minute = int(ts // MINUTE_S)
        if minute > self.minute:
            self._turn(minute)
        self.requests_m += 1
        self.requests += 1
        self.apart += (bits - self.apart) / 16
        if fresh:
            self.fresh += 1
        if len(self.sources) < SOURCES:
            self.sources.add(source)
        self.last = ts

    def _turn(self, minute: int) -> None:
        self.requests_b = self.requests_m if minute == self.minute + 1 else 0
        self.requests_m = 0
        self.minute = minute
        window = minute * MINUTE_S // WINDOW_S
        if window == self.window:
            return
        calm = self.last > self.abusive_until
        leak = _LEAK_PER_WINDOW ** min(1000, window - self.window)
        self.peak = max(self.peak * leak, self.requests if calm else 0.0)
        self.windows += 1
        self.window = window
        self.requests = self.fresh = 0
        self.sources = set()

    def rate_m(self, now: float) -> float:
        """Prompts of the last sixty seconds."""
        part = min(1.0, max(0.0, now / MINUTE_S - self.minute))
        return self.requests_m + self.requests_b * (1.0 - part)


class Templates:
    """The templates of one tenant: at most ``8 x 256`` leaders."""

    __slots__ = ("_table",)

    def __init__(self) -> None:
        self._table: list[Template | None] = [None] * (_BANDS * _SLOTS)

    def find(self, fingerprint: int) -> tuple[Template | None, int]:
        """The template that a prompt belongs to, and in how many bits it differs."""
        table = self._table
        left = fingerprint
        for base in range(0, _BANDS * _SLOTS, _SLOTS):
            found = table[base + (left & 0xFF)]
            if found is not None:
                bits = (found.print ^ fingerprint).bit_count()
                if bits <= NEAR_BITS:
                    return found, bits
            left >>= 8
        return None, 0

    def place(self, template: Template) -> None:
        """Write a leader into the table: when it is new, and again when it was hit."""
        left = template.print
        for base in range(0, _BANDS * _SLOTS, _SLOTS):
            self._table[base + (left & 0xFF)] = template
            left >>= 8

    def add(self, fingerprint: int, ts: float) -> Template:
        """A new template around this prompt."""
        minute = int(ts // MINUTE_S)
        template = Template(
            print=fingerprint,
            born=ts,
            last=ts,
            minute=minute,
            window=minute * MINUTE_S // WINDOW_S,
        )
        self.place(template)
        return template

    def all(self) -> list[Template]:
        """Every template still in the table, once, by age."""
        unique = {id(t): t for t in self._table if t is not None}
        return sorted(unique.values(), key=lambda t: (t.born, t.print))
