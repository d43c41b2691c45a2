"""What each kind of receiver is sent."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from standardwebhooks.webhooks import Webhook

from gateway.alerts import formats
from gateway.alerts.model import AlertMessage
from gateway.alerts.receivers import Receiver, build_post
from gateway.config.structs import AlertTable
from gateway.control.alerting import sample

NOW = 1_767_600_000.0
TYPES = {field.name: field.type for field in msgspec.structs.fields(AlertTable)}
KINDS = [kind for kind in get_args(TYPES["type"]) if kind != "email"]


def message(kind="incident.opened", before=None, **changes) -> AlertMessage:
    payload = sample("x", NOW)[0] | {"type": kind} | changes
    return AlertMessage("msg_1", payload["id"], payload, NOW, before)


def body(post) -> object:
    return msgspec.json.decode(post.body)


def test_a_webhook_is_signed_with_every_secret():
    """A webhook is signed with every secret, so that either verifies while one is
    replaced.
    """
    import time  # noqa: PLC0415

    secrets = ("whsec_bmV3", "whsec_b2xk")
    post = formats.webhook("https://x", secrets, message(), time.time())
    for secret in secrets:
        assert Webhook(secret).verify(post.body, post.headers)["type"]
    assert post.headers["webhook-id"] == "msg_1"


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("incident.opened", "trigger"),
        ("incident.acknowledged", "acknowledge"),
        ("incident.resolved", "resolve"),
    ],
)
def test_pagers_follow_an_incident_by_one_key(kind, action):
    """Trigger, acknowledge, resolve; Opsgenie by alias."""
    said = message(kind)
    event = body(formats.pagerduty("https://p", "key", said))
    assert (event["event_action"], event["dedup_key"]) == (action, said.payload["id"])
    post = formats.opsgenie("https://o/v2/alerts", "key", said)
    ends = {"trigger": "/v2/alerts", "acknowledge": "/acknowledge", "resolve": "/close"}
    assert post.url.partition("?")[0].endswith(ends[action])
    assert post.headers == {"Authorization": "GenieKey key"}


def test_alertmanager_ends_the_old_alert_when_labels_change():
    """A rise in severity is another alert there; its resolution ends the last one."""
    first = message()
    worse = message("incident.updated", first.payload, severity="info")
    old, new = body(formats.alertmanager("http://a", worse, NOW))
    assert (old["labels"]["severity"], new["labels"]["severity"]) == (
        "critical",
        "info",
    )
    assert old["endsAt"] < new["endsAt"]
    over = message("incident.resolved", worse.payload, severity="info")
    (end,) = body(formats.alertmanager("http://a", over, NOW))
    assert (end["labels"], end["endsAt"]) == (new["labels"], over.payload["ts"])


def test_text_of_a_client_is_no_markup():
    """Text of a client is escaped: it cannot mention, link or add mail headers."""
    said = message(subject={"kind": "user", "id": "<!channel> [x](http://e)"})
    assert b"<!channel>" not in formats.slack("https://s", said).body
    assert rb"\\[x\\]" in formats.teams("https://t", said).body
    said = message(subject={"kind": "user", "id": "\\[x](http://e) `a` <b>"})
    card = formats.teams("https://t", said).body
    # JSON doubles each backslash: the client's is escaped, and so is the bracket.
    assert rb"\\\\\\[x\\](http://e) \\`a\\` \\<b>" in card
    subject, _ = formats.email(message(subject={"kind": "user", "id": "a\r\nBcc: x"}))
    assert "\n" not in subject


def test_slack_makes_no_links_of_names():
    """A bare address in a user's name stays text, and is not fetched for a preview."""
    said = message(subject={"kind": "user", "id": "http://evil.example"})
    post = body(formats.slack("https://s", said))
    texts = [block.get("text") or block["elements"][0] for block in post["blocks"]]
    assert all(text["verbatim"] for text in texts)
    assert (post["unfurl_links"], post["unfurl_media"]) == (False, False)


def test_what_holds_secrets_shows_none():
    """Receivers and requests end up in tracebacks and debuggers."""
    receiver = Receiver("r", "opsgenie", "https://x/token", ("a secret",))
    post = build_post(receiver, message(), NOW)
    for shown in (repr(receiver), repr(post)):
        assert "secret" not in shown
        assert "token" not in shown


def test_every_kind_has_its_own_format():
    """No two types of receivers get the same request; webhooks are the fallback."""
    posts = [build_post(Receiver("r", kind, "x", ()), message(), NOW) for kind in KINDS]
    assert len({post.body for post in posts}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_formats_every_type(kind):
    """Each kind of receiver formats messages of clients, gateways and digests."""
    receiver = Receiver("r", kind, "https://x", ("whsec_bmV3",))
    item = {"type": "incident.opened", "id": "inc_1"}
    for name in ("client.blocked", "gateway.degraded", "gateway.recovered", "digest"):
        said = message(name, count=1, items=[item], ids=["inc_1"])
        assert msgspec.json.decode(build_post(receiver, said, NOW).body)
