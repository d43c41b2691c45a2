"""The nouns of alerting: reports, events, messages, and what a receiver was told."""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from gateway.detect.incidents import EVERYWHERE, SHARED
from gateway.detect.model import ACTIONS, HARMLESS, Output, format_time

# The payload as receivers see it (docs: Verdicts): a plain JSON object.
Payload = dict[str, Any]
SEVERITIES = ("info", "warning", "critical")
OPENED, UPDATED = "incident.opened", "incident.updated"
RESOLVED, ACKNOWLEDGED = "incident.resolved", "incident.acknowledged"
DEGRADED, RECOVERED = "gateway.degraded", "gateway.recovered"
DIGEST = "digest"
Outcome = Literal["sent", "retry", "dead"]


class IncidentReport(msgspec.Struct, frozen=True):
    """What one gateway's detector said of an incident, ready for the store."""

    gateway: str
    local: str  # the gateway's own id of it
    verb: str  # opened, updated, resolved
    severity: int  # index into SEVERITIES
    action: int  # index into RUNGS
    score: float
    cls: str
    body: bytes  # the output as JSON
    causes: tuple[str, ...]  # by any of which it joins an open incident
    loose: str = ""  # and by this one where only other gateways report that incident


class StandaloneEvent(msgspec.Struct, frozen=True):
    """An event beside incidents: a client acted on, a gateway in trouble.

    ``key`` (when not empty) is who it is about: on ``begins`` it is told only when it
    was not told before or that has run out (``until``, epoch seconds), otherwise only
    when it was (and, once its time was up, not long ago). So three gateways that block one client say it once.
    """

    type: str
    gateway: str
    local: str  # the gateway's own incident id, "" for none
    severity: int
    body: bytes
    chain: str
    key: str = ""
    begins: bool = True
    until: float = 0.0


class LoggedEvent(msgspec.Struct, frozen=True):
    """An entry of the log that every receiver reads; ``id`` orders them."""

    id: str
    type: str
    about: str  # incident id, or what else keeps its messages in order
    severity: int
    action: int
    opened: float  # epoch seconds; 0: no incident
    body: bytes
    at: float

    def payload(self) -> Payload:
        """As receivers see it."""
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
    """What one receiver is to be told; ``id`` is the same at every attempt."""

    id: str
    chain: str  # messages of one chain are delivered in order
    payload: Payload
    created: float
    before: Payload | None = None  # what it was told of this incident before
    attempts: int = 0
    last_at: float = 0.0
    error: str = ""
    about: str = ""  # what it is of, where the chain is another's

    @property
    def topic(self) -> str:
        """One for all that is said of an incident, a client or a gateway."""
        return self.about or self.chain

    def summary(self) -> dict[str, Any]:
        """As the admin API shows it."""
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
    """What a receiver knows of an incident."""

    payload: Payload
    folded: bool = False  # only by a digest
    chain: str = ""  # in which the rest comes: behind the digest


class SharedIncident(msgspec.Struct, frozen=True):
    """One cause, whoever of the gateways saw it."""

    id: str
    state: str  # open, resolved
    severity: int
    action: int
    opened: float
    ended: float
    body: bytes
    gateways: tuple[str, ...]
    aliases: tuple[str, ...] = ()  # ids that gateways gave it by themselves
    acknowledged_by: str = ""
    acknowledged_at: float = 0.0
    resolved_by: str = ""  # an operator; "": it calmed down

    def public(self) -> dict[str, Any]:
        """As the admin API shows it."""
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
    """Ids of an incident, of what ``gateway|id`` reported."""
    return tuple(sorted({one.rpartition("|")[2] for one in reported}))


def report_of(output: Output, gateway: str) -> IncidentReport:
    """What is said of an incident, for the store."""
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
    """The names of its cause, the surest first.

    As the detector has it: crowds of one tenant at one time are one cause, single
    sources that scrape, probe or flood are one by their class, and what names the same
    subject is the same. Classes that are nobody's fault are one per tenant.
    """
    tenant = output.tenant
    if output.cls in HARMLESS:
        return (f"{tenant}|{output.cls}",)
    named = (output.subject, *output.subjects)
    own = [f"{tenant}|by|{one.kind}:{one.id}" for one in named if one.kind != "tenant"]
    if output.cls in SHARED:
        alike = f"{tenant}|shared|{output.cls}"
        if output.subject.kind != "tenant":
            return (*dict.fromkeys(own), alike)
        crowd = (f"{tenant}|shared", f"{EVERYWHERE}|shared")
        return (*crowd, *dict.fromkeys(own))
    own.append(f"{tenant}|by|{output.subject.kind}:{output.subject.id}")
    return tuple(dict.fromkeys(own))


def loose_cause_of(output: Output) -> str:
    """What a crowd has in common with a single source of its class. Its own gateway
    told the two apart; another one may have met no more than that source of it.
    """
    crowd = output.cls in SHARED and output.subject.kind == "tenant"
    return f"{output.tenant}|shared|{output.cls}" if crowd else ""


def lasting_causes(report: IncidentReport) -> tuple[str, ...]:
    """Those that an incident is afterwards known by: not the whole service's, unless
    it is the whole service's own.
    """
    alien, causes = f"{EVERYWHERE}|shared", report.causes
    own = tuple(one for one in causes if one != alien or causes[0] == alien)
    return (*own, report.loose) if report.loose else own


def client_event_of(output: Output, gateway: str) -> StandaloneEvent:
    """What is said of a single client, for the store."""
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
    """``gateway.degraded`` or ``gateway.recovered`` in the shape of alerts. ``what``:
    the part of the gateway that it is about, "" the store.
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
    """What its messages' ids are made of: the log's own name of an event, but of a
    gateway's trouble what it says, for that is also told without the log.
    """
    if payload["type"].startswith("gateway."):
        return f"{payload['type']}|{payload['id']}|{payload['ts']}"
    return event


def message_id(event: str, receiver: str) -> str:
    """The same for an event and a receiver, whoever sends it and how often."""
    return "msg_" + short_id(f"{event}\0{receiver}")


def short_id(text: str) -> str:
    """26 characters that stand for a text."""
    digest = hashlib.blake2b(text.encode(), digest_size=17).digest()
    return b32encode(digest).decode().lower()[:26]


def is_at_least(payload: Mapping[str, Any], severity: str) -> bool:
    """Whether an alert is as severe as a receiver wants."""
    return SEVERITIES.index(payload["severity"]) >= SEVERITIES.index(severity)
