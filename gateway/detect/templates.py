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
# A template seen in so many windows lasts; one not seen for so long does not.
LASTING_WINDOWS = 3
_FORGOTTEN_S = 3 * 86_400.0
# Known: it lasts, and it was there so long ago.
_KNOWN_AFTER_S = 3 * 3600.0


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

    def known(self, now: float) -> bool:
        """Whether this is an application's own template and not a new one."""
        return self.windows >= LASTING_WINDOWS and now - self.born > _KNOWN_AFTER_S

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
        self.windows += calm
        self.window = window
        self.requests = self.fresh = 0
        self.sources = set()

    def rate_m(self, now: float) -> float:
        """Prompts of the last sixty seconds."""
        part = min(1.0, max(0.0, now / MINUTE_S - self.minute))
        return self.requests_m + self.requests_b * (1.0 - part)


class Templates:
    """The templates of one tenant: at most ``8 x 256`` recent leaders, and as many
    lasting ones, whose place only a template seen in more windows can take.
    """

    __slots__ = ("_lasting", "_table")

    def __init__(self) -> None:
        self._table: list[Template | None] = [None] * (_BANDS * _SLOTS)
        self._lasting: list[Template | None] = [None] * (_BANDS * _SLOTS)

    def find(self, fingerprint: int) -> tuple[Template | None, int]:
        """The template that a prompt belongs to, and in how many bits it differs."""
        table, lasting = self._table, self._lasting
        left = fingerprint
        for base in range(0, _BANDS * _SLOTS, _SLOTS):
            at = base + (left & 0xFF)
            for found in (table[at], lasting[at]):
                if found is not None:
                    bits = (found.print ^ fingerprint).bit_count()
                    if bits <= NEAR_BITS:
                        return found, bits
            left >>= 8
        return None, 0

    def place(self, template: Template) -> None:
        """Write a leader into the table: when it is new, and again when it was hit."""
        left = template.print
        windows = template.windows
        for base in range(0, _BANDS * _SLOTS, _SLOTS):
            at = base + (left & 0xFF)
            self._table[at] = template
            if windows >= LASTING_WINDOWS:
                held = self._lasting[at]
                if (
                    held is None
                    or held.windows < windows
                    or template.last - held.last > _FORGOTTEN_S
                ):
                    self._lasting[at] = template
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
        unique = {id(t): t for t in self._lasting + self._table if t is not None}
        return sorted(unique.values(), key=lambda t: (t.born, t.print))
