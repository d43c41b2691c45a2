"""State of one tenant: seasonal baseline, peers, errors, templates."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from itertools import accumulate
from operator import mul

from gateway.core.lru import Lru
from gateway.detect.baseline import UpperBaseline, new_upper_baseline
from gateway.detect.model import REFUSED_STATUS, Event
from gateway.detect.peers import LEAST_PEERS, ConcurrentPeers
from gateway.detect.subject import (
    FAILED,
    KNOWN_ANSWERS,
    MINUTE_S,
    WINDOW_S,
    SubjectState,
)
from gateway.detect.templates import Template, Templates

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
# Shares of the remembered subjects that are kept for those without a good answer, and
# for those with fewer than KNOWN_ANSWERS, while there are others.
_STRANGERS_SHARE = 1 / 8
_NEWER_SHARE = 1 / 4
_LAST_RANK = 2
# The tenant's own tide counts from this level on.
BASELINE_UNIT = 100.0
# Windows from which on it is known.
BASELINE_KNOWN = 36
_FAILED_USERS = 64
# New networks of a key are counted over so long, where so large a share of its peers has
# one or two.
_FAN_OUT_S = 120.0
_ALONE_SHARE = 0.8
# Share of shared prompts in other words from which nobody's words are a template.
_LOOSE = 0.3
# Templates that newcomers share, of the last ten minutes; and the bits within which a
# prompt is a further wording of one. Of unrelated prompts one in 3,000 is that near.
_WORDINGS = 16
# Established clients whose last prompt is remembered, and how many are several.
_ASKERS = 256
_SEVERAL = 3
_ASKED_BITS = 13
# Sources that are remembered for insisting on what newcomers share.
_INSISTENT = 64
_WORDED_BITS = 18
# Newcomers' prompts of a window: an average of half a day, of at most three times it.
_TIDE_STEP = 1 / 72
_TIDE_LEARNED = 3.0
_TIDE_LEAST = 5.0


class HistoricalPeers:
    """Historical peer group: how busy subjects usually are, as a histogram of log
    counts.
    """

    __slots__ = ("_busy", "_fresh", "bins", "seen")

    def __init__(self, first: float = _PEER_MINUTE) -> None:
        self.bins = [0.0] * _PEER_BINS
        self.seen = 0.0
        self._busy = 0.0
        self._fresh = 0  # learned since ``_busy`` was found
        for busy in range(1, 5):
            self._add(first * busy / 4.0, _PEER_BELIEF / 4.0)

    def learn(self, count: float) -> None:
        """One minute of one subject that ended."""
        self._add(count, 1.0)
        if self.seen > _PEER_HALVE:
            self.bins = [held / 2.0 for held in self.bins]
            self.seen /= 2.0
        if self._fresh > self.seen / 100.0:
            self._find_busy()

    def _add(self, count: float, weight: float) -> None:
        self.bins[min(_PEER_BINS - 1, bisect_left(_LEVELS, count))] += weight
        self.seen += weight
        self._fresh += 1

    def restore(self, bins: list[float]) -> None:
        """Take over what was learned."""
        self.bins = bins
        self.seen = sum(bins)
        self._busy = 0.0

    def busy(self) -> float:
        """What the busiest one in a hundred minutes reach; found anew when a
        hundredth of what is known is new.
        """
        if not self._busy:
            self._find_busy()
        return self._busy

    def _find_busy(self) -> None:
        left = (1.0 - PEER_QUANTILE) * self.seen
        at = _PEER_BINS - 1
        while at and self.bins[at] <= left:
            left -= self.bins[at]
            at -= 1
        self._busy = float(_GROWTH**at)
        self._fresh = 0


_GROWTH = 1.2840254166877414  # e ** (1 / _PEER_STEPS)
# Bins grow by a quarter of a log unit: 1, 1.28, 1.65, ...
_LEVELS = list(accumulate([_GROWTH] * (_PEER_BINS - 1), mul, initial=1.0))


class Subjects:
    """The subjects of one kind, at most ``capacity``, in three ranks: without a good
    answer, with a few, with ``KNOWN_ANSWERS``. When there are too many, the least
    recently seen one of the lowest rank above its share is forgotten, so that clients
    which upstreams refuse do not evict those which they serve.
    """

    __slots__ = ("_capacity", "_ranks")

    def __init__(self, capacity: int) -> None:
        self._capacity = max(1, capacity)
        self._ranks: tuple[OrderedDict[str, SubjectState], ...] = (
            OrderedDict(),
            OrderedDict(),
            OrderedDict(),
        )

    def get(self, key: str) -> SubjectState | None:
        """The subject ``key``, which is marked as seen now; None if absent."""
        for rank in (2, 1, 0):
            held = self._ranks[rank]
            found = held.get(key)
            if found is None:
                continue
            if rank < _LAST_RANK and _rank_of(found) > rank:
                del held[key]
                self._ranks[_rank_of(found)][key] = found
            else:
                held.move_to_end(key)
            return found
        return None

    def put(self, key: str, track: SubjectState) -> None:
        """Add a subject, or replace the one of that id."""
        for held in self._ranks:
            held.pop(key, None)
        self._ranks[_rank_of(track)][key] = track
        if len(self) > self._capacity:
            self._forget_one()

    def _forget_one(self) -> None:
        strangers, newer, _ = self._ranks
        if len(strangers) > self._capacity * _STRANGERS_SHARE:
            strangers.popitem(last=False)
        elif len(newer) > self._capacity * _NEWER_SHARE:
            newer.popitem(last=False)
        else:
            max(self._ranks, key=len).popitem(last=False)

    def __len__(self) -> int:
        return sum(map(len, self._ranks))

    def values(self) -> list[SubjectState]:
        """All of them by rank, those seen longest ago first."""
        return [track for held in self._ranks for track in held.values()]


def _rank_of(track: SubjectState) -> int:
    return (track.answered > 0) + (track.answered >= KNOWN_ANSWERS)


class RecentKeys(Lru[tuple[str, str, str], bool]):
    """Keys (tenant, kind, id) used recently."""

    __slots__ = ()

    def __contains__(self, key: tuple[str, str, str]) -> bool:
        return key in self._young or key in self._old


class TenantState:
    """State of one tenant and of its subjects."""

    __slots__ = (
        "abused",
        "answers_b",
        "answers_m",
        "asked",
        "blocked_known",
        "born",
        "burst_b",
        "burst_m",
        "concurrent",
        "concurrent_ips",
        "concurrent_users",
        "failed_users",
        "flooded",
        "insistent",
        "ips",
        "loose",
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
        "seasonal_baseline",
        "shared_prompts",
        "subjects",
        "surge_until",
        "templates",
        "top",
        "users",
        "users_m",
        "varied",
        "varied_usual",
        "window",
        "worded",
        "wordings",
        "young",
    )

    def __init__(self, name: str, subjects: int, born: float) -> None:
        self.name = name
        self.born = born
        self.ips, self.users = Subjects(subjects), Subjects(subjects)
        self.subjects: dict[str, Subjects] = {"client_ip": self.ips, "user": self.users}
        self.concurrent_ips, self.concurrent_users = (
            ConcurrentPeers(),
            ConcurrentPeers(),
        )
        self.concurrent: dict[str, ConcurrentPeers] = {
            "client_ip": self.concurrent_ips,
            "user": self.concurrent_users,
        }
        self.templates = Templates()
        self.peers = HistoricalPeers()
        self.peers_w = HistoricalPeers(_PEER_WINDOW)
        self.peers_t = HistoricalPeers(_PEER_TOKENS)
        self.seasonal_baseline: UpperBaseline = new_upper_baseline(
            WINDOW_S, BASELINE_UNIT
        )
        self.minute = 0
        self.window = -1
        self.requests = 0  # of the running window
        self.top = 0  # requests of the busiest subject in the running window
        self.young = 0  # of those, newcomers' prompts of young templates
        self.abused = False  # whether somebody was found abusive in it
        self.shared_prompts = 0  # and of those that several sources share
        self.wordings: dict[int, float] = {}  # such templates, and when they came last
        self.asked: dict[str, int] = {}  # what established clients asked last
        self.worded: Template | None = None  # all of them together, and what is near
        self.loose = 0  # of ``walked``: in words that made no template of their own
        self.insistent: set[str] = set()  # sources that asked the same for long
        self.flooded = 0  # and prompts of templates that are flooded
        self.varied = 0  # and newcomers' other prompts, with what is usual of them
        self.varied_usual = 0.0
        self.requests_m = 0
        self.requests_b = 0
        self.burst_m = 0  # newcomers' prompts of shared templates that are quite new
        self.burst_b = 0
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
        self.requests_m += event.times
        self.requests += event.times
        if event.status != REFUSED_STATUS:
            self.count_outcome(event, kind)

    def count_outcome(self, event: Event, kind: int) -> None:
        """Count how a request was answered."""
        self.answers_m[kind] += event.times
        if kind == FAILED and len(self.failed_users) < _FAILED_USERS:
            self.failed_users.add(event.user + event.client_ip)

    def _turn(self, minute: int) -> None:
        for live in self.concurrent.values():
            live.turn(minute - self.minute)
        next_one = minute == self.minute + 1
        self.requests_b = self.requests_m if next_one else 0
        self.burst_b = self.burst_m if next_one else 0
        self.answers_b = self.answers_m if next_one else [0] * 5
        self.requests_m = self.burst_m = self.newcomers_m = 0
        self.answers_m = [0] * 5
        if not next_one or not self.answers_b[FAILED]:
            self.failed_users = set()
        self.minute = minute

    def turn_newcomers(self) -> None:
        """A window is over: how many prompts newcomers usually send. What is far more
        than that is a tide and moves it little.
        """
        usual = self.varied_usual
        seen = min(float(self.varied), _TIDE_LEARNED * max(usual, _TIDE_LEAST))
        self.varied_usual += (seen - usual) * _TIDE_STEP
        self.varied = self.shared_prompts = self.loose = 0
        self.insistent = set()
        self.abused = False

    def learn_asked(self, subject: str, print_: int) -> None:
        """What an established client asks now."""
        asked = self.asked
        if subject not in asked and len(asked) >= _ASKERS:
            del asked[next(iter(asked))]
        asked[subject] = print_

    def is_asked(self, template: int) -> bool:
        """Whether several established clients ask much the same: it is the wording of
        an application, and newcomers who use it are its visitors.
        """
        near = 0
        for print_ in self.asked.values():
            near += (template ^ print_).bit_count() <= _ASKED_BITS
        return near >= _SEVERAL

    def share(self, template: int, now: float) -> None:
        """A young template that several newcomers send."""
        wordings = self.wordings
        if template not in wordings and len(wordings) >= _WORDINGS:
            del wordings[min(wordings, key=lambda one: (wordings[one], one))]
        wordings[template] = now

    def is_worded_anew(self, fingerprint: int, now: float) -> bool:
        """Whether a prompt says in other words what newcomers share: it is nearer to
        one of their templates than chance would have it.
        """
        return any(
            (one ^ fingerprint).bit_count() <= _WORDED_BITS and now - at < WINDOW_S
            for one, at in self.wordings.items()
        )

    @property
    def soft(self) -> bool:
        """Whether what newcomers share is said in ever other words, as people would:
        visitors of a new application, or a crowd that hides among such.
        """
        return self.loose > _LOOSE * self.shared_prompts

    def insist(self, source: str) -> None:
        """A newcomer asks what others do, for longer than a visitor would."""
        if len(self.insistent) < _INSISTENT:
            self.insistent.add(source)

    def count_worded(
        self,
        print_: int,
        ts: float,
        source: str,
        *,
        refused: bool,
        accepted: bool = False,
        times: int,
    ) -> Template:
        """One more newcomer's prompt that is a wording of what others ask. All such
        prompts are taken for one template, which is some older than its wave.
        """
        crowd = self.worded
        if crowd is None or ts - crowd.last > WINDOW_S:
            # It takes a while until wordings are seen to be such.
            crowd = self.worded = Template(print=print_, born=ts - WINDOW_S, last=ts)
            crowd.minute = int(ts // MINUTE_S)
            crowd.window = int(ts // WINDOW_S)
        crowd.count(
            ts,
            source,
            _WORDED_BITS,
            fresh=True,
            refused=refused,
            accepted=accepted,
            times=times,
        )
        crowd.windows = 0  # it is nobody's own
        return crowd

    def rate_m(self, now: float) -> float:
        """Requests of the last sixty seconds."""
        return self.requests_m + self.requests_b * self._still_of_before(now)

    def burst_rate_m(self, now: float) -> float:
        """Newcomers' prompts of the last sixty seconds that follow shared templates of
        the last half hour.
        """
        return self.burst_m + self.burst_b * self._still_of_before(now)

    def _still_of_before(self, now: float) -> float:
        return 1.0 - min(1.0, max(0.0, now / MINUTE_S - self.minute))

    def fan_out(self, track: SubjectState, now: float) -> int:
        """Networks that a key came from for the first time in the last two minutes,
        where the keys of its peers have a single one; else 0.
        """
        peers = [self.users.get(id_) for id_ in self.concurrent_users.counts]
        alone = sum(peer is not None and len(peer.company) <= 2 for peer in peers)  # noqa: PLR2004
        if len(peers) < LEAST_PEERS or alone < _ALONE_SHARE * len(peers):
            return 0
        return sum(now - since <= _FAN_OUT_S for since in track.company.values())

    def expected_rate_m(self) -> float:
        """Requests a minute that this tenant is expected to make at most; 0 while its
        tide is not known (six hours).
        """
        tide = self.seasonal_baseline
        if tide.age < BASELINE_KNOWN or self.window <= tide.last:
            return 0.0
        return tide.count(tide.expect(self.window).level) / (WINDOW_S / MINUTE_S)

    def all_peers(self) -> tuple[HistoricalPeers, HistoricalPeers, HistoricalPeers]:
        """Requests a minute, requests a window, tokens a window."""
        return self.peers, self.peers_w, self.peers_t

    def company(self) -> int:
        """How many addresses, or users, have been seen; the larger."""
        return max(len(tracks) for tracks in self.subjects.values())

    def population(self) -> int:
        """Subjects remembered, of both kinds."""
        return sum(len(tracks) for tracks in self.subjects.values())
