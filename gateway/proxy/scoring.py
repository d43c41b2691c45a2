"""Steps 5 and 6: what is thought of a request, and what was decided about its sender.

Control's decisions come as entries of the gate: blocks are refused there, a tag goes
along with the request, a throttle is one more limit that is reserved with the others.
The score of the request itself is for its record and for the upstream's eyes.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from gateway.core.lru import Lru
from gateway.core.prompt import prompt_head
from gateway.detect.fingerprint import fingerprint_bytes
from gateway.detect.inline import InlineScorer, Verdict
from gateway.limits.plans import LimitPlan, throttled_plan

if TYPE_CHECKING:
    from gateway.core.model import Block
    from gateway.identity.identify import Identity
    from gateway.limits.gate import Gate
    from gateway.proxy.exchange import Exchange

# Heads of prompts whose fingerprint is remembered: the same again costs a look-up.
MAX_PRINTS = 2048
MAX_THROTTLED = 4096
_UNSAFE = str.maketrans({";": " ", "\r": " ", "\n": " "})


class Scoring:
    """What scoring remembers in one worker."""

    def __init__(self, gate: Gate, prefix: bytes) -> None:
        self.gate = gate
        self.prefix = prefix
        self.inline = InlineScorer()
        self.delayed = 0
        self.delays_refused = 0
        self._prints: Lru[bytes, int] = Lru(MAX_PRINTS)
        self._plans: Lru[tuple[LimitPlan, str, str, int], LimitPlan] = Lru(
            MAX_THROTTLED
        )

    def fingerprint(self, body: bytes) -> int | None:
        """The similarity hash of a request's newest text; None without any."""
        head = prompt_head(body)
        if not head:
            return None
        found = self._prints.get(head)
        if found is None:
            found = fingerprint_bytes(head)
            self._prints.put(head, found)
        return found

    def plan(
        self, exchange: Exchange, identity: Identity, plan: LimitPlan, epoch: float
    ) -> LimitPlan:
        """The plan with what a throttled sender is held to; notes where it stands."""
        standing = self.gate.find_standing(identity, epoch)
        if standing is None:
            return plan
        exchange.verdict = verdict_of(standing)
        if standing.action != "throttle":
            return plan
        key = (plan, standing.kind, standing.id, standing.rate)
        throttled = self._plans.get(key)
        if throttled is None:
            name = identity.tenant.name
            throttled = throttled_plan(plan, self.prefix, name, standing)
            self._plans.put(key, throttled)
        return throttled

    def score(self, exchange: Exchange, identity: Identity, epoch: float) -> None:
        """Score one admitted request; what was decided about its sender stands."""
        began = perf_counter()
        counted = 0
        plan, reserved = exchange.plan, exchange.reserved
        if plan is not None and reserved is not None and reserved.sums:
            for place in plan.minute_places:
                counted = max(counted, reserved.sums[place])
        verdict = self.inline.score_one(identity, counted, exchange.fingerprint, epoch)
        if exchange.verdict.rung == "allow":
            exchange.verdict = verdict
        exchange.score_s = perf_counter() - began

    def may_hold(self, exchange: Exchange, identity: Identity) -> bool:
        """Whether a throttled request is held instead of refused; counts it."""
        anomaly = identity.policy.anomaly
        if anomaly.delay_s <= 0.0 or exchange.held:
            return False
        if self.delayed >= anomaly.max_delayed:
            self.delays_refused += 1
            return False
        self.delayed += 1
        exchange.held = True
        return True


def verdict_of(block: Block) -> Verdict:
    """A decision of control as records show it."""
    reasons = (block.reason,) if block.reason else ()
    return Verdict(block.score, block.action, block.cls or None, reasons)


def verdict_line(verdict: Verdict) -> bytes:
    """The header line for the upstream (interfaces: section 4)."""
    cls = (verdict.cls or "volume").translate(_UNSAFE)
    return f"X-Tidegate-Verdict: {cls};score={verdict.score:.1f};action={verdict.rung}\r\n".encode()
