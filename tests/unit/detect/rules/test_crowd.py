"""Signals about templates and tenants: floods, surges, outages."""

from __future__ import annotations

import pytest

from gateway.detect.model import Campaign, DetectSettings, Event
from gateway.detect.rules.crowd import judge_template, judge_tenant
from gateway.detect.score import new_tail
from gateway.detect.subject import FAILED, OK, WINDOW_S
from gateway.detect.templates import Template
from gateway.detect.tenant import TenantState

T = 1_767_607_200.0
SETTINGS = DetectSettings()


def flooded(**change: object) -> Template:
    """A template with many alike prompts of many new sources."""
    template = Template(print=1, born=T, last=T, minute=int(T // 60))
    template.requests, template.fresh = 400, 390
    template.sources = {f"s{n}" for n in range(60)}
    for name, value in change.items():
        setattr(template, name, value)
    return template


def judged(
    template: Template, *, surge: bool = False, tenant: TenantState | None = None
):
    """The class of the signal about a template, if it scores 3 or more."""
    tenant = tenant or TenantState("t", 10, T - 1e6)
    tenant.surge_until = T + 100 if surge else 0.0
    finding = judge_template(tenant, template, T)
    return finding.cls if finding is not None and finding.score >= 3 else None


def test_a_flood_of_newcomers_is_named():
    """Many sources are ``ddos``; few sources that repeat are ``scraping``."""
    assert judged(flooded()) == "ddos"
    few = {f"s{n}" for n in range(20)}
    assert judged(flooded(repeats=380, sources=few)) == "scraping"


def test_few_sources_far_above_the_expected_rate_are_ddos():
    """Few sources are ``ddos`` if their rate exceeds the tenant's expected rate; with
    varied prompts only far above it.
    """
    few = flooded(
        repeats=380,
        sources={f"s{n}" for n in range(20)},
        requests_m=900,
        born=T - 120.0,
    )
    assert judged(few, tenant=busy_tenant(400, 10)) == "ddos"
    few.apart = 7.0
    assert judged(few, tenant=busy_tenant(400, 10)) == "scraping"
    few.requests_m = 9000
    assert judged(few, tenant=busy_tenant(400, 10)) == "ddos"


def test_refused_alike_requests_are_probing():
    """Alike requests of many sources that are mostly refused are ``probing``."""
    assert judged(flooded(refused=300)) == "probing"


def test_wordings_of_one_flood_count_together():
    """A further wording is judged together with the requests of flooded templates."""
    tenant = TenantState("t", 10, T - 1e6)
    little = {"requests": 20, "fresh": 20}
    assert judged(flooded(**little), tenant=tenant) is None
    tenant.flooded = 300
    assert judged(flooded(**little), tenant=tenant) == "ddos"
    assert judged(flooded(**little, abusive_until=T + 9), tenant=tenant) == "ddos"


def test_the_first_day_has_its_own_rule():
    """On its first day a tenant's early templates are ordinary; a later one must
    dominate its traffic.
    """
    tenant = TenantState("t", 10, T - 300)
    tenant.minute, tenant.requests_m = int(T // 60), 500
    assert judged(flooded(requests_m=400, born=T - 295), tenant=tenant) is None
    assert judged(flooded(requests_m=400, born=T - 100), tenant=tenant) == "ddos"
    assert judged(flooded(requests_m=300, born=T - 100), tenant=tenant) is None


def test_new_wordings_count_together_on_a_first_day():
    """On a first day recent wordings count together once the tenant is older than they
    are.
    """
    for hours, cls in ((0.4, None), (2, "ddos")):
        tenant = TenantState("t", 10, T - hours * 3600)
        tenant.minute, tenant.requests_m = int(T // 60), 500
        tenant.burst_m = 400
        assert judged(flooded(requests_m=100, born=T - 100), tenant=tenant) == cls
        assert judged(flooded(requests_m=100, born=T - 2000), tenant=tenant) is None


def test_a_template_in_a_rush_of_newcomers_is_ordinary():
    """A template is ordinary among as many newcomers with other prompts; with fewer of
    them it is informational.
    """
    tenant = TenantState("t", 10, T - 1e6)
    tenant.varied_usual = 10.0
    for varied, behaviour in ((15, True), (100, True), (300, False), (420, None)):
        tenant.varied = varied
        finding = judge_template(tenant, flooded(), T)
        assert (finding.behaviour if finding else None) == behaviour


def test_probing_counts_in_a_rush_of_newcomers():
    """Probing is found among many newcomers and in a campaign."""
    tenant = TenantState("t", 10, T - 1e6)
    tenant.varied = 900
    finding = judge_template(tenant, flooded(refused=300), T, 8.0)
    assert finding is not None
    assert (finding.cls, finding.behaviour) == ("probing", True)


def test_a_declared_campaign_allows_more():
    """Within a declared campaign there is no signal; beyond it the signal is
    informational.
    """
    tenant = busy_tenant(2000, 10)
    assert judge_template(tenant, flooded(requests_m=300), T, 8.0) is None
    finding = judge_template(tenant, flooded(requests_m=9000), T, 8.0)
    assert finding is not None
    assert not finding.behaviour


@pytest.mark.parametrize(
    "change",
    [
        {"sources": {"a", "b"}},
        {"requests": 10, "fresh": 10},
        {"fresh": 100},
        {"peak": 390.0},
        {"windows": 50, "born": T - 90_000},
    ],
)
def test_templates_that_are_no_flood(change):
    """Few sources, few prompts, known clients, an earlier peak or a lasting template
    are no flood.
    """
    assert judged(flooded(**change)) is None


def test_a_surge_raises_the_threshold():
    """During a surge a flood needs more requests."""
    assert judged(flooded(requests=55, fresh=55)) == "ddos"
    assert judged(flooded(requests=55, fresh=55), surge=True) is None


def answered(tenant: TenantState, count: int, kind: int, clients: int) -> None:
    """Count outcomes of one kind from so many clients."""
    for n in range(count):
        tenant.count(Event(T, f"10.0.0.{n % clients}"), kind)


def whole(tenant: TenantState, settings: DetectSettings = SETTINGS):
    """The signal about a tenant."""
    return judge_tenant(tenant, T, settings, new_tail())


def test_an_outage_hits_many_clients():
    """Upstream errors of many clients are an outage, those of one client are not."""
    tenant = TenantState("t", 10, T)
    answered(tenant, 30, FAILED, 10)
    answered(tenant, 30, OK, 10)
    finding = whole(tenant)
    assert finding is not None
    assert (finding.cls, finding.behaviour) == ("outage", False)
    assert tenant.outage_until > T
    alone = TenantState("t", 10, T)
    answered(alone, 30, FAILED, 1)
    assert whole(alone) is None
    assert whole(TenantState("t", 10, T)) is None


def busy_tenant(requests: int, top: int) -> TenantState:
    """A tenant with two days of 1,000 requests a window."""
    tenant = TenantState("t", 10, T - 1e6)
    window = int(T // WINDOW_S)
    for index in range(window - 288, window):
        tenant.seasonal_baseline.learn(index, 1000.0)
    tenant.window, tenant.requests, tenant.top = window, requests, top
    return tenant


def test_a_surge_is_broad_excess():
    """An excess over the expected rate from many clients is a surge, from one client it
    is not.
    """
    finding = whole(busy_tenant(20_000, 300))
    assert finding is not None
    assert finding.cls == "surge"
    assert whole(busy_tenant(20_000, 18_000)) is None
    assert whole(busy_tenant(1_100, 30)) is None


def test_an_excess_of_alike_prompts_is_no_surge():
    """An excess that consists of newcomers' alike prompts is no surge."""
    tenant = busy_tenant(20_000, 300)
    tenant.young = 15_000
    assert whole(tenant) is None


def test_a_declared_campaign_is_expected():
    """A campaign for this tenant and time raises the expectation."""
    declared = Campaign(T - 60, T + 60, 20.0, "t")
    assert (
        whole(busy_tenant(20_000, 300), DetectSettings(campaigns=(declared,))) is None
    )
    others = (Campaign(T - 60, T + 60, 20.0, "x"), Campaign(T + 9, T + 60, 20.0))
    assert whole(busy_tenant(20_000, 300), DetectSettings(campaigns=others)) is not None


def test_without_history_there_is_no_surge():
    """Without six hours of history, or for a past window, there is no surge."""
    tenant = busy_tenant(20_000, 300)
    tenant.window -= 1
    assert whole(tenant) is None
    young = TenantState("t", 10, T)
    young.window, young.requests = int(T // WINDOW_S), 99_999
    assert whole(young) is None


def test_the_reason_says_what_was_before():
    """The reason states the earlier peak, or that there was none."""
    tenant = TenantState("t", 10, T - 1e6)
    (_, none), (_, some) = (
        judge_template(tenant, flooded(peak=peak), T).reasons for peak in (0.3, 12.0)
    )
    assert none == "No client had sent similar prompts before."
    assert "at most 12 times" in some


def test_the_prompt_of_an_application_is_no_flood():
    """A template of a known application, or one that three established clients use, is
    no flood.
    """
    assert judged(flooded(usual=0)) == "ddos"
    assert judged(flooded(usual=1)) is None
    tenant = TenantState("t", 10, T - 1e6)
    for n in range(3):
        tenant.learn_asked(f"c{n}", 1)
    assert judged(flooded(), tenant=tenant) is None


def test_few_prompts_without_repetition_are_no_flood_yet():
    """Twenty prompts without a repetition are no flood yet; with five repetitions they
    are.
    """
    early = {"requests": 20, "fresh": 20, "requests_m": 20}
    assert judged(flooded(**early)) is None
    assert judged(flooded(**early | {"repeats": 5})) == "ddos"


def test_varied_prompts_of_newcomers_are_no_flood():
    """Varied prompts of newcomers are no flood unless some insist or load is high."""
    tenant = busy_tenant(400, 10)
    tenant.shared_prompts, tenant.loose = 300, 200
    assert judged(flooded(), tenant=tenant) is None
    for n in range(6):
        tenant.insist(f"s{n}")
    template = flooded(apart=18.0, repeats=90, born=T - 120.0)
    assert judged(template, tenant=tenant) == "scraping"
    assert template.soft
    loud = flooded(apart=18.0, requests_m=3000)
    assert judged(loud, tenant=tenant) == "ddos"
    assert not loud.soft
