"""Baselines from past requests: the state of a detector that observed them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from gateway.detect.engine import Engine
from gateway.detect.model import DetectSettings, Output, format_time
from gateway.detect.order import EventClock
from gateway.detect.responses import ResponseManager
from gateway.replay.requests import Request

# Default settings: baselines and score tails do not depend on a policy's ladder, and
# every tenant is learned, also with detection off.
SETTINGS = DetectSettings(observe=True)
_EVERY = 2000
# A small share of requests so long after all others comes from a wrong clock. Learning
# them would age everything before them.
_FAR_S, _FEW = 30 * 86_400.0, 1e-3


class Ordered(Protocol):
    """Requests in order of time, with their number."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]: ...


class Learned(msgspec.Struct):
    """What was learned. Times are epoch seconds."""

    requests: int = 0
    since: float = 0.0
    until: float = 0.0
    tenants: int = 0
    users: int = 0
    addresses: int = 0
    with_history: int = 0
    """Subjects with a baseline of their own."""
    strays: int = 0
    """Requests far after all others, not learned."""
    incidents: dict[str, int] = {}
    """Incidents by class; their recognised traffic is not part of the baselines."""

    def sentences(self) -> list[str]:
        """A summary in sentences."""
        span = f"from {format_time(self.since)} to {format_time(self.until)}"
        seen = (
            f"{self.tenants:,} tenants, {self.users:,} users,"
            f" {self.addresses:,} addresses"
        )
        own = f"{self.with_history:,} subjects have a baseline of their own"
        said = [f"learned {self.requests:,} requests {span}: {seen}; {own}"]
        if self.incidents:
            found = sorted(self.incidents.items())
            names = ", ".join(f"{count} {cls}" for cls, count in found)
            said.append(f"incidents found and not learned as normal: {names}")
        if self.strays:
            said.append(
                f"not learned, because their time is far after all others: {self.strays:,}"
            )
        return said


def learn_from(
    requests: Ordered, advance: Callable[[int], None] = lambda _count: None
) -> tuple[bytes, Learned]:
    """The state of a detector that observed these requests (in order of time), and a
    summary.
    """
    total = len(requests)
    engine = Engine(SETTINGS)
    learned = Learned()
    for request in requests:
        left = total - learned.requests
        if not learned.requests:
            learned.since = request.ts
        elif request.ts - learned.until > _FAR_S and left <= _FEW * total:
            learned.strays = left
            break
        learned.requests += 1
        learned.until = request.ts
        # Requests are sorted, so the clock may jump to this time, also after a long gap.
        _count_incidents(learned, engine.advance(request.ts))
        _count_incidents(
            learned, engine.observe(request.event(request.usd, request.ts))
        )
        if learned.requests % _EVERY == 0:
            advance(learned.requests)
    _count_incidents(learned, engine.close())
    _count(learned, engine)
    return _state_without_verdicts(engine), learned


def _count_incidents(learned: Learned, outputs: list[Output]) -> None:
    for output in outputs:
        if output.type == "incident.opened":
            known = learned.incidents.get(output.cls, 0)
            learned.incidents[output.cls] = known + 1


def _count(learned: Learned, engine: Engine) -> None:
    learned.tenants = len(engine.tenants)
    for tenant in engine.tenants.values():
        learned.users += len(tenant.subjects["user"])
        learned.addresses += len(tenant.subjects["client_ip"])
        for states in tenant.subjects.values():
            for state in states.values():
                learned.with_history += state.baseline is not None


def _state_without_verdicts(engine: Engine) -> bytes:
    """The state without enforcement states, incidents and abusive templates: they are too
    old to act on. Also without its clock, so that events older than the learned ones do
    not count as late.
    """
    engine.responses = ResponseManager(engine.settings)
    engine.clock = EventClock()
    for tenant in engine.tenants.values():
        for template in tenant.templates.all():
            template.abusive_until = 0.0
    return engine.state()
