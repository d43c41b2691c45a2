"""Rules about a whole tenant: distributed floods of one template, surges, outages."""

from __future__ import annotations

from math import log

from gateway.core.model import AttackClass
from gateway.detect.model import DetectSettings
from gateway.detect.rules.facts import Signal, count_score
from gateway.detect.rules.repetition import FLOOD_M, FLOOD_TIMES_EXPECTED
from gateway.detect.score import MOST, Tail
from gateway.detect.subject import FAILED, MINUTE_S, OK, SAME_BITS
from gateway.detect.templates import CROWD_SOURCES, NEAR_BITS, NEWCOMER_S, Template
from gateway.detect.tenant import TenantState

# Share of a template's prompts that newcomers must send.
_FRESH_SHARE = 0.5
_FEW_AGAIN = 2
_LARGE = 30
_TEMPLATE_FLOOR = 25.0
_SIGMAS_PER_FOLD = 2.2
# Upstream errors: share of answers, and users it must hit, to be an outage.
_OUTAGE_SHARE = 0.25
_OUTAGE_USERS = 4
_OUTAGE_ANSWERS = 12
OUTAGE_HOLD_S = 900.0
SURGE_HOLD_S = 900.0
# Prompts of a newcomer in ten minutes that are more than trying something out, the
# share of a crowd that does so, and so many that one of it is acted on.
INSISTS = 5
PERSISTS = 16
_INSISTING = 0.25
# A surge is broad: nobody makes up more than this share of the excess.
_NARROW = 0.3
# Who is refused that often is trying doors.
_REFUSED_SHARE = 0.5
# Nor do newcomers' prompts of young templates.
_ALIKE = 0.5
# So many sources are not there to read: load is their point.
_FLOOD_SOURCES = 85.0
_VERY = 12.0
# On a tenant's first day everybody is a newcomer. Then a crowd's template must be so
# much younger than the tenant, and so many times what all others send.
_FIRST_S = 86_400.0
_SETTLED_S = 60.0
_OUTWEIGHS = 3.0
# After so long, new templates stand together against those that were there.
_ALONE_S = 1800.0
# Newcomers come in a tide when those with other prompts are so many times the usual.
# A crowd no larger than their excess is part of it; of a larger one nobody is sure
# up to so many times the excess.
_TIDE_TIMES = 2.0
_TIDE_FLOOR = 20.0
_TIDE_UNSURE = 2.0


def judge_template(
    tenant: TenantState, template: Template, now: float, declared: float = 1.0
) -> Signal | None:
    """Whether a template is flooded by a crowd of newcomers. In a campaign of so many
    times the usual (``declared``) nobody is acted on for the crowd alone.
    """
    if not _may_be_flooded(tenant, template, now):
        return None
    floor = _TEMPLATE_FLOOR * (2.0 if tenant.surge_until > now else 1.0)
    usual = max(floor, 1.5 * template.peak)
    seen = _seen(tenant, template, now)
    if seen <= usual:
        return None
    refused = template.refused > _REFUSED_SHARE * template.requests
    template.soft = _is_soft(tenant, template, now)
    if template.soft and not _insists(tenant) and not refused:
        return None  # people who try something out, each in words of one's own
    part = 0.0 if refused else _explained(tenant, template, now, declared)
    if part >= 1.0:
        return None  # one form of many that a tide of newcomers fills in
    fresh, sources = template.fresh / template.requests, len(template.sources)
    excess = min(MOST, 2.0 + _SIGMAS_PER_FOLD * log(seen / usual))
    newness = 10.0 * (fresh - 0.4)
    score = min(excess, newness, count_score(sources, 2.0))
    return Signal(
        _named(tenant, template, now),
        score,
        behaviour=part * _TIDE_UNSURE < 1.0 and (refused or declared <= 1.0),
        reasons=(
            (
                f"{template.requests} similar prompts from at least {sources} addresses"
                f" in this window, {100 * fresh:.0f} % of them from new clients."
            ),
            _before(template.peak),
        ),
    )


def _before(peak: float) -> str:
    if round(peak) < 1:
        return "No client had sent similar prompts before."
    return f"Before, it was seen at most {peak:.0f} times in ten minutes."


def _may_be_flooded(tenant: TenantState, template: Template, now: float) -> bool:
    """Whether several newcomers, and few others, send what nobody sent before."""
    sources, requests = len(template.sources), template.requests
    if sources < CROWD_SOURCES or requests < 3 * CROWD_SOURCES or template.known(now):
        return False
    # A large crowd is told from a small one by how few come again.
    few = template.repeats <= _FEW_AGAIN and requests < _LARGE
    if (few and not tenant.flooded) or template.fresh < _FRESH_SHARE * requests:
        return False
    if template.usual > 0 or (template.usual < 0 and tenant.is_asked(template.print)):
        return False
    first_day = now - tenant.born < _FIRST_S
    return not first_day or _outweighs(tenant, template, now)


def _seen(tenant: TenantState, template: Template, now: float) -> float:
    """How loud it is: all wordings that are flooded already, or that newcomers share,
    are one crowd with this one.
    """
    whole = tenant.flooded + template.requests
    if template.abusive_until > now:
        whole = tenant.flooded
    return max(float(whole), float(tenant.shared_prompts), 3.0 * template.rate_m(now))


def _is_soft(tenant: TenantState, template: Template, now: float) -> bool:
    """Whether a crowd's prompts are as unlike as those of people, and no load."""
    return tenant.soft and not _is_loud(tenant, template, now)


def _insists(tenant: TenantState) -> bool:
    """Whether much of what newcomers share comes from sources that do not rest."""
    insistent, crowd = len(tenant.insistent), tenant.worded
    sources = 0 if crowd is None else len(crowd.sources)
    return insistent >= max(CROWD_SOURCES, _INSISTING * sources)


def _is_loud(tenant: TenantState, template: Template, now: float) -> bool:
    """Whether it is a load by itself."""
    tide = tenant.expected_rate_m()
    return tide > 0.0 and template.rate_m(now) >= max(
        FLOOD_M, FLOOD_TIMES_EXPECTED * tide
    )


def _is_very_loud(tenant: TenantState, template: Template, now: float) -> bool:
    """Many times that: what began just now is taken to go on as fast as it began."""
    tide, pace = tenant.expected_rate_m(), template.rate_m(now)
    age = now - template.born
    if age < MINUTE_S:
        pace = max(pace, template.requests_m * MINUTE_S / max(1.0, age))
    return tide > 0.0 and pace >= _VERY * max(FLOOD_M, FLOOD_TIMES_EXPECTED * tide)


def _explained(
    tenant: TenantState, template: Template, now: float, declared: float
) -> float:
    """How large a crowd is beside the tide of newcomers it came with: the excess of
    newcomers with other prompts, or what a campaign lets expect, as a share of it.
    """
    rate = template.rate_m(now)
    crowd = max(1.0, float(tenant.flooded), float(template.requests))
    usual = tenant.varied_usual
    part = 0.0
    if tenant.varied > max(_TIDE_FLOOR, _TIDE_TIMES * usual):
        part = (tenant.varied - usual) / crowd
    if declared > 1.0:
        spare = declared * tenant.expected_rate_m() - max(
            0.0, tenant.rate_m(now) - rate
        )
        part = max(part, spare / max(1.0, rate))
    return part


def _outweighs(tenant: TenantState, template: Template, now: float) -> bool:
    """Whether it came later than the tenant's own work, and drowns it; with all that
    came with it, where the tenant has been there for longer than what is new.
    """
    if template.born - tenant.born < _SETTLED_S:
        return False
    rate = template.rate_m(now)
    if now - template.born < NEWCOMER_S <= now - tenant.born - _ALONE_S:
        rate = max(rate, tenant.burst_rate_m(now))
    return rate >= _OUTWEIGHS * (tenant.rate_m(now) - rate)


def _named(tenant: TenantState, template: Template, now: float) -> AttackClass:
    if template.refused > _REFUSED_SHARE * template.requests:
        return "probing"
    return "ddos" if _flooding(tenant, template, now) else "scraping"


def _flooding(tenant: TenantState, template: Template, now: float) -> bool:
    """Load or coverage: many sources, or the same over and over beyond the tide."""
    loud = _is_loud(tenant, template, now)
    if template.apart > NEAR_BITS:
        # In so many words: to be read, unless it is a load as well, or very many.
        return loud or template.crowd() >= 2.5 * _FLOOD_SOURCES
    if template.crowd() >= _FLOOD_SOURCES or (loud and template.apart <= SAME_BITS):
        return True
    # Whatever they fill in, nobody reads that fast.
    return template.requests >= _LARGE and _is_very_loud(tenant, template, now)


def judge_tenant(
    tenant: TenantState, now: float, settings: DetectSettings, tail: Tail
) -> Signal | None:
    """Whether a tenant is in an outage, or in a surge that nobody is to blame for."""
    return _outage(tenant, now) or _surge(tenant, now, settings, tail)


def _outage(tenant: TenantState, now: float) -> Signal | None:
    failed = tenant.answers_m[FAILED] + tenant.answers_b[FAILED]
    answers = failed + tenant.answers_m[OK] + tenant.answers_b[OK]
    share = failed / max(1, answers)
    if answers < _OUTAGE_ANSWERS or share < _OUTAGE_SHARE:
        return None
    if len(tenant.failed_users) < _OUTAGE_USERS:
        return None
    tenant.outage_until = now + OUTAGE_HOLD_S
    reason = (
        f"{100 * share:.0f} % of answers are upstream errors, across"
        f" {len(tenant.failed_users)} or more clients: nobody is to blame."
    )
    return Signal("outage", 3.0 + 5.0 * share, False, (reason,))


def _surge(
    tenant: TenantState, now: float, settings: DetectSettings, tail: Tail
) -> Signal | None:
    tide = tenant.seasonal_baseline
    if tide.age < 36 or tenant.window <= tide.last:  # noqa: PLR2004 - six hours
        return None
    usual = tide.expect(tenant.window)
    declared = declared_times(tenant.name, now, settings)
    value = tide.value(tenant.requests / declared)
    score = tail.score((value - usual.level) / usual.spread)
    if score < settings.warning:
        return None
    expected = tide.count(usual.level) * declared
    if tenant.top > _NARROW * (tenant.requests - expected):
        return None  # one source makes up much of the excess
    alike = max(tenant.young, tenant.shared_prompts)
    if alike > _ALIKE * (tenant.requests - expected):
        return None  # newcomers' alike prompts do
    tenant.surge_until = now + SURGE_HOLD_S
    reason = (
        f"{tenant.requests} requests in the window where at most {expected:.0f} are"
        " usual; prompts and sources are as varied as usual."
    )
    return Signal("surge", score, False, (reason,))


def declared_times(tenant: str, now: float, settings: DetectSettings) -> float:
    """Times the usual that a declared campaign lets expect now."""
    return max(
        (
            campaign.expect
            for campaign in settings.campaigns
            if campaign.since <= now < campaign.to and campaign.tenant in {None, tenant}
        ),
        default=1.0,
    )
