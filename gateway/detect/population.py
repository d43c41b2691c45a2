"""A tenant as a whole: its tide, its peers, its errors, its templates."""

from __future__ import annotations

from gateway.core.lru import Lru
from gateway.detect.baseline import Envelope, new_envelope
from gateway.detect.features import FAILED, MINUTE_S, OK, WINDOW_S, Track
from gateway.detect.model import Event
from gateway.detect.templates import Templates

# Levels of peers are counted in bins of a quarter of a log unit.
_PEER_BINS = 80
_PEER_STEPS = 4
# What peers are believed to do before any was seen: requests a minute, as strongly as
# so many minutes.
_PEER_MINUTE = 6.0
_PEER_WINDOW = 30.0
_PEER_TOKENS = 100_000.0
_PEER_BELIEF = 20.0
_PEER_HALVE = 20_000.0
PEER_QUANTILE = 0.99
REQUESTS_UNIT = 10.0
TOKENS_UNIT = 5_000.0
# The tenant's own tide counts from this level on.
TIDE_UNIT = 100.0
_FAILED_USERS = 64


class Peers:
    """How busy subjects usually are: their counts, as a histogram of logs."""

    __slots__ = ("bins", "seen")

    def __init__(self, first: float = _PEER_MINUTE) -> None:
        self.bins = [0.0] * _PEER_BINS
        self.seen = 0.0
        for busy in range(1, 5):
            self._add(first * busy / 4.0, _PEER_BELIEF / 4.0)

    def learn(self, count: float) -> None:
        """One minute of one subject that ended."""
        self._add(count, 1.0)
        if self.seen > _PEER_HALVE:
            self.bins = [held / 2.0 for held in self.bins]
            self.seen /= 2.0

    def _add(self, count: float, weight: float) -> None:
        at = 0
        level = 1.0
        # Bins grow by a quarter of a log unit: 1, 1.28, 1.65, ...
        while level < count and at < _PEER_BINS - 1:
            level *= _GROWTH
            at += 1
        self.bins[at] += weight
        self.seen += weight

    def restore(self, bins: list[float]) -> None:
        """Take over what was learned."""
        self.bins = bins
        self.seen = sum(bins)

    def busy(self) -> float:
        """What the busiest one in a hundred minutes reach."""
        left = (1.0 - PEER_QUANTILE) * self.seen
        at = _PEER_BINS - 1
        while at and self.bins[at] <= left:
            left -= self.bins[at]
            at -= 1
        return float(_GROWTH**at)


_GROWTH = 1.2840254166877414  # e ** (1 / _PEER_STEPS)


class Subjects(Lru[str, Track]):
    """The subjects of one kind; the least recently seen are forgotten first."""

    __slots__ = ()

    def values(self) -> list[Track]:
        """All of them, those of the longer ago first."""
        return [*self._old.values(), *self._young.values()]


class Remembered(Lru[tuple[str, str, str], bool]):
    """Keys (tenant, kind, id) used lately."""

    __slots__ = ()

    def __contains__(self, key: tuple[str, str, str]) -> bool:
        return key in self._young or key in self._old


class Tenant:
    """All that is known of one tenant, and of the subjects in it."""

    __slots__ = (
        "answers_b",
        "answers_m",
        "blocked_known",
        "born",
        "failed_users",
        "minute",
        "name",
        "newcomers_m",
        "outage_until",
        "peers",
        "peers_t",
        "peers_w",
        "requests",
        "requests_b",
        "requests_m",
        "surge_until",
        "templates",
        "tide",
        "top",
        "tracks",
        "users_m",
        "window",
    )

    def __init__(self, name: str, subjects: int, born: float) -> None:
        self.name = name
        self.born = born
        self.tracks: dict[str, Subjects] = {
            "client_ip": Subjects(subjects),
            "user": Subjects(subjects),
        }
        self.templates = Templates()
        self.peers = Peers()
        self.peers_w = Peers(_PEER_WINDOW)
        self.peers_t = Peers(_PEER_TOKENS)
        self.tide: Envelope = new_envelope(WINDOW_S, TIDE_UNIT)
        self.minute = 0
        self.window = -1
        self.requests = 0  # of the running window
        self.top = 0  # requests of the busiest subject in the running window
        self.requests_m = 0
        self.requests_b = 0
        self.newcomers_m = 0
        self.answers_m = [0] * 5
        self.answers_b = [0] * 5
        self.users_m: set[str] = set()
        self.failed_users: set[str] = set()
        self.outage_until = 0.0
        self.surge_until = 0.0
        self.blocked_known: set[str] = set()

    def count(self, event: Event, kind: int) -> None:
        """Take one event of this tenant in."""
        minute = int(event.ts // MINUTE_S)
        if minute > self.minute:
            self._turn(minute)
        self.requests_m += 1
        self.requests += 1
        self.answers_m[kind] += 1
        if kind == FAILED and len(self.failed_users) < _FAILED_USERS:
            self.failed_users.add(event.user + event.client_ip)

    def _turn(self, minute: int) -> None:
        next_one = minute == self.minute + 1
        self.requests_b = self.requests_m if next_one else 0
        self.answers_b = self.answers_m if next_one else [0] * 5
        self.requests_m = self.newcomers_m = 0
        self.answers_m = [0] * 5
        if not next_one or not self.answers_b[FAILED]:
            self.failed_users = set()
        self.minute = minute

    def failed_share(self) -> float:
        """Share of answers of the last one to two minutes that were upstream errors."""
        failed = self.answers_m[FAILED] + self.answers_b[FAILED]
        return failed / max(1, failed + self.answers_m[OK] + self.answers_b[OK])

    def all_peers(self) -> tuple[Peers, Peers, Peers]:
        """Requests a minute, requests a window, tokens a window."""
        return self.peers, self.peers_w, self.peers_t

    def population(self) -> int:
        """Subjects remembered, of both kinds."""
        return sum(len(tracks) for tracks in self.tracks.values())
