"""What no single subject shows: floods of one template, surges, outages."""

from __future__ import annotations

from math import log

from gateway.detect.classify import Finding, count_sigma
from gateway.detect.features import FAILED, OK
from gateway.detect.model import DetectSettings
from gateway.detect.population import Tenant
from gateway.detect.score import MOST, Tail
from gateway.detect.templates import Template

# A crowd is at least so many sources of one template.
CROWD_SOURCES = 6
# Share of a template's prompts that newcomers must send.
_FRESH_SHARE = 0.5
_TEMPLATE_FLOOR = 25.0
_SIGMAS_PER_FOLD = 2.2
# Upstream errors: share of answers, and users it must hit, to be an outage.
_OUTAGE_SHARE = 0.25
_OUTAGE_USERS = 4
_OUTAGE_ANSWERS = 12
OUTAGE_ECHO_S = 900.0
SURGE_ECHO_S = 900.0
# A surge is broad: nobody makes up more than this share of the excess.
_NARROW = 0.3
_FLOOD_APART = 4.5
# Rates from which a flood is loud, requests a minute.
_LOUD_M = 120.0


def judge_template(
    tenant: Tenant, template: Template, now: float, history_s: float
) -> Finding | None:
    """Whether a template is flooded by a crowd of newcomers."""
    sources = len(template.sources)
    if sources < CROWD_SOURCES or template.known(now):
        return None
    if template.requests < 3 * CROWD_SOURCES:
        return None
    fresh = template.fresh / template.requests
    if fresh < _FRESH_SHARE:
        return None
    floor = _TEMPLATE_FLOOR * (2.0 if tenant.surge_until > now else 1.0)
    usual = max(floor, 1.5 * template.peak)
    seen = max(float(template.requests), 3.0 * template.rate_m(now))
    if seen <= usual:
        return None
    excess = min(MOST, 2.0 + _SIGMAS_PER_FOLD * log(seen / usual))
    # While the gateway itself is new everybody is a newcomer.
    newness = 10.0 * (fresh - 0.4) if history_s > 3600.0 else 4.0  # noqa: PLR2004
    score = min(excess, newness, count_sigma(sources, 2.0))
    loud = template.rate_m(now) >= _LOUD_M or template.apart <= _FLOOD_APART
    return Finding(
        "ddos" if loud else "scraping",
        score,
        behaviour=True,
        reasons=(
            (
                f"{template.requests} alike prompts from {sources} or more addresses"
                f" in this window, {100 * fresh:.0f} % of them from newcomers."
            ),
            f"Before, it was seen at most {template.peak:.0f} times in ten minutes.",
        ),
    )


def judge_tenant(
    tenant: Tenant, now: float, settings: DetectSettings, tail: Tail
) -> Finding | None:
    """Whether a tenant is in an outage, or in a surge that nobody is to blame for."""
    return _outage(tenant, now) or _surge(tenant, now, settings, tail)


def _outage(tenant: Tenant, now: float) -> Finding | None:
    failed = tenant.answers_m[FAILED] + tenant.answers_b[FAILED]
    answers = failed + tenant.answers_m[OK] + tenant.answers_b[OK]
    share = failed / max(1, answers)
    if answers < _OUTAGE_ANSWERS or share < _OUTAGE_SHARE:
        return None
    if len(tenant.failed_users) < _OUTAGE_USERS:
        return None
    tenant.outage_until = now + OUTAGE_ECHO_S
    reason = (
        f"{100 * share:.0f} % of answers are upstream errors, across"
        f" {len(tenant.failed_users)} or more clients: nobody is to blame."
    )
    return Finding("outage", 3.0 + 5.0 * share, False, (reason,))


def _surge(
    tenant: Tenant, now: float, settings: DetectSettings, tail: Tail
) -> Finding | None:
    tide = tenant.tide
    if tide.age < 36 or tenant.window <= tide.last:  # noqa: PLR2004 - six hours
        return None
    usual = tide.expect(tenant.window)
    declared = _declared(tenant.name, now, settings)
    value = tide.value(tenant.requests / declared)
    score = tail.sigma((value - usual.level) / usual.spread)
    if score < settings.warning:
        return None
    expected = tide.count(usual.level) * declared
    if tenant.top > _NARROW * (tenant.requests - expected):
        return None  # one source makes up much of the excess
    tenant.surge_until = now + SURGE_ECHO_S
    reason = (
        f"{tenant.requests} requests in the window where at most {expected:.0f} are"
        " usual; prompts and sources are as varied as ever."
    )
    return Finding("surge", score, False, (reason,))


def _declared(tenant: str, now: float, settings: DetectSettings) -> float:
    """Times the usual that a declared campaign lets expect now."""
    return max(
        (
            campaign.expect
            for campaign in settings.campaigns
            if campaign.since <= now < campaign.to and campaign.tenant in {None, tenant}
        ),
        default=1.0,
    )
