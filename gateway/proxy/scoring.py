"""State of scoring in one worker: fingerprints, throttled plans, delayed requests.

Control's decisions are entries of the gate. A blocked client is refused there, a tag is
sent upstream with the request, a throttle adds a limit to those that are reserved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.lru import Lru
from gateway.core.prompt import prompt_head
from gateway.detect.fingerprint import fingerprint_bytes
from gateway.detect.inline import InlineScorer, Verdict
from gateway.limits.plans import LimitPlan, throttled_plan

if TYPE_CHECKING:
    from gateway.core.model import Block, Policy
    from gateway.identity.identify import Identity

# Prompts (their first bytes) whose fingerprint is kept: a repeated one costs a look-up.
MAX_PRINTS = 2048
MAX_THROTTLED = 4096
_UNSAFE = str.maketrans({";": " ", "\r": " ", "\n": " "})


class Scoring:
    """Caches and counters that steps 3 to 6 share."""

    __slots__ = (
        "_plans",
        "_prefix",
        "_prints",
        "delayed",
        "delays_refused",
        "inline",
    )

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix  # of the store's keys
        self.inline = InlineScorer()
        self.delayed = 0  # requests that are being delayed
        self.delays_refused = 0
        self._prints: Lru[bytes, int] = Lru(MAX_PRINTS)
        self._plans: Lru[tuple[LimitPlan, str, str, int], LimitPlan] = Lru(
            MAX_THROTTLED
        )

    def fingerprint(self, body: bytes) -> int | None:
        """The similarity hash of a request's newest text; None without text."""
        head = prompt_head(body)
        if not head:
            return None
        found = self._prints.get(head)
        if found is None:
            found = fingerprint_bytes(head)
            self._prints.put(head, found)
        return found

    def throttle(
        self, plan: LimitPlan, identity: Identity, decision: Block
    ) -> LimitPlan:
        """The plan with the limit of a throttled subject appended as its last cell."""
        key = (plan, decision.kind, decision.id, decision.rate)
        throttled = self._plans.get(key)
        if throttled is None:
            name = identity.tenant.name
            throttled = throttled_plan(plan, self._prefix, name, decision)
            self._plans.put(key, throttled)
        return throttled

    def start_delay(self, policy: Policy) -> bool:
        """Count a request that is to be delayed; False: no delay, or too many."""
        anomaly = policy.anomaly
        if anomaly.delay_s <= 0.0:
            return False
        if self.delayed >= anomaly.max_delayed:
            self.delays_refused += 1
            return False
        self.delayed += 1
        return True

    def end_delay(self) -> None:
        """Count a delay as ended."""
        self.delayed -= 1


def verdict_field(verdict: Verdict) -> tuple[bytes, bytes]:
    """The header field that marks a tagged or throttled request for the upstream."""
    cls = (verdict.cls or "volume").translate(_UNSAFE)
    value = f"{cls};score={verdict.score:.1f};action={verdict.action}"
    return b"X-Tidegate-Verdict", value.encode()
