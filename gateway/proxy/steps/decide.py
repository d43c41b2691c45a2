"""Step 6: from a refusal or a verdict, and the policy's mode, to what is done."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.core.refusal import Refusal
    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared

# Lets the store free at least one unit before it is asked again.
LEAST_DELAY_S = 0.001


class Decision(IntEnum):
    """What happens to the request next."""

    PASS = 0  # to the next step
    REFUSE = 1
    DELAY = 2  # throttled: wait, then ask the store again


def decide(flow: Flow, shared: Shared, refusal: Refusal | None) -> Decision:
    """Decide on a step's refusal, or (None) on the verdict of an admitted request.

    Observe mode lets pass what the policy refuses, and the record says so. A throttled
    request is delayed instead of refused where the policy has a ``delay``.
    """
    if refusal is None:
        _decide_admitted(flow)
        return Decision.PASS
    identity = flow.context.identity
    if refusal.by_policy and identity is not None:
        if identity.policy.mode == "observe":
            flow.leave_unenforced(refusal)
            return Decision.PASS
        if (
            refusal.action == "throttle"
            and not flow.delayed
            and shared.scoring.start_delay(identity.policy)
        ):
            return Decision.DELAY
    return Decision.REFUSE


def _decide_admitted(flow: Flow) -> None:
    """Tag or throttle an admitted request, unless the mode is observe."""
    identity = flow.identity
    if identity is None or not identity.policy.anomaly.enabled:
        return
    action = flow.verdict.rung
    if action != "allow":
        flow.act_on_verdict(action, enforced=identity.policy.mode != "observe")


def delay_s(flow: Flow, refusal: Refusal) -> float:
    """How long a throttled request waits: until there is room, at most ``delay``."""
    identity = flow.identity
    longest = 0.0 if identity is None else identity.policy.anomaly.delay_s
    return min(longest, max(refusal.retry_after, LEAST_DELAY_S))
