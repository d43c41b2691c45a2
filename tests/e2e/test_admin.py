"""The admin API of a running gateway."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.engines import engine_binaries, running_engine
from tests.gateway_process import call, running_gateway, until

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
# The documented core metrics with exactly their labels.
DOCUMENTED = {
    "requests_total": {"tenant", "endpoint", "status", "action"},
    "tokens_total": {"tenant", "model", "kind"},
    "usd_total": set(),
    "request_duration_seconds": {"le"},
    "ttfb_seconds": {"le"},
    "overhead_seconds": {"le"},
    "check_seconds": {"le"},
    "score_seconds": {"le"},
    "store_seconds": {"le"},
    "store_up": set(),
    "incidents_total": {"class", "severity"},
    "blocks_active": set(),
    "alerts_total": {"type", "result"},
    "alerts_pending": set(),
    "inflight": set(),
}
# Has samples only after an incident (see test_detection.py).
RARE = {"incidents_total"}
RECEIVER = (
    '[[alert]]\ntype = "webhook"\nurl = "https://x.invalid"\nsecret = "whsec_bmV3"\n'
)


def config_for(mock, extra=""):
    return f'[[upstream]]\nurl = "{mock.url}"\n[policy.default]\nmode = "enforce"\n{extra}\n'


def chat(gateway):
    url = f"{gateway.url}/v1/chat/completions"
    return call("POST", url, CHAT, key="k")[0]


@pytest.fixture(name="gateway", scope="module")
def _gateway(mock):
    limits = 'limits = [{ per = "client_ip", requests = 50_000, window = "1h" }]'
    with running_gateway(config_for(mock, f"{limits}\n{RECEIVER}")) as gateway:
        yield gateway


def labels_of(text: str) -> dict[str, set[str]]:
    """Label names by metric family of a scrape."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        name = family.name.removeprefix("tidegate_")
        name += "_total" * (family.type == "counter")
        for sample in family.samples:
            found.setdefault(name, set()).update(sample.labels)
    return found


def test_every_documented_metric_is_exposed(gateway):
    """Documented metrics have a help text and exactly the documented labels."""
    before = gateway.metrics().get("tidegate_records_total", 0)
    assert chat(gateway) == 200
    until(lambda: gateway.metrics()["tidegate_records_total"] > before)
    text = call("GET", f"{gateway.admin}/metrics")[2].decode()
    for name in DOCUMENTED:
        assert f"# HELP tidegate_{name} " in text, name
    found = labels_of(text)
    for name, labels in DOCUMENTED.items():
        assert found.get(name, labels if name in RARE else None) == labels, name
    label = 'model="gpt-4o-mini",tenant="default"'
    assert f'tidegate_tokens_total{{kind="prompt",{label}}}' in text


def test_subject_shows_usage_and_limits_and_can_be_reset(gateway):
    """A client's limits show its usage, and a reset sets it to zero."""
    gateway.reset("client_ip", "127.0.0.1")
    assert [chat(gateway) for _ in range(3)] == [200] * 3
    path = "/api/v1/clients/client_ip/127.0.0.1?tenant=default"
    until(lambda: gateway.api("GET", path)["limits"][0]["used"] == 3)
    answer = gateway.api("GET", path)
    assert answer["limits"][0]["limit"] == "client_ip.requests.1h"
    assert answer["limits"][0]["remaining"] == 49_997
    until(lambda: sum(row["tokens"] for row in gateway.api("GET", path)["usage"]))
    gateway.reset("client_ip", "127.0.0.1")
    assert gateway.api("GET", path)["limits"][0]["used"] == 0


@pytest.mark.parametrize(
    ("kind", "subject"),
    [("client_ip", "127.0.0.1"), ("network", "127.0.0.0/8"), ("tenant", "default")],
)
def test_block_takes_effect(gateway, kind, subject):
    """A block refuses with 403, and its removal serves requests again."""
    gateway.reset("client_ip", "127.0.0.1")
    gateway.api("POST", "/api/v1/blocks", {"kind": kind, "id": subject, "ttl": "1m"})
    until(lambda: chat(gateway) == 403)
    assert gateway.metrics()["tidegate_blocks_active"] == 1
    gateway.api("DELETE", f"/api/v1/blocks/{kind}/{quote(subject, safe='')}")
    until(lambda: chat(gateway) == 200)


def test_block_expires(gateway):
    """A block with a ttl ends when it expires."""
    gateway.reset("client_ip", "127.0.0.1")
    block = {"kind": "client_ip", "id": "127.0.0.1", "ttl": "300ms"}

    def refused() -> bool:
        # Added repeatedly: on a loaded machine one could expire before the request.
        gateway.api("POST", "/api/v1/blocks", block)
        return chat(gateway) == 403

    until(refused)
    until(lambda: chat(gateway) == 200)
    until(lambda: gateway.api("GET", "/api/v1/blocks") == {"items": [], "next": None})


def test_policies_show_effective_policies(gateway):
    """Policies list their limits by name and their tenants."""
    (policy,) = gateway.api("GET", "/api/v1/policies")["items"]
    assert policy["limits"][0]["name"] == "client_ip.requests.1h"
    assert "default" in policy["tenants"]


def test_policies_show_the_rows_of_check(gateway):
    """The policies view has the keys and values that ``tidegate check`` prints."""
    (policy,) = gateway.api("GET", "/api/v1/policies")["items"]
    done = gateway.command("check", "--config", "tidegate.toml")
    printed = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stderr
    for row in policy["effective"]:
        assert f"{row['key']} {' '.join(row['value'].split())}" in printed, row


def test_token_is_required(mock, monkeypatch):
    """``/api`` routes require the token; probes do not."""
    monkeypatch.setenv("TIDEGATE_ADMIN__TOKEN", "t0k")
    with running_gateway(config_for(mock)) as gateway:
        path = f"{gateway.admin}/api/v1/status"
        assert call("GET", path)[0] == 401
        assert call("GET", path, key="t0k")[0] == 200
        assert call("GET", f"{gateway.admin}/readyz")[0] == 200
        listed = gateway.command(
            "blocks", "list", "--admin", gateway.admin, "--token", "t0k"
        )
        assert listed.returncode == 0, listed.stderr


@pytest.mark.skipif(not engine_binaries(), reason="no store engine")
def test_block_reaches_every_machine(mock):
    """A block made on one gateway is enforced by all gateways of the store."""
    binary = next(iter(engine_binaries().values()))
    with (
        running_engine(binary) as engine,
        running_gateway(config_for(mock), store=engine.url) as one,
        running_gateway(config_for(mock), store=engine.url) as two,
    ):
        until(lambda: one.status()["blocks"]["synced"])
        until(lambda: two.status()["blocks"]["synced"])
        assert chat(two) == 200
        one.api("POST", "/api/v1/blocks", {"kind": "client_ip", "id": "127.0.0.1"})
        until(lambda: chat(two) == 403)
        two.children("control")[0].kill()
        assert chat(two) == 403, "workers keep their block list without control"
        until(lambda: two.children("control"))
        body = json.loads(call("GET", f"{one.admin}/api/v1/blocks")[2])
        assert [item["id"] for item in body["items"]] == ["127.0.0.1"]
