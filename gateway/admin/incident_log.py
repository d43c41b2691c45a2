"""Log of detector outputs by incident, and the incident behind each restriction.

A DDoS causes thousands of client events within seconds. Client events of one type
within a minute are merged into one step with a count, which bounds the log.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from gateway.core.model import DETECTOR, Block
from gateway.detect.model import Output, Ref

MAX_INCIDENTS = 1000
MAX_OUTPUTS = 100
MAX_STEPS = 100
# Clients listed in one step; further ones are only counted.
MAX_NAMED = 20
STEP_S = 60.0
# More than detection can restrict at once.
MAX_RESTRICTIONS = 50_000
# Newest steps searched for one to extend: event types that alternate.
_RECENT_STEPS = 4
Key = tuple[str, str, str]  # kind, id, tenant


class IncidentStep(msgspec.Struct):
    """Merged events of one type: count and time range (epoch seconds)."""

    type: str
    since: float = msgspec.field(name="from")
    until: float = msgspec.field(name="to")
    count: int
    ends: str | None
    """Latest expiry of the actions (RFC 3339)."""
    severity: str
    score: float
    clients: list[Ref] = msgspec.field(default_factory=list)


class Restriction(msgspec.Struct, frozen=True):
    """Incident and action behind a restricted client; ``since``: epoch seconds."""

    incident: str
    action: str
    since: float


class IncidentHistory:
    """Outputs and steps of one incident, oldest first."""

    __slots__ = ("outputs", "steps")

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.steps: list[IncidentStep] = []

    def add(self, output: Output) -> None:
        """Add an output and merge it into the steps."""
        _make_room(self.outputs, MAX_OUTPUTS)
        self.outputs.append(output)
        step = self._step_of(output)
        if step is None:
            _make_room(self.steps, MAX_STEPS)
            step = _step(output)
            self.steps.append(step)
        step.until, step.count = output.at, step.count + 1
        step.ends = max(step.ends or "", output.until or "") or None
        if len(step.clients) < MAX_NAMED and output.type.startswith("client."):
            step.clients.append(output.subject)

    def _step_of(self, output: Output) -> IncidentStep | None:
        """The step to extend; None for events of the incident itself."""
        if not output.type.startswith("client."):
            return None
        for step in reversed(self.steps[-_RECENT_STEPS:]):
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
    """Evict the oldest client event; without one, the second row. Keeps the opening."""
    if len(rows) >= most:
        clients = (n for n, one in enumerate(rows) if one.type.startswith("client."))
        del rows[next(clients, 1)]


def start_of(incident: Mapping[str, Any]) -> float:
    """Start of the incident (epoch seconds), which precedes its opening."""
    first = min(incident["window"]["from"], incident["opened_at"])
    return datetime.fromisoformat(first).timestamp()


class IncidentLog:
    """Histories of the last incidents and restricted clients; evicts the oldest."""

    def __init__(self) -> None:
        self._histories: OrderedDict[str, IncidentHistory] = OrderedDict()
        self._restrictions: OrderedDict[Key, Restriction] = OrderedDict()

    def on_output(self, output: Output) -> None:
        """Log a detector output."""
        history = self._histories.get(output.id)
        if history is None:
            history = self._histories[output.id] = IncidentHistory()
            if len(self._histories) > MAX_INCIDENTS:
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
        if len(self._restrictions) > MAX_RESTRICTIONS:
            self._restrictions.popitem(last=False)

    def history_of(self, incident: str) -> IncidentHistory:
        """History of an incident; empty if unknown."""
        return self._histories.get(incident) or IncidentHistory()

    def outputs(self) -> Iterable[Output]:
        """Outputs of all incidents."""
        return (
            line for history in self._histories.values() for line in history.outputs
        )

    def restriction_of(self, kind: str, id_: str, tenant: str) -> Restriction | None:
        """The restriction of a client, if this process saw it."""
        return self._restrictions.get((kind, id_, tenant))

    def blocks_by_incident(
        self, incidents: Sequence[Mapping[str, Any]], blocks: Iterable[Block]
    ) -> dict[str, list[Block]]:
        """Blocks of detection by the id of the incident that caused them."""
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
            # Made before this process started or by another gateway: assign it to the
            # newest incident of its class.
            at = block.created_at
            if block.kind == "prompts":  # may be older than its incident
                at = block.until or at
            for tenant, since, its in by_class.get(block.cls, ()):
                if at >= since and tenant in (block.tenant, "*"):
                    its.append(block)
                    break
        return found
