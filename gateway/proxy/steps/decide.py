"""Step 6: pass, refuse or delay, by a refusal or verdict and the policy's mode."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.core.refusal import Refusal
    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared

# Shortest delay, so that the store can free a unit before it is asked again.
LEAST_DELAY_S = 0.001


class Decision(IntEnum):
    """What happens to the request next."""

    PASS = 0  # to the next step
    REFUSE = 1
    DELAY = 2  # throttled: wait, then ask the store again


def decide(flow: Flow, shared: Shared, refusal: Refusal | None) -> Decision:
    """Decide on a step's refusal, or (None) on the verdict of an admitted request.

    Observe mode passes what the policy refuses; the record shows the action. A throttled
    request is delayed instead of refused where the policy has a ``delay``.
    """
    identity = flow.identity
    if identity is None:
        return Decision.PASS if refusal is None else Decision.REFUSE
    policy = identity.policy
    if refusal is None:
        action = flow.verdict.action
        if action != "allow" and policy.anomaly.enabled:
            flow.act_on_verdict(action, enforced=policy.mode != "observe")
        return Decision.PASS
    if not refusal.by_policy:
        return Decision.REFUSE
    if policy.mode == "observe":
        flow.leave_unenforced(refusal)
        return Decision.PASS
    if (
        refusal.action == "throttle"
        and not flow.delayed
        and shared.scoring.start_delay(policy)
    ):
        return Decision.DELAY
    return Decision.REFUSE


def delay_s(flow: Flow, refusal: Refusal) -> float:
    """How long a throttled request waits: until there is room, at most ``delay``."""
    identity = flow.identity
    longest = 0.0 if identity is None else identity.policy.anomaly.delay_s
    return min(longest, max(refusal.retry_after, LEAST_DELAY_S))
