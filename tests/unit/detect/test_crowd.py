"""Floods of one template, surges, outages."""

from __future__ import annotations

import pytest

from gateway.detect.crowd import judge_template, judge_tenant
from gateway.detect.features import FAILED, OK, WINDOW_S
from gateway.detect.model import Campaign, DetectSettings, Event
from gateway.detect.population import Tenant
from gateway.detect.score import new_tail
from gateway.detect.templates import Template

T = 1_767_607_200.0
SETTINGS = DetectSettings()


def flooded(**change: object) -> Template:
    """Many alike prompts of many new sources."""
    template = Template(print=1, born=T, last=T, minute=int(T // 60))
    template.requests, template.fresh = 400, 390
    template.sources = {f"s{n}" for n in range(60)}
    for name, value in change.items():
        setattr(template, name, value)
    return template


def judged(template: Template, *, history_s: float = 1e6, surge: bool = False):
    """The finding about a template, if it scores 3 or more."""
    tenant = Tenant("t", 10, T)
    tenant.surge_until = T + 100 if surge else 0.0
    finding = judge_template(tenant, template, T, history_s)
    return finding.cls if finding is not None and finding.score >= 3 else None


def test_a_flood_of_newcomers_is_named():
    """The same prompt is a flood, a walked template is scraping."""
    assert judged(flooded()) == "ddos"
    assert judged(flooded(apart=7.0)) == "scraping"
    assert judged(flooded(apart=7.0, requests_m=500)) == "ddos"
    assert judged(flooded(), history_s=60) == "ddos"


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
def test_what_is_no_flood(change):
    """Few sources, few prompts, old acquaintances, as ever, an application's own."""
    assert judged(flooded(**change)) is None


def test_in_a_surge_more_is_asked():
    """Crowds are less of a surprise while everybody comes."""
    assert judged(flooded(requests=55, fresh=55)) == "ddos"
    assert judged(flooded(requests=55, fresh=55), surge=True) is None


def answered(tenant: Tenant, count: int, kind: int, clients: int) -> None:
    """So many answers of one kind to so many clients."""
    for n in range(count):
        tenant.count(Event(T, f"10.0.0.{n % clients}"), kind)


def whole(tenant: Tenant, settings: DetectSettings = SETTINGS):
    """The finding about a tenant."""
    return judge_tenant(tenant, T, settings, new_tail())


def test_an_outage_hits_many_clients():
    """Upstream errors across clients are nobody's fault; one client's are its own."""
    tenant = Tenant("t", 10, T)
    answered(tenant, 30, FAILED, 10)
    answered(tenant, 30, OK, 10)
    finding = whole(tenant)
    assert finding is not None
    assert (finding.cls, finding.behaviour) == ("outage", False)
    assert tenant.outage_until > T
    alone = Tenant("t", 10, T)
    answered(alone, 30, FAILED, 1)
    assert whole(alone) is None
    assert whole(Tenant("t", 10, T)) is None


def busy_tenant(requests: int, top: int) -> Tenant:
    """A tenant with two days of 1,000 requests a window."""
    tenant = Tenant("t", 10, T)
    window = int(T // WINDOW_S)
    for index in range(window - 288, window):
        tenant.tide.learn(index, 1000.0)
    tenant.window, tenant.requests, tenant.top = window, requests, top
    return tenant


def test_a_surge_is_broad_excess():
    """Ten times the tide from everybody: a surge; from one: not."""
    finding = whole(busy_tenant(20_000, 300))
    assert finding is not None
    assert finding.cls == "surge"
    assert whole(busy_tenant(20_000, 18_000)) is None
    assert whole(busy_tenant(1_100, 30)) is None


def test_a_declared_campaign_is_expected():
    """What was announced for this tenant, at this time, is no surge."""
    declared = Campaign(T - 60, T + 60, 20.0, "t")
    assert (
        whole(busy_tenant(20_000, 300), DetectSettings(campaigns=(declared,))) is None
    )
    others = (Campaign(T - 60, T + 60, 20.0, "x"), Campaign(T + 9, T + 60, 20.0))
    assert whole(busy_tenant(20_000, 300), DetectSettings(campaigns=others)) is not None


def test_a_tide_without_history_says_nothing():
    """Six hours at least; and a window that was already learned is over."""
    tenant = busy_tenant(20_000, 300)
    tenant.window -= 1
    assert whole(tenant) is None
    young = Tenant("t", 10, T)
    young.window, young.requests = int(T // WINDOW_S), 99_999
    assert whole(young) is None
