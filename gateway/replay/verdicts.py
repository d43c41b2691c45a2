"""The detector of a draft, fed as control feeds it, asked as the gate asks it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping

import msgspec

from gateway.core.lru import Lru
from gateway.core.model import DETECTOR, NANOS_PER_USD, Block, Campaign, Policy
from gateway.detect.detectors import Detectors, settings_of
from gateway.detect.event_mapping import unanswered
from gateway.detect.ladder import LEAST_RATE, EnforcementState, allowed_rate
from gateway.detect.model import Event, Output
from gateway.identity.identify import ANONYMOUS
from gateway.replay.requests import Request
from gateway.stream.later import Later

# An exchange that takes longer is told of when it is so old, and again when it ends; a
# shorter one only at its end. As workers do it.
ANNOUNCE_AFTER_S = 0.5
# How often the detector is told the time. As control does it.
_TICK_S = 1.0
_SAID = 50_000
# Stands for ``expected`` where nothing is known of a verdict any more.
_NO_CLASS = ""


class _Due(msgspec.Struct, order=True):
    """An event that the detector hears of at a certain time."""

    at: float
    number: int
    event: Event
    settles: bool


class Verdicts:
    """Takes requests as they arrive; tells what stands against their senders."""

    def __init__(
        self,
        policies: Mapping[str, Policy],
        default: Policy,
        campaigns: tuple[Campaign, ...],
        baselines: bytes | None = None,
    ) -> None:
        """Raises BaselinesError."""
        self._policies = policies
        self._default = default
        rooms = Detectors(settings_of(policies, default, campaigns), baselines)
        self._rooms: Detectors | Later = rooms
        self._begun = baselines is None
        self._ahead_s = 0.0  # of the detector's own clock
        self._due: list[_Due] = []
        self._number = 0
        self._ticks_at = 0.0
        # By tenant, kind, id: the last line about it.
        self._said: Lru[tuple[str, str, str], Output] = Lru(_SAID)
        self.incidents: dict[str, int] = {}
        """Incidents opened, by class."""

    # -- what it hears -----------------------------------------------------------------

    def advance(self, now: float) -> None:
        """All that ended until ``now`` (epoch seconds)."""
        if not self._begun and isinstance(self._rooms, Detectors):
            # With the first request it is known how its time stands to the baselines'.
            self._rooms, self._begun = Later.for_first(self._rooms, now), True
            if isinstance(self._rooms, Later):
                self._ahead_s = self._rooms.shift_s
        while self._due and self._due[0].at <= now:
            due = heapq.heappop(self._due)
            take = self._rooms.observe_outcome if due.settles else self._rooms.observe
            self._tick(due.at)
            self._hear(take(due.event))
        self._tick(now)

    def _tick(self, now: float) -> None:
        if self._ticks_at <= now < math.inf:
            self._ticks_at = now + _TICK_S
            self._hear(self._rooms.advance(now))

    def passes(self, request: Request, nanos: int) -> None:
        """A request that goes on to the upstream, and what it will have cost."""
        ends = request.ts + request.duration_s
        event = request.event(nanos / NANOS_PER_USD, ends)
        long = request.duration_s > ANNOUNCE_AFTER_S
        if long:
            said = request.ts + ANNOUNCE_AFTER_S
            self._put(unanswered(event, said))
        self._put(event, settles=long)

    def refused(self, request: Request) -> None:
        """A request that the gateway refuses by policy."""
        event = unanswered(request.event(0.0, request.ts), request.ts)
        self._put(
            msgspec.structs.replace(
                event, prompt_tokens=0, completion_tokens=0, total_tokens=0
            )
        )

    def answered(self, request: Request) -> None:
        """A request that the gateway answers itself, whatever the policy is."""
        self._put(request.event(0.0, request.ts + request.duration_s))

    def _put(self, event: Event, *, settles: bool = False) -> None:
        self._number += 1
        heapq.heappush(self._due, _Due(event.ts, self._number, event, settles))

    def close(self) -> None:
        """No more requests."""
        self.advance(math.inf)
        self._hear(self._rooms.close())

    def _hear(self, outputs: list[Output]) -> None:
        for output in outputs:
            if output.type == "incident.opened":
                self.incidents[output.cls] = self.incidents.get(output.cls, 0) + 1
            elif output.type.startswith("client."):
                subject = output.subject
                self._said.put((output.tenant, subject.kind, subject.id), output)

    # -- what it decided ---------------------------------------------------------------

    def standing_of(self, request: Request) -> Block | None:
        """What is done to the sender now: the block first, then the slowest throttle,
        then a tag.
        """
        engine = self._rooms.engine_of(request.tenant)
        if engine is None:
            return None
        now, worst = request.ts + self._ahead_s, None
        for kind, id_ in (("client_ip", request.client_ip), ("user", request.user)):
            if id_ == ANONYMOUS:
                continue
            standing = engine.responses.states.get((request.tenant, kind, id_))
            if standing is None or standing.action == "allow" or now >= standing.until:
                continue
            found = self._block(request.tenant, kind, id_, standing)
            if worst is None or _order(found) < _order(worst):
                worst = found
        return worst

    def _block(
        self, tenant: str, kind: str, id_: str, standing: EnforcementState
    ) -> Block:
        said = self._said.get((tenant, kind, id_))
        rate = 0
        if standing.action == "throttle":
            share = self._policies.get(tenant, self._default).anomaly.throttle_share
            rate = LEAST_RATE if said is None else allowed_rate(said, share)
        return Block(
            kind,
            id_,
            tenant,
            standing.until - self._ahead_s,
            by=DETECTOR,
            action=standing.action,  # type: ignore[arg-type]  # "allow" was left out
            cls=_NO_CLASS if said is None else said.cls,
            score=0.0 if said is None else said.score,
            rate=rate,
        )


def _order(block: Block) -> tuple[int, int, float]:
    """As the gate orders them."""
    return ("block", "throttle", "tag").index(block.action), block.rate, -block.score
