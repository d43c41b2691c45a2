"""What was said of each incident: its steps, and who is held because of it.

A flood acts on thousands within seconds. What is of one kind and one minute is one step
with a count, so that the story stays short and nothing of it is lost.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from gateway.core.model import DETECTOR, Block
from gateway.detect.model import Output, Ref

MOST_INCIDENTS = 1000
MOST_OUTPUTS = 100
MOST_STEPS = 100
# Clients named in one step; all of them are counted.
MOST_NAMED = 20
STEP_S = 60.0
# Clients whose incident is remembered: more than can be held at once.
MOST_RESTRICTIONS = 50_000
# A step is looked for among so many: kinds of steps that alternate.
_NEAR = 4
Key = tuple[str, str, str]  # kind, id, tenant


class IncidentStep(msgspec.Struct):
    """What happened, to how many, from when to when (epoch seconds)."""

    type: str
    since: float = msgspec.field(name="from")
    until: float = msgspec.field(name="to")
    count: int
    ends: str | None
    """Until when it is in force, at the latest."""
    severity: str
    score: float
    clients: list[Ref] = msgspec.field(default_factory=list)


class Restriction(msgspec.Struct, frozen=True):
    """Why a client is held: the incident, what is done, and since when."""

    incident: str
    action: str
    since: float


class IncidentHistory:
    """Of one incident, oldest first."""

    __slots__ = ("outputs", "steps")

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.steps: list[IncidentStep] = []

    def add(self, output: Output) -> None:
        """One more line."""
        _make_room(self.outputs, MOST_OUTPUTS)
        self.outputs.append(output)
        step = self._step_of(output)
        if step is None:
            _make_room(self.steps, MOST_STEPS)
            step = _step(output)
            self.steps.append(step)
        step.until, step.count = output.at, step.count + 1
        step.ends = max(step.ends or "", output.until or "") or None
        if len(step.clients) < MOST_NAMED and output.type.startswith("client."):
            step.clients.append(output.subject)

    def _step_of(self, output: Output) -> IncidentStep | None:
        """The step that this belongs to; an incident's own line is always a new one."""
        if not output.type.startswith("client."):
            return None
        for step in reversed(self.steps[-_NEAR:]):
            if step.type == output.type and output.at - step.since < STEP_S:
                return step
        return None


def _step(output: Output) -> IncidentStep:
    return IncidentStep(
        type=output.type,
        since=output.at,
        until=output.at,
        count=0,
        ends=None,
        severity=output.severity,
        score=output.score,
    )


def _make_room(rows: list[Any], most: int) -> None:
    """What was done to single clients leaves first; how it began is kept."""
    if len(rows) >= most:
        clients = (n for n, one in enumerate(rows) if one.type.startswith("client."))
        del rows[next(clients, 1)]


def start_of(incident: Mapping[str, Any]) -> float:
    """When what it is about began (epoch seconds); it is told a little later."""
    first = min(incident["window"]["from"], incident["opened_at"])
    return datetime.fromisoformat(first).timestamp()


class IncidentLog:
    """Of the last incidents; the oldest make room."""

    def __init__(self) -> None:
        self._histories: OrderedDict[str, IncidentHistory] = OrderedDict()
        self._restrictions: OrderedDict[Key, Restriction] = OrderedDict()

    def on_output(self, output: Output) -> None:
        """Something that the detector said."""
        history = self._histories.get(output.id)
        if history is None:
            history = self._histories[output.id] = IncidentHistory()
            if len(self._histories) > MOST_INCIDENTS:
                self._histories.popitem(last=False)
        history.add(output)
        if output.type.startswith("client."):
            self._track_restriction(output)

    def _track_restriction(self, output: Output) -> None:
        key = (output.subject.kind, output.subject.id, output.tenant)
        previous = self._restrictions.pop(key, None)
        if output.type == "client.unblocked":
            return
        same = previous is not None and previous.action == output.action
        since = previous.since if previous is not None and same else output.at
        self._restrictions[key] = Restriction(output.id, output.action, since)
        if len(self._restrictions) > MOST_RESTRICTIONS:
            self._restrictions.popitem(last=False)

    def history_of(self, incident: str) -> IncidentHistory:
        """An empty one where nothing is remembered."""
        return self._histories.get(incident) or IncidentHistory()

    def outputs(self) -> Iterable[Output]:
        """Of all of them."""
        return (
            line for history in self._histories.values() for line in history.outputs
        )

    def restriction_of(self, kind: str, id_: str, tenant: str) -> Restriction | None:
        """Why a client is held, as far as this process knows."""
        return self._restrictions.get((kind, id_, tenant))

    def blocks_by_incident(
        self, incidents: Sequence[Mapping[str, Any]], blocks: Iterable[Block]
    ) -> dict[str, list[Block]]:
        """By incident: what detection does to whom because of it."""
        found: dict[str, list[Block]] = {one["id"]: [] for one in incidents}
        by_class: dict[str, list[tuple[str, float, list[Block]]]] = {}
        for one in incidents:
            row = (one["tenant"], start_of(one), found[one["id"]])
            by_class.setdefault(one["class"], []).append(row)
        for block in blocks:
            if block.by != DETECTOR:
                continue
            restriction = self._restrictions.get(
                (block.kind, block.id, block.tenant or "")
            )
            if restriction is not None:
                if restriction.incident in found:
                    found[restriction.incident].append(block)
                continue
            # From before this process, or of another gateway: the newest of its class.
            at = block.created_at
            if block.kind == "prompts":  # there since before it was a flood
                at = block.until or at
            for tenant, since, its in by_class.get(block.cls, ()):
                if at >= since and tenant in (block.tenant, "*"):
                    its.append(block)
                    break
        return found
