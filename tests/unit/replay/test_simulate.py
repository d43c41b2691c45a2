"""Decisions on recorded requests are those of ``serve``."""

from __future__ import annotations

import random

import pytest

from gateway.config import load_config
from gateway.replay.learning import learn_from
from gateway.replay.requests import request_from_record
from gateway.replay.simulate import Simulation, recorded_decision

T = 1_767_600_000.0
HEAD = '[[upstream]]\nurl = "https://api.example"\n'


def simulation(policy, rest=""):
    """A draft whose default policy is ``policy``."""
    text = f"{HEAD}[policy.default]\n{policy}\n{rest}"
    return Simulation(load_config(text=text, env={}))


def request(ts=0.0, **changes):
    """A request of user ``u`` that took a tenth of a second."""
    record = {
        "ts": T + ts, "tenant": "default", "user": "u", "client_ip": "203.0.113.9",
        "endpoint": "chat.completions", "model": "gpt-4o", "status": 200,
        "prompt_tokens": 60, "completion_tokens": 40, "total_tokens": 100,
        "usage_source": "upstream", "usd": 0.1, "duration_ms": 100.0,
        "action": "allow", "outcome": "ok",
    }  # fmt: skip
    return request_from_record(record | changes)


def fates(simulated, requests):
    """The action on each request."""
    return [simulated.take(one).action for one in requests]


def test_requests_of_a_window():
    """A sliding window admits its amount, and more when the oldest request leaves it."""
    draft = simulation('limits = [{ per = "user", requests = 3, window = "1m" }]')
    done = fates(draft, [request(ts) for ts in (0, 1, 2, 3, 30, 62)])
    assert done == ["allow", "allow", "allow", "limit", "limit", "allow"]


def test_the_refusing_limit_and_its_subject_are_named():
    """Limit names and subjects are those of records."""
    draft = simulation('limits = [{ per = "user+model", requests = 1, window = "1m" }]')
    draft.take(request())
    refused = draft.take(request(1))
    assert (refused.kind, refused.id) == ("user+model", "u+gpt-4o")
    assert (refused.action, refused.by) == ("limit", "user+model.requests.1m")
    assert refused.refused
    assert refused.nanos > 0


def test_reserved_first_then_settled():
    """While a request is open its expected completion counts, later its true one."""
    draft = simulation('limits = [{ per = "user", tokens = 1300, window = "1m" }]')
    # 60 + 1,024 expected; after its end 100.
    assert fates(draft, [request(0), request(0.05), request(1)]) == [
        "allow",
        "limit",
        "allow",
    ]


def test_more_than_was_expected_is_charged():
    """The actual cost of an answer counts even if it exceeds the reservation."""
    draft = simulation('limits = [{ per = "user", tokens = 5000, window = "1m" }]')
    big = request(completion_tokens=5000, total_tokens=5060)
    assert fates(draft, [big, request(1), request(63)]) == ["allow", "limit", "allow"]


def test_failed_calls_cost_a_request_and_no_tokens():
    """An upstream error releases reserved tokens and cost."""
    draft = simulation(
        'limits = [{ per = "user", tokens = 1100, window = "1m" },'
        ' { per = "user", requests = 3, window = "1m" }]'
    )
    failed = [
        request(
            n, status=502, usage_source="none", outcome="upstream_error",
            prompt_tokens=0, completion_tokens=0, total_tokens=0,
        )
        for n in range(4)
    ]  # fmt: skip
    assert fates(draft, failed) == ["allow", "allow", "allow", "limit"]


def test_concurrency_lasts_as_long_as_the_request():
    """Concurrency counts exchanges from arrival to end, even for ten minutes."""
    draft = simulation('limits = [{ per = "user", concurrent = 1 }]')
    long = request(duration_ms=600_000.0)
    done = fates(draft, [long, request(1), request(599), request(601)])
    assert done == ["allow", "limit", "limit", "allow"]


def test_money_is_that_of_the_drafts_prices():
    """Cost follows the prices of the draft, not the recorded cost."""
    draft = simulation(
        'limits = [{ per = "tenant", usd = 1, window = "1d" }]\n'
        'prices = { "gpt-4o" = { input = 10_000, output = 10_000 } }'
    )
    first, second = draft.take(request()), draft.take(request(1))
    assert first.nanos == 1_000_000_000
    assert (first.action, second.action, second.by) == (
        "allow",
        "limit",
        "tenant.usd.1d",
    )


def test_calendar_windows_follow_the_time_zone():
    """A daily budget resets at midnight of the configured zone."""
    text = (
        f'[server]\ntimezone = "Asia/Tokyo"\n{HEAD}[policy.default]\n'
        'limits = [{ per = "user", requests = 1, window = "day" }]\n'
    )
    draft = Simulation(load_config(text=text, env={}))
    midnight = 1_767_625_200.0  # 2026-01-06 00:00 in Tokyo
    at = [midnight - 60 - T, midnight - 30 - T, midnight + 30 - T]
    assert fates(draft, map(request, at)) == ["allow", "limit", "allow"]


def test_allowed_subjects_are_never_limited():
    """The allow list works as in the gateway: address, network, user."""
    draft = simulation(
        'allow = ["203.0.113.0/24", "user:v"]\n'
        'limits = [{ per = "tenant", requests = 1, window = "1m" }]'
    )
    other = {"client_ip": "198.51.100.1"}
    done = fates(
        draft,
        [
            request(),
            request(1),
            request(2, user="v", **other),
            request(3, **other),
            request(4, **other),
        ],
    )
    assert done == ["allow", "allow", "allow", "allow", "limit"]


def test_models_without_a_price_are_refused_where_the_policy_says_so():
    """``unknown_price = "deny"`` refuses unpriced models; else they cost nothing."""
    strict, free = simulation('unknown_price = "deny"'), simulation("")
    odd = request(model="never-heard-of")
    assert strict.take(odd).by == "unknown_price"
    assert free.take(odd).action == "allow"
    assert free.unpriced == 1
    assert strict.take(request(1)).action == "allow"


def test_tenants_are_matched_by_name():
    """A tenant's policy decides; tenants missing in the draft use the default."""
    draft = simulation(
        'limits = [{ per = "user", requests = 1, window = "1m" }]',
        '[policy.big]\nlimits = []\n[[tenant]]\nname = "acme"\npolicy = "big"\n'
        f'api_keys = ["sha256:{"0" * 64}"]\n',
    )
    acme = [request(n, tenant="acme") for n in range(3)]
    lost = [request(n, tenant="lost") for n in range(3)]
    assert fates(draft, acme) == ["allow"] * 3
    assert fates(draft, lost) == ["allow", "limit", "limit"]
    assert draft.unmatched == {"lost": 3}


def test_what_the_gateway_answered_itself_is_passed_over():
    """Requests with unknown keys count toward no limit."""
    draft = simulation('limits = [{ per = "client_ip", requests = 1, window = "1m" }]')
    strange = request(tenant="", status=401, outcome="refused", usage_source="none")
    assert strange.misfit
    assert fates(draft, [strange, request(1)]) == ["allow", "allow"]


def flood(seconds, rate=20):
    """Ordinary clients with varied prompts, then one address with a template."""
    chance = random.Random(5)
    quiet = [
        request(
            chance.uniform(0, 600 + seconds),
            user=f"u{n % 40}",
            client_ip=f"10.0.{n % 40}.1",
            fingerprint=f"{chance.getrandbits(64):016x}",
        )
        for n in range(40 * 50)
    ]
    loud = [
        request(
            600 + n / rate,
            user="anonymous",
            client_ip="198.51.100.7",
            fingerprint=f"{0x123456789ABCDEF0 ^ (1 << n % 3):016x}",
        )
        for n in range(seconds * rate)
    ]
    return sorted([*quiet, *loud], key=lambda one: one.ts)


def test_the_detector_refuses_a_flood():
    """A flood is refused by its class from its first minute on; others pass."""
    draft = simulation("")
    decisions = [(one, draft.take(one)) for one in flood(120)]
    draft.close()
    refused = [(one, made) for one, made in decisions if made.refused]
    assert {one.client_ip for one, _ in refused} == {"198.51.100.7"}
    assert {(made.kind, made.id) for _, made in refused} == {
        ("client_ip", "198.51.100.7")
    }
    assert refused[0][0].ts < T + 660
    assert len(refused) > 1000
    assert sum(draft.incidents.values()) >= 1


def test_traffic_that_was_learned_can_be_replayed():
    """With baselines of the same time only the flood is acted on."""
    traffic = [*flood(120), *(request(3600 + n) for n in range(300))]
    config = load_config(text=f"{HEAD}[policy.default]\n", env={})
    draft = Simulation(config, learn_from(traffic)[0])
    touched = [one for one in traffic if draft.take(one).action != "allow"]
    assert {one.client_ip for one in touched} == {"198.51.100.7"}
    assert touched[0].ts < T + 720
    assert len(touched) > 1000


@pytest.mark.parametrize(
    "policy",
    ["anomaly = { enabled = false }", 'allow = ["198.51.100.7"]'],
)
def test_detection_follows_the_policy(policy):
    """No action with detection off or on an allowed address."""
    draft = simulation(policy)
    assert set(fates(draft, flood(60))) == {"allow"}


def test_a_throttled_sender_keeps_a_share():
    """Without blocks in the ladder the flood is throttled."""
    draft = simulation("anomaly = { ladder = { tag = 3, throttle = 4, block = 100 } }")
    loud = [one for one in flood(300) if one.client_ip == "198.51.100.7"]
    made = {"throttle": 0, "tag": 0, "allow": 0, "limit": 0, "block": 0}
    for one in flood(300):
        done = draft.take(one).action
        if one.client_ip == "198.51.100.7":
            made[done] += 1
    assert made["block"] == 0
    assert made["throttle"] > len(loud) * 0.5
    assert made["tag"] > 0


def test_then_is_what_the_record_says():
    """Recorded decisions name the subject of the limit: refused, observed, tagged."""
    limited = request(action="limit", limit="client_ip.requests.1m", outcome="refused")
    then = recorded_decision(limited)
    assert (then.kind, then.id, then.refused) == ("client_ip", "203.0.113.9", True)
    seen = recorded_decision(request(action="block", enforced=False))
    assert (seen.kind, seen.observed, seen.refused) == ("user", True, False)
    tagged = recorded_decision(request(action="tag", user="anonymous"))
    assert (tagged.kind, tagged.refused) == ("client_ip", False)
    slowed = request(action="throttle", limit="throttled_client_ip.requests.1m")
    assert recorded_decision(slowed).kind == "client_ip"
    assert recorded_decision(request()).action == "allow"
