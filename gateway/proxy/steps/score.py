"""Step 5: score the admitted request, for its record and for the upstream."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.detect.inline import Verdict
    from gateway.identity.identify import Identity
    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared


def score(flow: Flow, shared: Shared, identity: Identity) -> Verdict:
    """Compare the client's requests of the last minute with its expected rate, and its
    prompt with its recent ones.
    """
    counted = 0
    plan, reserved = flow.plan, flow.reserved
    if plan is not None and reserved is not None and reserved.sums:
        for place in plan.minute_places:
            counted = max(counted, reserved.sums[place])
    epoch = shared.epoch + perf_counter()
    return shared.scoring.inline.score_one(identity, counted, flow.fingerprint, epoch)
