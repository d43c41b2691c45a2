"""The data of one request: what its methods note, and what they keep."""

from __future__ import annotations

from types import SimpleNamespace

from gateway.core.model import Block, Policy, RequestFacts
from gateway.core.refusal import Refusal
from gateway.http.tracing import Tracer
from gateway.limits.gate import BLOCKED
from gateway.proxy.flow import Flow, verdict_of
from tests.flows import flow_of

LIMITED = Refusal(429, "x", "x", action="limit", limit="user.tokens.1m")


def test_decision_of_an_operator_has_no_class_and_no_score():
    """A block without class or score becomes a verdict without them."""
    verdict = verdict_of(Block("user", "u"))
    assert (verdict.score, verdict.action, verdict.cls) == (0.0, "block", None)
    assert verdict.reasons == ()


def test_block_becomes_the_verdict():
    """A blocked request is refused with 403 and shows the block as its verdict."""
    flow = flow_of(Policy("p"))
    assert flow.blocked_by(Block("user", "u", cls="ddos", score=5.0)) is BLOCKED
    assert (flow.verdict.cls, flow.verdict.score) == ("ddos", 5.0)


def test_refusal_is_noted_for_the_record():
    """Status, action, limit and outcome of a refusal are those of its record."""
    flow = flow_of(Policy("p"))
    flow.refused_with(LIMITED)
    assert (flow.status, flow.action, flow.outcome) == (429, "limit", "refused")
    assert flow.limit_name == LIMITED.limit


def test_failed_upstream_keeps_the_outcome():
    """A 504 in place of an answer is a timeout, not a refusal by the gateway."""
    flow = flow_of(Policy("p"))
    flow.outcome = "timeout"
    flow.refused_with(Refusal(504, "x", "x", upstream_failed=True))
    assert (flow.status, flow.action, flow.outcome) == (504, "allow", "timeout")


def test_first_unenforced_action_stays():
    """Observe mode records the first refusal that it did not carry out."""
    flow = flow_of(Policy("p", mode="observe"))
    flow.leave_unenforced(LIMITED)
    flow.leave_unenforced(Refusal(403, "x", "x", action="block"))
    assert (flow.unenforced, flow.limit_name) == ("limit", LIMITED.limit)
    assert flow.action == "allow"


def test_cap_and_clamp_do_not_hide_a_later_limit():
    """Observe mode records the limit although a cap or a clamp came before it."""
    flow = flow_of(Policy("p", mode="observe"))
    flow.leave_unenforced(Refusal(400, "x", "x", by_policy=True))
    assert flow.unenforced == ""
    flow.leave_unclamped()
    assert flow.unenforced == "clamp"
    flow.leave_unenforced(LIMITED)
    flow.leave_unclamped()
    assert (flow.unenforced, flow.limit_name) == ("limit", LIMITED.limit)
    flow = flow_of(Policy("p", mode="observe"))
    flow.leave_unclamped()
    flow.act_on_verdict("block", enforced=False)
    assert flow.unenforced == "block"


def test_first_reason_of_metering_stays():
    """An answer without a price keeps the earlier reason, and is unpriced as well."""
    flow = flow_of(Policy("p"))
    flow.note_metering("implausible")
    flow.note_metering("unpriced")
    assert (flow.metering, flow.unpriced) == ("implausible", True)


def test_throttle_is_released_with_its_cost():
    """After a delay the other limits stay, with their costs."""
    flow = flow_of(Policy("p"))
    assert not flow.release_throttle()
    rest = SimpleNamespace(cells=("own",), unthrottled=None)
    plan = SimpleNamespace(cells=("own", "throttle"), unthrottled=rest)
    flow.set_plan(plan, (1, 1), 7)  # type: ignore[arg-type]
    assert flow.release_throttle()
    assert (flow.plan, flow.costs, flow.prompt_estimate) == (rest, (1,), 7)


def test_user_is_unread_until_the_facts_are_known():
    """A policy that takes the user from the body knows the user only after reading."""
    flow = flow_of(Policy("p"))
    flow.context.identity.takes_body_user = True  # type: ignore[misc, union-attr]
    flow = Flow(flow.context, _own(), b"id", None)
    assert flow.user_unread
    flow.set_facts(RequestFacts(endpoint="other"), 7)
    assert (flow.user_unread, flow.fingerprint) == (False, 7)


def test_trace_is_joined_where_spans_are_made():
    """With a tracer the request gets a trace and a line for the upstream."""
    flow = Flow(flow_of().context, _own(), b"id", Tracer())
    assert flow.trace
    assert flow.request_lines.startswith(b"Traceparent: 00-")


def _own() -> object:
    return SimpleNamespace(length=None, lines=b"", request_id=b"")
