"""Prompt templates of a tenant's traffic, and their growth.

Fingerprints are grouped around leaders. Finding a leader costs eight look-ups: two
fingerprints of one template nearly always agree in at least one of eight bytes (ten
changed bits leave a byte unchanged in 92 % of cases). A leader that is hit is written
into the table again, so a stream of unrelated prompts does not evict it.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp

import msgspec

from gateway.core.prompt import TEMPLATE_BITS
from gateway.detect.subject import MINUTE_S, WINDOW_S, SubjectState, network_of

_BANDS = 8
_SLOTS = 256
_BASES = tuple(range(0, _BANDS * _SLOTS, _SLOTS))
# From leader to member.
NEAR_BITS = TEMPLATE_BITS
# A crowd is at least so many sources of one template.
CROWD_SOURCES = 6
# Sources of one template that are told apart.
SOURCES = 64
_DECAY_PER_WINDOW = 0.97
# A template seen in so many windows lasts; one not seen for so long does not.
LASTING_WINDOWS = 3
_FORGOTTEN_S = 3 * 86_400.0
# Known: it lasts, and it was there so long ago.
_KNOWN_AFTER_S = 3 * 3600.0
# Who was there so long before a template was is not part of its crowd; who came later is
# for so long, and any newcomer for so long.
_ARRIVED_S = 60.0
_CROWD_S = 6 * 3600.0
NEWCOMER_S = 1800.0
# Sources that may have come again unseen.
_DOUBT = 1.5
# Steps towards the size of a crowd, from above.
_STEPS = 8


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
    refused: int = 0  # of this window: answered 401, 403, 404
    repeats: int = 0  # prompts of sources that were there already in this window
    usual: int = -1  # 1: established clients ask the same; -1: nobody has looked
    soft: bool = False  # its crowd's prompts are as unlike as people's
    unsure: bool = False  # its crowd may be part of a tide of newcomers: tagged only
    accepted: int = 0  # of this window: not refused by an upstream
    denied: bool = (
        False  # upstreams refuse most of it: only refused senders are blocked
    )
    narrow: bool = False  # few sites send it: only their newcomers are blocked

    def known(self, now: float) -> bool:
        """Whether this is an application's own template and not a new one."""
        return self.windows >= LASTING_WINDOWS and now - self.born > _KNOWN_AFTER_S

    def count(
        self,
        ts: float,
        source: str,
        bits: int,
        *,
        fresh: bool,
        refused: bool = False,
        accepted: bool = False,
        times: int = 1,
    ) -> None:
        """One more prompt of this template. Neither ``refused`` nor ``accepted``: the
        gateway refused it.
        """
        minute = int(ts // MINUTE_S)
        if minute > self.minute:
            self._turn(minute)
        self.requests_m += times
        self.requests += times
        self.apart += (bits - self.apart) / 16
        if refused:
            self.refused += times
        elif accepted:
            self.accepted += times
        if fresh:
            self.fresh += times
        if len(self.sources) < SOURCES:
            if source in self.sources:
                self.repeats += 1
            else:
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
        leak = _DECAY_PER_WINDOW ** min(1000, window - self.window)
        self.peak = max(self.peak * leak, self.requests if calm else 0.0)
        self.windows += calm
        self.window = window
        self.requests = self.fresh = self.repeats = 0
        self.refused = self.accepted = 0
        self.sources = set()

    def judge_senders(self) -> None:
        """Note whether its crowd is refused by upstreams anyway (unchanged without any
        answer), and whether its sources are at fewer than ``CROWD_SOURCES`` sites.
        """
        if self.refused or self.accepted:
            self.denied = self.refused > self.accepted
        sites = len({_site_of(one) for one in self.sources})
        self.narrow = sites < CROWD_SOURCES <= len(self.sources)

    def has_neighbours(self, address: str) -> bool:
        """Whether several of its sources are at the site of this address."""
        site = _site_of(address)
        return sum(_site_of(one) == site for one in self.sources) > 1

    def yields(self, other: Template) -> bool:
        """Whether another lasting template may take its place."""
        if self.abusive_until > other.last:
            return False
        return self.windows < other.windows or other.last - self.last > _FORGOTTEN_S

    def brought(self, born: float, now: float) -> bool:
        """Whether a subject first seen at ``born`` came with this template."""
        return came_with(self.born, born, now)

    def fresh_to(self, born: float, now: float) -> bool:
        """Whether a subject is a newcomer, by itself or beside this template."""
        return now - born < NEWCOMER_S or self.brought(born, now)

    def crowd(self) -> float:
        """How many sources there must be, by how soon they come again: n prompts of N
        sources come from N (1 - exp(-n/N)) different ones.
        """
        seen = len(self.sources) + self.repeats
        # Few have come again so far: one or two more might have.
        met = len(self.sources) - _DOUBT
        if met <= 0.0:
            return 0.0
        crowd = seen * seen / (2.0 * (self.repeats + _DOUBT))
        for _ in range(_STEPS):
            crowd = met / (1.0 - exp(-seen / crowd))
        return crowd

    def rate_m(self, now: float) -> float:
        """Prompts of the last sixty seconds."""
        part = min(1.0, max(0.0, now / MINUTE_S - self.minute))
        return self.requests_m + self.requests_b * (1.0 - part)


def _site_of(address: str) -> str:
    """What one customer of a provider has: a /48, or a single IPv4 address."""
    return network_of(address) if ":" in address else address


def came_with(template_born: float, born: float, now: float) -> bool:
    """Whether a subject first seen at ``born`` came with a template, or soon after."""
    return born > template_born - _ARRIVED_S and now - born < _CROWD_S


def is_member(template_born: float, track: SubjectState, now: float) -> bool:
    """Whether a subject belongs to the crowd of a template that was born then."""
    return came_with(template_born, track.born, now) and not track.known(now)


class Templates:
    """The templates of one tenant: at most ``8 x 256`` recent leaders, and as many
    lasting ones, whose place only a template seen in more windows can take, or one
    that is flooded.
    """

    __slots__ = ("_lasting", "_table")

    def __init__(self) -> None:
        self._table: list[Template | None] = [None] * (_BANDS * _SLOTS)
        self._lasting: list[Template | None] = [None] * (_BANDS * _SLOTS)

    def find(self, fingerprint: int) -> tuple[Template | None, int]:
        """The template that a prompt belongs to, and in how many bits it differs."""
        table, lasting = self._table, self._lasting
        for base, byte in zip(_BASES, fingerprint.to_bytes(8, "little"), strict=True):
            found = table[base + byte]
            if found is not None:
                bits = (found.print ^ fingerprint).bit_count()
                if bits <= NEAR_BITS:
                    return found, bits
            kept = lasting[base + byte]
            if kept is not None and kept is not found:
                bits = (kept.print ^ fingerprint).bit_count()
                if bits <= NEAR_BITS:
                    return kept, bits
        return None, 0

    def place(self, template: Template) -> None:
        """Write a leader into the table: when it is new, and again when it was hit."""
        flooded = template.abusive_until > template.last
        lasts = flooded or template.windows >= LASTING_WINDOWS
        table, lasting = self._table, self._lasting
        for base, byte in zip(
            _BASES, template.print.to_bytes(8, "little"), strict=True
        ):
            table[base + byte] = template
            if lasts:
                held = lasting[base + byte]
                if held is None or flooded or held.yields(template):
                    lasting[base + byte] = template

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
        return _by_age(t for t in self._lasting + self._table if t is not None)

    def flooded(self, now: float) -> list[Template]:
        """Those that are flooded, by age: nothing else can take their place."""
        held = self._lasting
        return _by_age(t for t in held if t is not None and t.abusive_until > now)


def _by_age(templates: Iterable[Template]) -> list[Template]:
    unique = {id(t): t for t in templates}
    return sorted(unique.values(), key=lambda t: (t.born, t.print))
