"""Judges one run: what was found against what really happened."""

from __future__ import annotations

from collections import Counter
from statistics import median

import msgspec

from loadtests.scenarios.detectors import ACTIONS, Finding, Subject
from loadtests.scenarios.labels import Cause
from loadtests.scenarios.rows import Row
from loadtests.scenarios.world import World

# Findings so long after an attack's last request may still be about it.
AFTERWARDS_S = 900.0
# Honest causes echo longer (retries, people who stay).
HONEST_AFTERWARDS_S = 3600.0
# A key or an address that was abused may stay blocked for so long.
FORGIVEN_S = 86_400.0
WINDOW_S = 300.0
HARMLESS = ("surge", "outage")
TOUCHING = ("client.throttled", "client.blocked")
ACTING = ("client.tagged", *TOUCHING)


class Episode(msgspec.Struct):
    """One attack as it went: seconds are event time since its first request."""

    name: str
    cls: str
    difficulty: str
    loud: bool
    tenant: str = ""
    seed: int = 0
    requests: int = 0
    detected_after: float | None = None
    acted_after: float | None = None
    named: str = ""
    right: bool = False
    incidents: int = 0
    tokens_before: int = 0
    sent_after: int = 0
    refused_after: int = 0
    began: float = 0.0

    @property
    def refused_share(self) -> float:
        """Share of its own requests refused since it was detected."""
        return self.refused_after / self.sent_after if self.sent_after else 1.0


class Surroundings(msgspec.Struct):
    """What one run did to everybody else."""

    seed: int
    days: float
    events: int = 0
    subjects: int = 0
    touched: list[str] = []
    touched_by: dict[str, int] = {}
    tagged: int = 0
    innocent_requests: int = 0
    innocent_refused: int = 0
    false_incidents: int = 0
    false_by: dict[str, int] = {}
    false_information: int = 0
    honest_named: int = 0
    honest_nameable: int = 0
    honest_incidents: dict[str, float] = {}
    windows: int = 0
    false_windows: int = 0
    making_s: float = 0.0
    watching_s: float = 0.0


class Result(msgspec.Struct):
    """One detector on one world."""

    detector: str
    world: Surroundings
    episodes: list[Episode]


class Tally:
    """Collects while the loop runs; ``result`` when it has ended."""

    def __init__(self, world: World, detector: str) -> None:
        self.world = world
        self.detector = detector
        self.causes = world.ledger.causes
        self.episodes: dict[int, Episode] = {}
        self._seen: set[Subject] = set()
        self._touched: dict[Subject, str] = {}
        self._tagged: set[Subject] = set()
        self._false_by: Counter[str] = Counter()
        self._false_windows: set[tuple[Subject, int]] = set()
        self._honest_incidents: Counter[int] = Counter()
        self._named: set[int] = set()
        self._incidents: dict[str, Cause | None] = {}
        self._window = -1
        self._in_window: set[str] = set()
        settings = world.settings
        self.facts = Surroundings(seed=settings.seed, days=settings.days)

    # -- requests --------------------------------------------------------------------

    def admitted(self, row: Row, *, again: bool) -> None:
        """A request that went through."""
        self._met(row)
        if not row.cause:
            return
        episode = self._episode(row)
        if episode is None or again:
            return
        episode.requests += 1
        if episode.acted_after is None:
            episode.tokens_before += row.total_tokens
        if episode.detected_after is not None:
            episode.sent_after += 1

    def refused(self, row: Row, *, again: bool) -> None:
        """A request that the detector's action kept out."""
        self._met(row)
        episode = self._episode(row) if row.cause else None
        if episode is None:
            self._innocent_refused(row)
            return
        if episode.acted_after is None:
            episode.acted_after = row.ts - episode.began
        if episode.detected_after is None:  # an older block keeps it out
            episode.detected_after = row.ts - episode.began
        if not again:
            episode.requests += 1
            if episode.detected_after is not None:
                episode.sent_after += 1
                episode.refused_after += 1

    def _met(self, row: Row) -> None:
        facts = self.facts
        facts.events += 1
        if self.causes[row.cause].kind == "attack":
            return
        self._seen.add(("client_ip", row.client_ip))
        if row.user != "anonymous":
            self._seen.add(("user", row.user))
        facts.innocent_requests += 1
        window = int(row.ts // WINDOW_S)
        if window != self._window:
            facts.windows += len(self._in_window)
            self._window = window
            self._in_window.clear()
        self._in_window.add(_who(row)[1])

    def _episode(self, row: Row) -> Episode | None:
        cause = self.causes[row.cause]
        if cause.kind != "attack":
            return None
        episode = self.episodes.get(cause.index)
        if episode is None:
            episode = Episode(cause.name, cause.cls, cause.difficulty, cause.loud)
            episode.began = row.ts
            episode.tenant = row.tenant
            episode.seed = self.facts.seed
            self.episodes[cause.index] = episode
        return episode

    def _innocent_refused(self, row: Row) -> None:
        self.facts.innocent_refused += 1
        who = _who(row)
        if who not in self._touched and not self._guilty(who, row.ts):
            self._touched[who] = self._sort_of(row)

    def _sort_of(self, row: Row) -> str:
        cause = self.causes[row.cause]
        return cause.name if cause.index else self.world.life_of(row.user)

    def _guilty(self, subject: Subject, ts: float) -> bool:
        """Whether it is in an attacker's hands, or was within the last day."""
        return any(
            cause.kind == "attack"
            and cause.start <= ts <= cause.end + FORGIVEN_S
            and _holds(cause, subject)
            for cause in self.causes
        )

    # -- findings --------------------------------------------------------------------

    def found(self, finding: Finding) -> None:
        """Something that the detector said."""
        if finding.type in {"incident.resolved", "client.unblocked"}:
            return
        attack = self._attack_of(finding)
        if finding.type in ACTING:
            self._acted(finding, attack)
        elif attack is not None and finding.cls not in HARMLESS:
            self._incident_of(finding, attack)
        elif finding.type == "incident.opened":
            self._incident_of_honest(finding, attack)

    def _attack_of(self, finding: Finding) -> Cause | None:
        """The running attack that the finding is about, the best match first."""
        running = [
            cause
            for cause in self.causes
            if cause.index in self.episodes
            and cause.start <= finding.ts <= cause.end + AFTERWARDS_S
        ]
        for subject in (finding.subject, *finding.subjects):
            for cause in running:
                if _holds(cause, subject):
                    return cause
        if finding.subject[0] != "tenant" or finding.subjects:
            return None
        wanted = (finding.subject[1], "*")
        return next((c for c in running if c.tenant in wanted), None)

    def _acted(self, finding: Finding, attack: Cause | None) -> None:
        touching = finding.type in TOUCHING
        if attack is not None:
            episode = self.episodes[attack.index]
            self._detected(episode, finding)
            if touching and episode.acted_after is None:
                episode.acted_after = finding.ts - episode.began
            return
        if self._guilty(finding.subject, finding.ts):
            return
        self._false_window(finding)
        self._tagged.add(finding.subject)
        if touching and finding.action in ACTIONS[2:]:
            self._touched.setdefault(finding.subject, self._blamed(finding))

    def _detected(self, episode: Episode, finding: Finding) -> None:
        if episode.detected_after is None:
            episode.detected_after = finding.ts - episode.began

    def _incident_of(self, finding: Finding, attack: Cause) -> None:
        episode = self.episodes[attack.index]
        self._detected(episode, finding)
        self._incidents[finding.id] = attack
        if finding.type == "incident.opened":
            episode.incidents += 1
        if not episode.right:  # the name may be corrected while the attack goes on
            episode.named = finding.cls
            episode.right = finding.cls in attack.right_classes

    def _incident_of_honest(self, finding: Finding, attack: Cause | None) -> None:
        honest = self._honest_of(finding)
        if honest is not None:
            self._honest_incidents[honest.index] += 1
        if finding.cls in HARMLESS:
            if honest is not None and honest.cls == finding.cls:
                self._named.add(honest.index)
            elif attack is None:
                self.facts.false_information += 1
        elif finding.severity != "info":
            self.facts.false_incidents += 1
            self._false_by[f"{self._blamed(finding)}: {finding.cls}"] += 1
            self._false_window(finding)

    def _honest_of(self, finding: Finding) -> Cause | None:
        """The honest cause that the finding is about, if it is about one."""
        subjects = (finding.subject, *finding.subjects)
        best = None
        for cause in self.causes:
            if cause.kind != "honest" or not (
                cause.start <= finding.ts <= cause.end + HONEST_AFTERWARDS_S
            ):
                continue
            if any(_holds(cause, subject) for subject in subjects):
                return cause
            crowd = finding.subject[0] == "tenant" and cause.cls == finding.cls
            if crowd and finding.subject[1] in {cause.tenant, "*"}:
                best = cause
            elif crowd and cause.cls == "outage":
                best = best or cause
        return best

    def _blamed(self, finding: Finding) -> str:
        """Who was wronged: an honest cause, or a way of life."""
        honest = self._honest_of(finding)
        if honest is not None:
            return honest.name
        kind, id_ = finding.subject
        return self.world.life_of(id_) if kind == "user" else kind

    def _false_window(self, finding: Finding) -> None:
        self._false_windows.add((finding.subject, int(finding.ts // WINDOW_S)))

    # -- the end ---------------------------------------------------------------------

    def result(self, making_s: float, watching_s: float) -> Result:
        """Everything that the run has shown."""
        facts = self.facts
        facts.subjects = len(self._seen)
        facts.touched = sorted(f"{k}:{v}" for k, v in self._touched)
        facts.touched_by = dict(Counter(self._touched.values()))
        facts.tagged = len(self._tagged)
        facts.false_by = dict(self._false_by.most_common())
        facts.windows += len(self._in_window)
        facts.false_windows = len(self._false_windows)
        facts.making_s, facts.watching_s = making_s, watching_s
        nameable = [c for c in self.causes if c.kind == "honest" and c.cls]
        facts.honest_nameable = len(nameable)
        facts.honest_named = len(self._named)
        facts.honest_incidents = self._per_honest_cause()
        return Result(self.detector, facts, list(self.episodes.values()))

    def _per_honest_cause(self) -> dict[str, float]:
        """Incidents opened per honest cause, by its name."""
        causes: dict[str, list[int]] = {}
        for cause in self.world.ledger.honest():
            opened = self._honest_incidents[cause.index]
            causes.setdefault(cause.name, []).append(opened)
        return {name: sum(n) / len(n) for name, n in causes.items()}


def _who(row: Row) -> Subject:
    """Whom a request stands for."""
    if row.user == "anonymous":
        return ("client_ip", row.client_ip)
    return ("user", row.user)


def _holds(cause: Cause, subject: Subject) -> bool:
    kind, id_ = subject
    if kind == "user":
        return id_ in cause.users
    return kind == "client_ip" and id_ in cause.ips


def quantile(values: list[float], share: float) -> float:
    """The value below which ``share`` of the values lie; nan for none."""
    if not values:
        return float("nan")
    if share == 0.5:
        return median(values)
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
