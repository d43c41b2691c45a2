"""Requests in the format of each receiver type: pure functions of a message."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.alerts.model import ACKNOWLEDGED, DIGEST, RESOLVED, AlertMessage, Payload
from gateway.detect.model import format_time

PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"
OPSGENIE_URL = "https://api.opsgenie.com/v2/alerts"
SOURCE = "tidegate"
# Alertmanager ends an alert that is not resolved after this time, seconds; a digest has
# no end of its own.
_FIRING_S = 7 * 86_400.0
_DIGEST_S = 900.0
# Most subjects and ids that a text names.
_MAX_SUBJECTS = 10
_MAX_IDS = 40
# Characters that Markdown interprets.
_MARKDOWN = re.compile(r"[\\`*_\[\]<]")
_TEXT_CHARS = 2_900  # Slack allows 3,000 characters per block
_PAGERDUTY = {"info": "info", "warning": "warning", "critical": "critical"}
_OPSGENIE = {"info": "P5", "warning": "P3", "critical": "P1"}
_WEIGHTS = {"info": "good", "warning": "warning", "critical": "attention"}
_MARKS = {
    "info": ":information_source:",
    "warning": ":warning:",
    "critical": ":rotating_light:",
}
_VERBS = {
    "incident.opened": "",
    "incident.updated": "worse: ",
    "incident.resolved": "resolved: ",
    "incident.acknowledged": "acknowledged: ",
}


class Post(msgspec.Struct, frozen=True):
    """A request to be sent; ``body`` is JSON."""

    url: str
    body: bytes
    headers: dict[str, str]

    def __repr__(self) -> str:
        """Without URL and headers, which may hold keys."""
        return f"Post({len(self.body)} bytes)"


def is_over(payload: Payload) -> bool:
    """Whether the payload ends an alert that was sent before."""
    return payload["type"] in (RESOLVED, "client.unblocked", "gateway.recovered")


def title(payload: Payload) -> str:
    """One-line summary."""
    kind = payload["type"]
    if kind == DIGEST:
        return f"{payload['count']} more alerts, folded into one"
    subject = payload["subject"]
    named = f"{subject['kind']} {subject['id']}"
    where = payload["tenant"]
    if kind.startswith("gateway."):
        return f"gateway {subject['id']} {kind.partition('.')[2]}"
    where = "" if where == subject["id"] else f" in {where}"
    if kind.startswith("client."):
        return f"{named} {kind.partition('.')[2]}{where} ({payload['class']})"
    return f"{_VERBS.get(kind, '')}{payload['class']}: {named}{where}"


def lines(payload: Payload) -> list[str]:
    """Details, one sentence per line."""
    if payload["type"] == DIGEST:
        shown = [f"{one['type']} {one['id']}" for one in payload["items"][:_MAX_IDS]]
        more = payload["count"] - len(shown)
        return [*shown, f"and {more} more"] if more else shown
    found = list(payload["reasons"])
    if payload["action"] != "allow":
        until = f" until {payload['until']}" if payload.get("until") else ""
        found.append(f"Action: {payload['action']}{until}.")
    named = [f"{one['kind']} {one['id']}" for one in payload["subjects"]]
    if len(named) > 1:
        found.append("Subjects: " + ", ".join(named[:_MAX_SUBJECTS]))
    return found


# -- generic ---------------------------------------------------------------------------


def webhook(
    url: str, secrets: Sequence[str], message: AlertMessage, now: float
) -> Post:
    """Standard Webhooks request, signed with every secret so that secrets can be rotated."""
    body = msgspec.json.encode(message.payload)
    stamp = str(int(now))
    headers = {"webhook-id": message.id, "webhook-timestamp": stamp}
    if secrets:
        signed = f"{message.id}.{stamp}.".encode() + body
        headers["webhook-signature"] = " ".join(sign(one, signed) for one in secrets)
    return Post(url, body, headers)


def sign(secret: str, content: bytes) -> str:
    """A ``v1`` signature of ``content``. ``secret``: ``whsec_`` and base64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, content, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


# -- chat --------------------------------------------------------------------------------


def slack(url: str, message: AlertMessage) -> Post:
    """Slack incoming webhook with blocks; ``text`` is for notifications."""
    payload = message.payload
    mark = ":white_check_mark:" if is_over(payload) else _MARKS[payload["severity"]]
    head = f"{mark} *{_plain(title(payload))}*"
    text = _plain("\n".join(f"• {one}" for one in lines(payload)))[:_TEXT_CHARS]
    blocks: list[dict[str, Any]] = [_section(head)]
    if text:
        blocks.append(_section(text))
    note = f"{payload['severity']} · {payload['id']} · {payload['ts']}"
    element = _mrkdwn(_plain(note))
    blocks.append({"type": "context", "elements": [element]})
    quiet = {"unfurl_links": False, "unfurl_media": False}
    return _post(url, {"text": _plain(title(payload)), "blocks": blocks} | quiet)


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _mrkdwn(text)}


def _mrkdwn(text: str) -> dict[str, Any]:
    # Verbatim: Slack must not turn names of clients into links.
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _plain(text: str) -> str:
    """Escape text so that values from clients become neither links nor mentions."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def teams(url: str, message: AlertMessage) -> Post:
    """Teams workflow webhook with an adaptive card."""
    payload = message.payload
    color = "good" if is_over(payload) else _WEIGHTS[payload["severity"]]
    body: list[dict[str, Any]] = [
        _text(title(payload), size="medium", weight="bolder", color=color),
        *(_text(one) for one in lines(payload)),
        _text(f"{payload['severity']} · {payload['id']}", isSubtle=True, size="small"),
    ]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    kind = "application/vnd.microsoft.card.adaptive"
    attachment = {"contentType": kind, "contentUrl": None, "content": card}
    return _post(url, {"type": "message", "attachments": [attachment]})


def _text(text: str, **style: Any) -> dict[str, Any]:
    # Cards interpret Markdown: brackets would become links. A backslash of a client's id
    # must not escape the one that is written here.
    shown = _MARKDOWN.sub(r"\\\g<0>", text)
    return {"type": "TextBlock", "text": shown, "wrap": True, **style}


# -- pagers ------------------------------------------------------------------------------


def pagerduty(url: str, key: str, message: AlertMessage) -> Post:
    """PagerDuty Events API v2: trigger, acknowledge and resolve by dedup key."""
    payload = message.payload
    action = "resolve" if is_over(payload) else "trigger"
    if payload["type"] == ACKNOWLEDGED:
        action = "acknowledge"
    event: dict[str, Any] = {
        "routing_key": key,
        "event_action": action,
        "dedup_key": dedup_key(message),
    }
    if action == "trigger":
        event["payload"] = {
            "summary": title(payload)[:1024],
            "source": SOURCE,
            "severity": _PAGERDUTY[payload["severity"]],
            "timestamp": payload["ts"],
            "group": payload["tenant"],
            "class": payload.get("class") or DIGEST,
            "custom_details": payload,
        }
        event["client"] = SOURCE
    return _post(url, event)


def dedup_key(message: AlertMessage) -> str:
    """The same key for all messages about one incident, client or gateway."""
    if message.payload["type"].startswith(("incident.", "digest")):
        return str(message.payload["id"])
    return message.topic


def opsgenie(url: str, key: str, message: AlertMessage) -> Post:
    """Opsgenie alert API: create, acknowledge or close by alias."""
    payload = message.payload
    alias, headers = dedup_key(message), {"Authorization": f"GenieKey {key}"}
    verb = "close" if is_over(payload) else ""
    verb = "acknowledge" if payload["type"] == ACKNOWLEDGED else verb
    if verb:
        target = f"{url.rstrip('/')}/{alias}/{verb}?identifierType=alias"
        return _post(target, {"source": SOURCE, "note": title(payload)}, headers)
    created = {
        "message": title(payload)[:130],
        "alias": alias,
        "description": "\n".join(lines(payload))[:15_000],
        "priority": _OPSGENIE[payload["severity"]],
        "source": SOURCE,
        "entity": payload["tenant"],
        "tags": [one for one in (payload.get("class"), payload["severity"]) if one],
        "details": {"id": payload["id"], "tenant": payload["tenant"]},
    }
    return _post(url, created, headers)


def alertmanager(url: str, message: AlertMessage, now: float) -> Post:
    """Alertmanager API v2. If labels (class, severity) changed, the old alert is ended."""
    payload = message.payload
    starts = payload.get("opened_at") or payload["ts"]
    last = _DIGEST_S if payload["type"] == DIGEST else _FIRING_S
    ends = format_time(now + last)
    if is_over(payload):  # an end before the start is rejected; clocks may differ
        ends = max(payload["ts"], starts)
    alerts = [_alert(payload, message, starts, ends)]
    if message.before is not None:
        old = _alert(message.before, message, starts, format_time(now))
        if old["labels"] != alerts[0]["labels"]:
            alerts.insert(0, old)
    target = url.rstrip("/")
    if not target.endswith("/api/v2/alerts"):
        target += "/api/v2/alerts"
    return _post(target, alerts)


def _alert(
    payload: Payload, message: AlertMessage, starts: str, ends: str
) -> dict[str, Any]:
    subject = payload.get("subject") or {"kind": "service", "id": "*"}
    labels = {
        "alertname": "TidegateDigest" if payload["type"] == DIGEST else "Tidegate",
        "incident": dedup_key(message),
        "tenant": payload["tenant"],
        "class": payload.get("class") or DIGEST,
        "severity": payload["severity"],
    }
    if payload["type"].startswith(("client.", "gateway.")):
        labels["alertname"] = "TidegateClient"
        if payload["type"].startswith("gateway."):
            labels["alertname"] = "TidegateGateway"
        # The end must have the same labels as the start.
        del labels["severity"], labels["class"]
    annotations = {
        "summary": title(payload),
        "description": "\n".join(lines(payload)),
        "subject": f"{subject['kind']} {subject['id']}",
    }
    return {
        "labels": labels,
        "annotations": annotations,
        "startsAt": starts,
        "endsAt": ends,
    }


def email(message: AlertMessage) -> tuple[str, str]:
    """Subject and text of an e-mail."""
    payload = message.payload
    text = "\n".join([title(payload), "", *lines(payload), ""])
    pretty = msgspec.json.format(msgspec.json.encode(payload), indent=2).decode()
    subject = f"[{payload['severity']}] {title(payload)}"
    return " ".join(subject.split())[:200], f"{text}\n{pretty}\n"


def _post(url: str, content: Any, headers: dict[str, str] | None = None) -> Post:
    return Post(url, msgspec.json.encode(content), headers or {})
