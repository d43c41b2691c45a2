"""The detector of a replay: fed as the control process feeds it, queried as by the gate."""

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
from gateway.stream.time_shift import TimeShiftedReplay

# A longer exchange is observed at this age and again at its end; a shorter one only at
# its end. Same as in workers.
ANNOUNCE_AFTER_S = 0.5
# Interval at which the detector's clock advances. Same as in the control process.
_TICK_S = 1.0
_OUTPUTS = 50_000
# Class of a block whose last output is no longer kept.
_NO_CLASS = ""


class _Due(msgspec.Struct, order=True):
    """An event that is passed to the detector at time ``at``."""

    at: float
    number: int
    event: Event
    has_ended: bool


class Verdicts:
    """Feeds requests to the detector and returns the action on their sender."""

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
        detectors = Detectors(settings_of(policies, default, campaigns), baselines)
        self._detectors: Detectors | TimeShiftedReplay = detectors
        self._shift_decided = baselines is None
        self._ahead_s = 0.0  # shift of the detector's clock
        self._due: list[_Due] = []
        self._number = 0
        self._ticks_at = 0.0
        # The last output about each subject (tenant, kind, id).
        self._outputs: Lru[tuple[str, str, str], Output] = Lru(_OUTPUTS)
        self.incidents: dict[str, int] = {}
        """Opened incidents by class."""

    # -- feeding ----------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Pass all events until ``now`` (epoch seconds) to the detector."""
        if not self._shift_decided and isinstance(self._detectors, Detectors):
            # The first request decides whether time must be shifted past the baselines.
            self._detectors, self._shift_decided = (
                TimeShiftedReplay.shift_if_needed(self._detectors, now),
                True,
            )
            if isinstance(self._detectors, TimeShiftedReplay):
                self._ahead_s = self._detectors.shift_s
        while self._due and self._due[0].at <= now:
            due = heapq.heappop(self._due)
            take = (
                self._detectors.observe_outcome
                if due.has_ended
                else self._detectors.observe
            )
            self._tick(due.at)
            self._take_outputs(take(due.event))
        self._tick(now)

    def _tick(self, now: float) -> None:
        if self._ticks_at <= now < math.inf:
            self._ticks_at = now + _TICK_S
            self._take_outputs(self._detectors.advance(now))

    def add_forwarded(self, request: Request, nanos: int) -> None:
        """Add a request that is forwarded, with its cost."""
        ends = request.ts + request.duration_s
        event = request.event(nanos / NANOS_PER_USD, ends)
        long = request.duration_s > ANNOUNCE_AFTER_S
        if long:
            announced_at = request.ts + ANNOUNCE_AFTER_S
            self._put(unanswered(event, announced_at))
        self._put(event, has_ended=long)

    def add_refused(self, request: Request) -> None:
        """Add a request that the gateway refuses by policy, as one without tokens."""
        event = unanswered(request.event(0.0, request.ts), request.ts)
        self._put(
            msgspec.structs.replace(
                event, prompt_tokens=0, completion_tokens=0, total_tokens=0
            )
        )

    def add_answered(self, request: Request) -> None:
        """Add a request that the gateway answers itself under any policy."""
        self._put(request.event(0.0, request.ts + request.duration_s))

    def _put(self, event: Event, *, has_ended: bool = False) -> None:
        self._number += 1
        heapq.heappush(self._due, _Due(event.ts, self._number, event, has_ended))

    def close(self) -> None:
        """Process all pending events; the end of the replay."""
        self.advance(math.inf)
        self._take_outputs(self._detectors.close())

    def _take_outputs(self, outputs: list[Output]) -> None:
        for output in outputs:
            if output.type == "incident.opened":
                self.incidents[output.cls] = self.incidents.get(output.cls, 0) + 1
            elif output.type.startswith("client."):
                subject = output.subject
                self._outputs.put((output.tenant, subject.kind, subject.id), output)

    # -- actions ----------------------------------------------------------------------

    def action_on(self, request: Request) -> Block | None:
        """The strictest action on the sender: a block, then the slowest throttle, then a
        tag.
        """
        engine = self._detectors.engine_of(request.tenant)
        if engine is None:
            return None
        now, worst = request.ts + self._ahead_s, None
        for kind, id_ in (("client_ip", request.client_ip), ("user", request.user)):
            if id_ == ANONYMOUS:
                continue
            state = engine.responses.states.get((request.tenant, kind, id_))
            if state is None or state.action == "allow" or now >= state.until:
                continue
            found = self._block(request.tenant, kind, id_, state)
            if worst is None or _order(found) < _order(worst):
                worst = found
        return worst

    def _block(
        self, tenant: str, kind: str, id_: str, state: EnforcementState
    ) -> Block:
        output = self._outputs.get((tenant, kind, id_))
        rate = 0
        if state.action == "throttle":
            share = self._policies.get(tenant, self._default).anomaly.throttle_share
            rate = LEAST_RATE if output is None else allowed_rate(output, share)
        return Block(
            kind,
            id_,
            tenant,
            state.until - self._ahead_s,
            by=DETECTOR,
            action=state.action,  # type: ignore[arg-type]  # "allow" was left out
            cls=_NO_CLASS if output is None else output.cls,
            score=0.0 if output is None else output.score,
            rate=rate,
        )


def _order(block: Block) -> tuple[int, int, float]:
    """Sort key of actions: the gate applies the smallest one."""
    return ("block", "throttle", "tag").index(block.action), block.rate, -block.score
