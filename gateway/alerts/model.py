"""Values of alerting: reports, events, messages, incidents, delivery states."""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from gateway.detect.incidents import EVERYWHERE, SHARED
from gateway.detect.model import ACTIONS, HARMLESS, Output, format_time

# The payload as receivers see it (``docs/alerts.md``): a plain JSON object.
Payload = dict[str, Any]
SEVERITIES = ("info", "warning", "critical")
OPENED, UPDATED = "incident.opened", "incident.updated"
RESOLVED, ACKNOWLEDGED = "incident.resolved", "incident.acknowledged"
DEGRADED, RECOVERED = "gateway.degraded", "gateway.recovered"
DIGEST = "digest"
Outcome = Literal["sent", "retry", "dead"]


class IncidentReport(msgspec.Struct, frozen=True):
    """One gateway's report of an incident, for the outbox."""

    gateway: str
    local: str  # the gateway's own id of the incident
    verb: str  # opened, updated, resolved
    severity: int  # index into SEVERITIES
    action: int  # index into ACTIONS
    score: float
    cls: str
    body: bytes  # the output as JSON
    causes: tuple[str, ...]  # it joins an open incident that shares one of them,
    loose: str = ""  # or that shares this one and is reported by other gateways only


class StandaloneEvent(msgspec.Struct, frozen=True):
    """An event outside incidents: an action on a client, or a degraded gateway.

    Events with the same ``key`` are logged once, also if several gateways report them: one
    that ``begins`` only if none is in force (until ``until``, epoch seconds), an end only
    after a beginning. "": always logged.
    """

    type: str
    gateway: str
    local: str  # the gateway's own incident id, "" for none
    severity: int
    body: bytes
    chain: str  # events of one chain are delivered in order
    key: str = ""
    begins: bool = True
    until: float = 0.0


class LoggedEvent(msgspec.Struct, frozen=True):
    """An entry of the event log, read for every receiver in the order of ``id``."""

    id: str
    type: str
    about: str  # incident id, or another key that orders its messages
    severity: int
    action: int
    opened: float  # epoch seconds; 0: no incident
    body: bytes
    at: float

    def payload(self) -> Payload:
        """The JSON that receivers get."""
        shown: Payload = msgspec.json.decode(self.body)
        shown["type"] = self.type
        shown["severity"] = SEVERITIES[self.severity]
        if self.opened:
            shown["id"] = self.about
            shown["action"] = ACTIONS[self.action]
            shown["opened_at"] = format_time(self.opened)
        if self.type in (RESOLVED, ACKNOWLEDGED):
            shown["ts"] = format_time(self.at)
        return shown


class AlertMessage(msgspec.Struct):
    """A message to one receiver; ``id`` is the same at every attempt."""

    id: str
    chain: str  # messages of one chain are delivered in order
    payload: Payload
    created: float
    before: Payload | None = None  # last payload about this incident
    attempts: int = 0
    last_at: float = 0.0
    error: str = ""
    about: str = ""  # its incident, client or gateway; not ``chain`` after a digest

    @property
    def topic(self) -> str:
        """The same key for all messages about one incident, client or gateway."""
        return self.about or self.chain

    def summary(self) -> dict[str, Any]:
        """In the form of the admin API."""
        payload = self.payload
        return {
            "id": self.id,
            "type": payload["type"],
            "incident": payload["id"],
            "severity": payload["severity"],
            "class": payload.get("class"),
            "tenant": payload.get("tenant"),
            "created_at": format_time(self.created),
            "attempts": self.attempts,
            "last_attempt_at": format_time(self.last_at) if self.last_at else None,
            "error": self.error,
        }


class DeliveryState(msgspec.Struct, frozen=True):
    """The last payload that a receiver got about an incident."""

    payload: Payload
    folded: bool = False  # sent only in a digest
    chain: str = ""  # chain of later messages, after the digest


class SharedIncident(msgspec.Struct, frozen=True):
    """An incident of one cause, shared by all gateways that report it."""

    id: str
    state: str  # open, resolved
    severity: int
    action: int
    opened: float
    ended: float
    body: bytes
    gateways: tuple[str, ...]
    aliases: tuple[str, ...] = ()  # ids that gateways gave it
    acknowledged_by: str = ""
    acknowledged_at: float = 0.0
    resolved_by: str = ""  # operator; "" if it ended without one

    def public(self) -> dict[str, Any]:
        """In the form of the admin API."""
        shown: dict[str, Any] = msgspec.json.decode(self.body)
        acknowledged = resolved = None
        if self.acknowledged_at:
            moment = format_time(self.acknowledged_at)
            acknowledged = {"by": self.acknowledged_by, "at": moment}
        if self.ended:
            resolved = {"by": self.resolved_by, "at": format_time(self.ended)}
        return shown | {
            "type": RESOLVED if self.state == "resolved" else shown["type"],
            "id": self.id,
            "severity": SEVERITIES[self.severity],
            "action": ACTIONS[self.action],
            "state": self.state,
            "opened_at": format_time(self.opened),
            "acknowledged": acknowledged,
            "resolved": resolved,
            "gateways": list(self.gateways),
        }


def aliases_of(reported: Iterable[str]) -> tuple[str, ...]:
    """Ids of an incident from its reporters, each ``gateway|id``."""
    return tuple(sorted({one.rpartition("|")[2] for one in reported}))


def report_of(output: Output, gateway: str) -> IncidentReport:
    """Convert an output about an incident to a report."""
    return IncidentReport(
        gateway=gateway,
        local=output.id,
        verb=output.type.partition(".")[2],
        severity=SEVERITIES.index(output.severity),
        action=ACTIONS.index(output.action),
        score=output.score,
        cls=output.cls,
        body=msgspec.json.encode(output),
        causes=causes_of(output),
        loose=loose_cause_of(output),
    )


def causes_of(output: Output) -> tuple[str, ...]:
    """Names of the cause of an incident, the most specific first.

    The same rules as in the detector: distributed attacks on one tenant at one time share
    a cause, single sources that scrape, probe or flood share one by class, and incidents
    that name the same subject share one. Harmless classes have one cause per tenant.
    """
    tenant = output.tenant
    if output.cls in HARMLESS:
        return (f"{tenant}|{output.cls}",)
    named = (output.subject, *output.subjects)
    own = [f"{tenant}|by|{one.kind}:{one.id}" for one in named if one.kind != "tenant"]
    if output.cls in SHARED:
        if output.subject.kind != "tenant":  # a single source
            return (*dict.fromkeys(own), f"{tenant}|shared|{output.cls}")
        distributed = (f"{tenant}|shared", f"{EVERYWHERE}|shared")
        return (*distributed, *dict.fromkeys(own))
    own.append(f"{tenant}|by|{output.subject.kind}:{output.subject.id}")
    return tuple(dict.fromkeys(own))


def loose_cause_of(output: Output) -> str:
    """Cause that a distributed attack shares with a single source of its class, "" for
    others. Its own gateway distinguishes the two; another one may see only that source.
    """
    is_distributed = output.cls in SHARED and output.subject.kind == "tenant"
    return f"{output.tenant}|shared|{output.cls}" if is_distributed else ""


def lasting_causes(report: IncidentReport) -> tuple[str, ...]:
    """Causes under which an incident is stored: without the one of the whole service,
    unless the incident is of the whole service.
    """
    shared, causes = f"{EVERYWHERE}|shared", report.causes
    own = tuple(one for one in causes if one != shared or causes[0] == shared)
    return (*own, report.loose) if report.loose else own


def client_event_of(output: Output, gateway: str) -> StandaloneEvent:
    """Convert an output about a single client to an event."""
    subject = output.subject
    who = f"{output.tenant}|{subject.kind}|{subject.id}"
    begins = output.type != "client.unblocked"
    until = 0.0
    if output.until is not None:
        until = msgspec.structs.replace(output, ts=output.until).at
    return StandaloneEvent(
        type=output.type,
        gateway=gateway,
        local=output.id,
        severity=SEVERITIES.index(output.severity),
        body=msgspec.json.encode(output),
        chain="client:" + short_id(who),
        key=f"{who}|{'block' if 'block' in output.type else output.type}",
        begins=begins,
        until=until,
    )


def gateway_event(
    kind: str, gateway: str, reason: str, at: float, what: str = ""
) -> StandaloneEvent:
    """A ``gateway.degraded`` or ``gateway.recovered`` event. ``what``: the part of the
    gateway that fails, "" for its store.
    """
    degraded = kind == DEGRADED
    name = f"{gateway}:{what}" if what else gateway
    moment = format_time(at)
    subject = {"kind": "gateway", "id": gateway}
    payload: Payload = {
        "type": kind,
        "id": "gw_" + short_id(name),  # the same for the beginning and the end
        "ts": moment,
        "severity": "warning" if degraded else "info",
        "class": "gateway",
        "score": 0.0,
        "subject": subject,
        "tenant": EVERYWHERE,
        "action": "allow",
        "until": None,
        "window": {"from": moment, "to": moment},
        "observed": {},
        "expected": {},
        "reasons": [reason] if reason else [],
        "subjects": [],
    }
    return StandaloneEvent(
        type=kind,
        gateway=gateway,
        local="",
        severity=1 if degraded else 0,
        body=msgspec.json.encode(payload),
        chain=f"gateway:{name}",
        key=f"gateway|{name}",
        begins=degraded,
        until=at + 30 * 86_400.0,
    )


def event_key(event: str, payload: Payload) -> str:
    """Key from which message ids are made: the id in the event log; for gateway events
    their content, because these are also sent without the log.
    """
    if payload["type"].startswith("gateway."):
        return f"{payload['type']}|{payload['id']}|{payload['ts']}"
    return event


def message_id(event: str, receiver: str) -> str:
    """Message id for an event and a receiver, the same on every gateway and attempt."""
    return "msg_" + short_id(f"{event}\0{receiver}")


def short_id(text: str) -> str:
    """26 characters that identify a text: a hash in base32."""
    digest = hashlib.blake2b(text.encode(), digest_size=17).digest()
    return b32encode(digest).decode().lower()[:26]


def is_at_least(payload: Mapping[str, Any], severity: str) -> bool:
    """Whether an alert reaches a minimum severity."""
    return SEVERITIES.index(payload["severity"]) >= SEVERITIES.index(severity)
