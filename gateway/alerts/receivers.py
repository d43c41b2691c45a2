"""Receivers of alerts, made of the configuration's ``[[alert]]`` tables."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.alerts import formats
from gateway.alerts.formats import Post
from gateway.alerts.mail import MailSender
from gateway.alerts.model import AlertMessage, Payload, is_at_least, short_id
from gateway.alerts.retry import SCHEDULE_S
from gateway.alerts.send import HttpSender, Sender
from gateway.config.resolve import receiver_names
from gateway.config.structs import AlertTable
from gateway.config.values import Secret

# Default event types by receiver type.
DEFAULT_EVENTS = (
    "incident.opened",
    "incident.updated",
    "incident.resolved",
    "gateway.*",
)
_CLIENTS = ("client.blocked", "client.unblocked")
EVENTS: dict[str, tuple[str, ...]] = {
    "webhook": (*DEFAULT_EVENTS, *_CLIENTS),
    "pagerduty": (*DEFAULT_EVENTS, "incident.acknowledged"),
    "opsgenie": (*DEFAULT_EVENTS, "incident.acknowledged"),
}


_DEFAULTS = AlertTable(type="webhook")


class Receiver(msgspec.Struct, frozen=True):
    """A receiver of alerts. ``retries``: seconds between attempts."""

    name: str
    type: str
    url: str
    secrets: tuple[str, ...] = ()
    min_severity: str = _DEFAULTS.min_severity
    allow_private: bool = _DEFAULTS.allow_private
    events: tuple[str, ...] = DEFAULT_EVENTS
    per_minute: int = _DEFAULTS.max_alerts_per_minute
    retries: tuple[float, ...] = SCHEDULE_S
    to: tuple[str, ...] = ()
    sender: str = ""

    def __repr__(self) -> str:
        """Without secrets and URL, which may hold a token."""
        return f"Receiver({self.name} {self.type})"

    @property
    def target(self) -> str:
        """Hash of the address, which changes when alerts go elsewhere."""
        return short_id(f"{self.type}\0{self.url}\0{self.to}")

    def accepts_type(self, kind: str) -> bool:
        """Whether it receives events of this type."""
        group = kind.partition(".")[0] + ".*"
        return kind in self.events or group in self.events

    def accepts(self, payload: Payload) -> bool:
        """Whether it receives this alert, by type and severity."""
        return self.accepts_type(payload["type"]) and is_at_least(
            payload, self.min_severity
        )


def receivers_of(alerts: Sequence[AlertTable]) -> list[Receiver]:
    """One receiver for each table."""
    names = receiver_names(alerts)
    return [_receiver(one, name) for one, name in zip(alerts, names, strict=True)]


def _receiver(alert: AlertTable, name: str) -> Receiver:
    secret = alert.secret
    secrets = (secret,) if isinstance(secret, Secret) else secret
    url = {"pagerduty": formats.PAGERDUTY_URL, "opsgenie": formats.OPSGENIE_URL}
    retries: tuple[float, ...] = SCHEDULE_S
    if alert.retries is not None:
        retries = tuple(float(one) for one in alert.retries)
    return Receiver(
        name=name,
        type=alert.type,
        url=str(alert.url or url.get(alert.type, "")),
        secrets=tuple(one.reveal() for one in secrets),
        min_severity=alert.min_severity,
        allow_private=alert.allow_private,
        events=alert.events or EVENTS.get(alert.type, DEFAULT_EVENTS),
        per_minute=alert.max_alerts_per_minute,
        retries=retries,
        to=alert.to,
        sender=alert.sender or "",
    )


def open_sender(receiver: Receiver) -> Sender:
    """Open the sender for the receiver's type."""
    if receiver.type == "email":
        return MailSender(
            receiver.url,
            receiver.secrets[0] if receiver.secrets else "",
            receiver.sender,
            receiver.to,
            allow_private=receiver.allow_private,
        )

    def build(message: AlertMessage, now: float) -> Post:
        return build_post(receiver, message, now)

    return HttpSender(build, allow_private=receiver.allow_private)


def build_post(receiver: Receiver, message: AlertMessage, now: float) -> Post:
    """The request in the format of the receiver's type."""
    url, secrets = receiver.url, receiver.secrets
    key = secrets[0] if secrets else ""
    match receiver.type:
        case "slack":
            return formats.slack(url, message)
        case "teams":
            return formats.teams(url, message)
        case "pagerduty":
            return formats.pagerduty(url, key, message)
        case "opsgenie":
            return formats.opsgenie(url, key, message)
        case "alertmanager":
            return formats.alertmanager(url, message, now)
        case _:
            return formats.webhook(url, secrets, message, now)
