"""Prompt templates of an application, and paraphrased prompts of a distributed attack.

Each prompt is counted with its template. Prompts of newcomers are also counted by
whether other newcomers send the same, literally or paraphrased.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.detect.model import REFUSED_STATUS
from gateway.detect.rules.crowd import INSISTS, declared_times, judge_template
from gateway.detect.rules.stolen_key import ROAMS
from gateway.detect.subject import DENIED
from gateway.detect.templates import NEWCOMER_S, Template

if TYPE_CHECKING:
    from gateway.detect.model import Event, Output
    from gateway.detect.responses import ResponseManager
    from gateway.detect.subject import SubjectState
    from gateway.detect.tenant import TenantState

# Prompts in a window that make a template.
_DENSE = 3
# Its sources from which it is no single newcomer's.
_SHARED = 4
# Prompts near to a crowd's wordings, from which their source is one of it.
_WORDED = 2


def learn_prompt(
    bench: ResponseManager,
    tenant: TenantState,
    event: Event,
    ip: SubjectState,
    user: SubjectState | None,
    *,
    refused: bool,
) -> list[Output]:
    """Take the prompt of an event in; what comes of it for the crowd that it may be of.
    ``refused``: it was answered 401, 403 or 404.
    """
    prints = tenant.templates
    print_ = event.fingerprint or 0
    found, bits = prints.find(print_)
    ts, times = event.ts, event.times
    if found is None:
        found = prints.add(print_, ts)
    # A settled key in new hands is judged by itself.
    fresh = found.fresh_to(ip.born, ts) and not _is_settled(user, ts)
    if not fresh and (ip.familiar(ts) or (user is not None and user.familiar(ts))):
        tenant.learn_asked(event.client_ip, print_)
    accepted = not refused and _is_accepted(bench, event, ip)
    found.count(
        ts,
        event.client_ip,
        bits,
        fresh=fresh,
        refused=refused,
        accepted=accepted,
        times=times,
    )
    dense = found.requests >= _DENSE or found.peak >= _DENSE
    young = dense and not found.known(ts)
    if young or ip.templated:
        ip.template(young=young)
    if user is not None and (young or user.templated):
        user.template(young=young)
    out: list[Output] = []
    if fresh and _is_shared(tenant, found, event, young=young):
        out += _count_worded(
            bench, tenant, event, ip, user, refused=refused, accepted=accepted
        )
    if found.abusive_until > ts:
        tenant.flooded += times
        out += bench.join(tenant, found, ip, user, ts, refused=refused)
    if _is_due(found, times):
        prints.place(found)
        if _judge(bench, tenant, found, ts, out):
            prints.place(found)
    return out


def _is_accepted(bench: ResponseManager, event: Event, ip: SubjectState) -> bool:
    """Whether a request that was not refused counts as accepted: it has an answer, or
    may get one. A refusal by the gateway of an address that upstreams refuse does not.
    """
    if event.status != REFUSED_STATUS:
        return True
    if ip.outcomes[DENIED] + ip.outcomes_b[DENIED]:
        return False
    return bench.action_for(ip.kind, ip.id, ip.tenant, event.ts) != "block"


def _is_settled(user: SubjectState | None, now: float) -> bool:
    return user is not None and user.known(now) and user.most_new_networks < ROAMS


def _is_shared(
    tenant: TenantState, found: Template, event: Event, *, young: bool
) -> bool:
    """Whether other newcomers ask what this one asks; counts it as the one or the other."""
    ts, times = event.ts, event.times
    if young:
        tenant.young += times
        shared = len(found.sources) >= _SHARED
        if shared and found.usual < 0:
            found.usual = int(tenant.is_asked(found.print))
        shared = shared and not found.usual
        if shared:
            tenant.share(found.print, ts)
            if ts - found.born < NEWCOMER_S:
                tenant.burst_m += times
    else:
        shared = tenant.is_worded_anew(event.fingerprint or 0, ts)
        tenant.loose += times * shared
        tenant.varied += times * (not shared)
    tenant.shared_prompts += times * shared
    return shared


def _count_worded(
    bench: ResponseManager,
    tenant: TenantState,
    event: Event,
    ip: SubjectState,
    user: SubjectState | None,
    *,
    refused: bool,
    accepted: bool,
) -> list[Output]:
    """Wordings of one crowd, of which no single one need be a template."""
    out: list[Output] = []
    ts, times = event.ts, event.times
    crowd = tenant.count_worded(
        event.fingerprint or 0,
        ts,
        event.client_ip,
        refused=refused,
        accepted=accepted,
        times=times,
    )
    for track in (ip, user):
        if track is not None:
            track.worded += times
    if ip.worded >= INSISTS:
        tenant.insist(event.client_ip)
    if crowd.abusive_until > ts and ip.worded >= _WORDED:
        out += bench.join(tenant, crowd, ip, user, ts, refused=refused)
    if _is_due(crowd, times):
        _judge(bench, tenant, crowd, ts, out)
    return out


def _is_due(template: Template, times: int) -> bool:
    """Whether it is looked at again: less often the more it is sent."""
    template.skip -= times
    if template.skip > 0:
        return False
    template.skip = max(4, template.requests_m >> 3)
    return True


def _judge(
    bench: ResponseManager,
    tenant: TenantState,
    template: Template,
    ts: float,
    out: list[Output],
) -> bool:
    """Look at a template as a whole; whether it is flooded."""
    declared = 1.0
    if bench.settings.campaigns:
        declared = declared_times(tenant.name, ts, bench.settings)
    finding = judge_template(tenant, template, ts, declared)
    if finding is None:
        return False
    tenant.abused = True
    out += bench.crowd(tenant, template, finding, ts)
    return True
