"""Past requests into baselines: what a detector would know had it been there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from gateway.detect.engine import Engine
from gateway.detect.model import DetectSettings, Output, format_time
from gateway.detect.order import EventClock
from gateway.detect.responses import ResponseManager
from gateway.replay.requests import Request

# The built-in settings: levels, tides and tails do not hang on a policy's ladder, and
# every tenant is learned, whatever its policy wants today.
SETTINGS = DetectSettings(observe=True)
_EVERY = 2000
# A few requests (this share) so far behind all others are of a wrong clock. Learned,
# they would make everything before them a matter of the distant past.
_FAR_S, _FEW = 30 * 86_400.0, 1e-3


class Ordered(Protocol):
    """Requests by time, and how many."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]: ...


class Learned(msgspec.Struct):
    """What was taken in. Times are epoch seconds."""

    requests: int = 0
    since: float = 0.0
    until: float = 0.0
    tenants: int = 0
    users: int = 0
    addresses: int = 0
    with_history: int = 0
    """Subjects with a history of their own."""
    strays: int = 0
    """Requests far after all others, left out."""
    incidents: dict[str, int] = {}
    """What stood out and was kept out of the baselines as far as it was recognised."""

    def sentences(self) -> list[str]:
        """For people."""
        span = f"from {format_time(self.since)} to {format_time(self.until)}"
        seen = (
            f"{self.tenants:,} tenants, {self.users:,} users,"
            f" {self.addresses:,} addresses"
        )
        own = f"{self.with_history:,} subjects have a history of their own"
        said = [f"learned {self.requests:,} requests {span}: {seen}; {own}"]
        if self.incidents:
            found = sorted(self.incidents.items())
            names = ", ".join(f"{count} {cls}" for cls, count in found)
            said.append(f"recognised on the way, and not learned as usual: {names}")
        if self.strays:
            said.append(
                f"not learned, as their time is far after all others: {self.strays:,}"
            )
        return said


def learn_from(
    requests: Ordered, advance: Callable[[int], None] = lambda _count: None
) -> tuple[bytes, Learned]:
    """The state of a detector that saw these requests (in the order of time), and what
    it is made of.
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
        # In order, so it is certain that this is the time: also after a long silence.
        _note(learned, engine.advance(request.ts))
        _note(learned, engine.observe(request.event(request.usd, request.ts)))
        if learned.requests % _EVERY == 0:
            advance(learned.requests)
    _note(learned, engine.close())
    _count(learned, engine)
    return _bare_state(engine), learned


def _note(learned: Learned, outputs: list[Output]) -> None:
    for output in outputs:
        if output.type == "incident.opened":
            known = learned.incidents.get(output.cls, 0)
            learned.incidents[output.cls] = known + 1


def _count(learned: Learned, engine: Engine) -> None:
    learned.tenants = len(engine.tenants)
    for tenant in engine.tenants.values():
        learned.users += len(tenant.subjects["user"])
        learned.addresses += len(tenant.subjects["client_ip"])
        for tracks in tenant.subjects.values():
            for track in tracks.values():
                learned.with_history += track.baseline is not None


def _bare_state(engine: Engine) -> bytes:
    """The state without what was thought of anybody: a block of last week, and a
    template that was flooded then, are no reason to act today. Without its clock, too:
    events that are older than what was learned are not late.
    """
    engine.responses = ResponseManager(engine.settings)
    engine.clock = EventClock()
    for tenant in engine.tenants.values():
        for template in tenant.templates.all():
            template.abusive_until = 0.0
    return engine.state()
