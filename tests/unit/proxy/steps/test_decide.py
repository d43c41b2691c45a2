"""What is done with a refusal or a verdict, by the mode and the policy's delay."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.core.model import Anomaly, Policy
from gateway.core.refusal import Refusal
from gateway.detect.inline import Verdict
from gateway.proxy.scoring import Scoring
from gateway.proxy.steps.decide import LEAST_DELAY_S, Decision, decide, delay_s
from tests.flows import flow_of

LIMITED = Refusal(429, "x", "x", action="limit", by_policy=True)
THROTTLED = Refusal(429, "x", "x", action="throttle", by_policy=True, retry_after=2.0)
UNKNOWN = Refusal(401, "x", "x")
SLOW = Anomaly(delay_s=1.0, max_delayed=1)


def shared():
    """As much of what a worker shares as deciding needs."""
    return SimpleNamespace(scoring=Scoring(b""))


@pytest.mark.parametrize(
    ("refusal", "mode", "decision"),
    [
        (LIMITED, "enforce", Decision.REFUSE),
        (LIMITED, "observe", Decision.PASS),
        (UNKNOWN, "observe", Decision.REFUSE),
        (THROTTLED, "enforce", Decision.REFUSE),
    ],
)
def test_mode_decides_on_refusals_of_the_policy(refusal, mode, decision):
    """Observe mode passes what the policy refuses, and nothing else."""
    flow = flow_of(Policy("p", mode=mode))
    assert decide(flow, shared(), refusal) is decision
    assert flow.unenforced == ("limit" if decision is Decision.PASS else "")


def test_unknown_client_is_refused():
    """Without an identity there is no mode that could let a refusal pass."""
    assert decide(flow_of(), shared(), LIMITED) is Decision.REFUSE
    assert decide(flow_of(), shared(), None) is Decision.PASS


def test_throttled_request_is_delayed_once_and_within_the_bound():
    """The policy's delay takes one request at a time here, and each only once."""
    common, policy = shared(), Policy("p", anomaly=SLOW)
    flow, other = flow_of(policy), flow_of(policy)
    assert decide(flow, common, THROTTLED) is Decision.DELAY
    assert decide(other, common, THROTTLED) is Decision.REFUSE
    assert common.scoring.delays_refused == 1
    common.scoring.end_delay()
    flow.delayed = True
    assert decide(flow, common, THROTTLED) is Decision.REFUSE
    assert common.scoring.delayed == 0


@pytest.mark.parametrize(
    ("retry_after", "waits"), [(5.0, 1.0), (0.25, 0.25), (0.0, LEAST_DELAY_S)]
)
def test_delay_is_the_wait_within_the_policys_bound(retry_after, waits):
    """A request waits until there is room, at most ``delay``."""
    refusal = Refusal(429, "x", "x", retry_after=retry_after)
    assert delay_s(flow_of(Policy("p", anomaly=SLOW)), refusal) == waits


@pytest.mark.parametrize(
    ("policy", "action", "unenforced"),
    [
        (Policy("p"), "tag", ""),
        (Policy("p", mode="observe"), "allow", "tag"),
        (Policy("p", anomaly=Anomaly(enabled=False)), "allow", ""),
    ],
)
def test_verdict_marks_an_admitted_request(policy, action, unenforced):
    """A verdict is acted on in enforce mode while detection is on."""
    flow = flow_of(policy)
    flow.verdict = Verdict(3.0, "tag")
    assert decide(flow, shared(), None) is Decision.PASS
    assert (flow.action, flow.unenforced) == (action, unenforced)
