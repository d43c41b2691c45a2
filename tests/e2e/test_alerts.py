"""End-to-end delivery of alerts to HTTP receivers, with faults on the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
from redis.asyncio import Redis as AsyncRedis
from standardwebhooks.webhooks import Webhook

from gateway.alerts.model import report_of
from gateway.alerts.redis_outbox import RedisOutbox
from gateway.detect.model import EvidenceWindow, Output, Ref, format_time
from tests.engines import engine_binaries, running_engine
from tests.gateway_process import Gateway, call, running_gateway, until

SECRETS = ("whsec_bmV3ZXIga2V5IG9mIHRoZSBob29r", "whsec_b2xkZXIga2V5IG9mIHRoZSBob29r")
ENGINES = engine_binaries()
# Store timeout long enough that a loaded machine does not exceed it.
SURE = 'timeout = "1s"'


class Hook:
    """A webhook receiver that answers ``status`` and keeps every request.

    With ``delay_s`` it answers after that delay; such requests are kept with status 0,
    because the gateway has given up before the answer.
    """

    def __init__(self, port: int = 0) -> None:
        self.status = 200
        self.delay_s = 0.0
        self._stopped = threading.Event()
        self.headers: dict[str, str] = {}
        self.seen: list[tuple[dict[str, str], bytes, int]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                fields = {name.lower(): value for name, value in self.headers.items()}
                delay_s = hook.delay_s
                hook.seen.append((fields, body, 0 if delay_s else hook.status))
                if delay_s and hook._stopped.wait(delay_s):
                    return
                self.send_response(hook.status)
                for name, value in hook.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_args) -> None:
                """Write nothing to standard error."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def got(self) -> list[dict]:
        """Payloads of the accepted requests."""
        return [json.loads(body) for _, body, status in self.seen if status == 200]

    def kinds(self) -> list[str]:
        return [one["type"] for one in self.got()]

    def stop(self) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def running_hook() -> Iterator[Hook]:
    hook = Hook()
    try:
        yield hook
    finally:
        hook.stop()


def config(hook: Hook, more: str = "") -> str:
    return (
        '[[upstream]]\nurl = "http://127.0.0.1:9"\n'
        f'[[alert]]\ntype = "webhook"\nname = "hook"\nurl = "{hook.url}"\n'
        f"secret = {json.dumps(SECRETS)}\nallow_private = true\n"
        f"max_alerts_per_minute = 5000\n{more}\n"
    )


def said(n=0, kind="incident.opened", **changes) -> Output:
    fields = {
        "type": kind, "id": f"inc_{n:026d}", "ts": format_time(1_767_600_000.0),
        "severity": "warning", "cls": "cost_spike", "score": 4.5,
        "subject": Ref("user", f"key_{n}"), "tenant": "default", "action": "tag",
        "until": None, "observed": {}, "expected": {}, "reasons": ("It costs.",),
        "window": EvidenceWindow(format_time(1_767_600_000.0), format_time(1_767_600_000.0)),
    }  # fmt: skip
    return Output(**(fields | changes))


def report(url: str, *outputs: Output, gateway: str = "test") -> None:
    """Report outputs to the store as the detector of a gateway does."""

    async def put() -> None:
        async with AsyncRedis.from_url(url) as client:
            outbox = RedisOutbox(client, "tidegate:")
            for output in outputs:
                await outbox.report(report_of(output, gateway), time.time())

    asyncio.run(put())


def verify(hook: Hook) -> None:
    """Check each signature with the new and with the old secret."""
    for fields, body, _ in hook.seen:
        for secret in SECRETS:
            Webhook(secret).verify(body, fields)


def kill_everything(gateway: Gateway) -> None:
    """Kill the gateway's processes with SIGKILL; children are listed before."""
    parent = psutil.Process(gateway.pid)
    family = [parent, *parent.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    gateway.wait()
    psutil.wait_procs(family, timeout=60)


@pytest.fixture(name="engine")
def _engine():
    if not ENGINES:
        pytest.skip("there is no engine on this machine")
    with running_engine(next(iter(ENGINES.values()))) as engine:
        yield engine


def test_a_sample_is_sent_signed_and_refused_targets_say_why():
    """A test alert is sent as a signed opening and resolution, and a private address
    without ``allow_private`` is answered with the reason.
    """
    with running_hook() as hook:
        extra = f'[[alert]]\ntype = "slack"\nurl = "{hook.url}"'
        with running_gateway(config(hook, extra)) as gateway:
            until(lambda: len(gateway.api("GET", "/api/v1/alerts")["targets"]) == 2)
            gateway.api("POST", "/api/v1/alerts/targets/hook/test")
            assert hook.kinds() == ["incident.opened", "incident.resolved"]
            verify(hook)
            path = f"{gateway.admin}/api/v1/alerts/targets/slack/test"
            status, _, body = call("POST", path, {})
            assert (status, b"is private" in body) == (502, True)
            assert len(hook.seen) == 2


def test_nothing_is_lost_while_the_receiver_is_down_and_everything_is_killed(engine):
    """Every alert is delivered in order per incident, signed and under its first id,
    although the receiver fails and the gateway is killed twice.
    """
    count = 40
    with running_hook() as hook:
        hook.status = 500
        # More retries than are needed until the receiver accepts.
        retries = f"retries = {json.dumps(['0.2s'] * 2 + ['1s'] * 60)}"
        with running_gateway(config(hook, retries), store=engine.url) as gateway:
            opened = [said(n) for n in range(count)]
            report(engine.url, *opened)
            until(lambda: len(hook.seen) >= 2)
            kill_everything(gateway)
            report(engine.url, *(said(n, "incident.resolved") for n in range(count)))
            gateway.start()
            hook.status = 302
            until(lambda: hook.seen[-1][2] == 302)
            kill_everything(gateway)
            hook.status = 200
            gateway.start()
            until(lambda: len(set(ids(hook, 200))) == 2 * count)
        verify(hook)
        order: dict[str, list[str]] = {}
        for payload in hook.got():
            kinds = order.setdefault(payload["id"], [])
            if payload["type"] not in kinds:
                kinds.append(payload["type"])
        assert len(order) == count
        assert set(map(tuple, order.values())) == {
            ("incident.opened", "incident.resolved")
        }
        assert set(ids(hook, 500)) | set(ids(hook, 302)) <= set(ids(hook, 200))


def ids(hook: Hook, status: int) -> list[str]:
    return [fields["webhook-id"] for fields, _, answer in hook.seen if answer == status]


def test_a_receiver_that_answers_410_is_disabled_until_a_resend(engine):
    """A 410 disables a receiver: its pending alerts become dead letters, which ``alerts
    resend`` delivers.
    """
    with running_hook() as hook:
        hook.status = 410
        with running_gateway(config(hook), store=engine.url) as gateway:
            report(engine.url, said(1), said(2))
            until(lambda: len(dead(gateway)) == 2)
            assert len(hook.seen) == 1
            hook.status = 200
            again = gateway.command(
                "alerts", "resend", "hook", "--admin", gateway.admin
            )
            assert again.returncode == 0, again
            until(lambda: len(hook.got()) == 2)
            until(lambda: not dead(gateway))
            name = 'tidegate_alerts_total{result="sent",type="webhook"}'
            until(lambda: gateway.metrics().get(name) == 2)


def dead(gateway: Gateway) -> list[dict]:
    return gateway.api("GET", "/api/v1/alerts?state=dead")["items"]


def test_one_attack_over_three_gateways_is_one_incident_at_the_receiver(engine):
    """One attack that three gateways report under different ids reaches the receiver as
    one incident, and is acknowledged through any gateway.
    """
    with running_hook() as hook, contextlib.ExitStack() as stack:
        gateways = [
            stack.enter_context(running_gateway(config(hook), store=engine.url))
            for _ in range(3)
        ]
        for n in range(3):
            report(engine.url, said(n, subject=Ref("user", "key_x")), gateway=f"g{n}")
        until(lambda: hook.kinds() == ["incident.opened"])
        for gateway in gateways:
            until(lambda gateway=gateway: _reported_by(gateway) == [("open", 3)])
        id_ = hook.got()[0]["id"]
        shown = gateways[0].command("incidents", "list", "--admin", gateways[0].admin)
        assert (shown.returncode, id_ in shown.stdout) == (0, True), shown
        path = f"/api/v1/incidents/{id_}/acknowledge"
        assert gateways[1].api("POST", path, {})["acknowledged"]["by"]
        for n in range(3):
            report(engine.url, said(n, "incident.resolved"), gateway=f"g{n}")
        until(lambda: hook.kinds() == ["incident.opened", "incident.resolved"])
        assert {one["id"] for one in hook.got()} == {id_}


def _reported_by(gateway: Gateway) -> list[tuple[str, int]]:
    """State of each incident, and the number of gateways that reported it."""
    items = gateway.api("GET", "/api/v1/incidents")["items"]
    return [(one["state"], len(one["gateways"])) for one in items]


def test_a_silenced_incident_is_sent_when_the_silence_ends(engine):
    """An incident that is still open when its silence is removed is sent then."""
    with (
        running_hook() as hook,
        running_gateway(config(hook), store=engine.url) as gateway,
    ):
        silence = gateway.api("POST", "/api/v1/silences", {"tenant": "default"})
        report(engine.url, said(1))
        until(lambda: gateway.metrics().get(
            'tidegate_alerts_total{result="silenced",type="webhook"}'))  # fmt: skip
        assert hook.seen == []
        gateway.api("DELETE", f"/api/v1/silences/{silence['id']}")
        until(lambda: hook.kinds() == ["incident.opened"])


def test_weekly_silences_are_managed_by_command_and_survive_a_restart():
    """A weekly silence added by command survives a restart, is listed and can be
    removed; an unknown time zone is exit 2.
    """
    with running_hook() as hook, running_gateway(config(hook)) as gateway:
        there = ("--admin", gateway.admin)
        weekly = ("--every", "sun", "--at", "02:00-04:00", "--zone", "Europe/Berlin")
        made = gateway.command(
            "silences", "add", *weekly, "--reason", "backups", *there
        )
        assert made.returncode == 0, made
        wrong = gateway.command("silences", "add", *weekly[:-1], "Nowhere/Land", *there)
        assert (wrong.returncode, "time zone" in wrong.stderr) == (2, True), wrong
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        gateway.start()
        (one,) = until(lambda: gateway.api("GET", "/api/v1/silences")["items"])
        assert one["repeat"]["zone"] == "Europe/Berlin"
        shown = gateway.command("silences", "list", "--admin", gateway.admin)
        assert "sun 02:00-04:00 Europe/Berlin" in shown.stdout
        gone = gateway.command(
            "silences", "remove", one["id"], "--admin", gateway.admin
        )
        assert gone.returncode == 0, gone
        assert gateway.api("GET", "/api/v1/silences")["items"] == []


@pytest.mark.slow
def test_a_receiver_that_times_out_is_retried_and_delays_no_other(engine):
    """An attempt without an answer fails after 15 s and is retried under the same id,
    while another receiver gets its alerts without delay.
    """
    with running_hook() as slow, running_hook() as quick:
        slow.delay_s = 100.0
        more = f'retries = ["1s", "1s", "1s"]\n{beside(quick)}'
        with running_gateway(config(slow, more), store=engine.url) as gateway:
            report(engine.url, said(1), said(2))
            until(lambda: len(quick.got()) == 2)
            until(lambda: len(slow.seen) == 1)
            began, slow.delay_s = time.monotonic(), 0.0
            failed = 'tidegate_alerts_total{result="failed",type="webhook"}'
            until(lambda: gateway.metrics().get(failed) == 1)
            assert time.monotonic() - began > 5.0
            until(lambda: len(slow.got()) == 2)
        first = slow.seen[0][0]["webhook-id"]
        assert ids(slow, 0) == [first]
        assert sorted(ids(slow, 200)) == sorted(set(ids(slow, 200)) | {first})
        verify(slow)


def beside(hook: Hook) -> str:
    return (
        f'[[alert]]\ntype = "webhook"\nname = "beside"\nurl = "{hook.url}"\n'
        f"secret = {json.dumps(SECRETS)}\nallow_private = true\n"
    )


def target(gateway: Gateway, name: str = "hook") -> dict:
    """A receiver as the admin API lists it."""
    found = gateway.api("GET", "/api/v1/alerts")["targets"]
    return next((one for one in found if one["name"] == name), {})


@pytest.mark.slow
def test_another_gateway_takes_over_what_a_killed_one_had_not_delivered(engine):
    """Another gateway delivers the pending alerts of a killed one within 90 s, in order
    and under the same ids.
    """
    count = 20
    with running_hook() as hook:
        hook.status = 500
        text = config(hook, 'retries = ["1s", "2s", "4s", "8s", "8s", "8s", "8s"]')
        with (
            contextlib.closing(Killed(text, engine.url)) as first,
            running_gateway(text, store=engine.url) as second,
        ):
            report(engine.url, *(said(n) for n in range(count)))
            until(lambda: target(first.gateway).get("delivers_here"))
            until(lambda: len(hook.seen) >= 2)
            assert not target(second).get("delivers_here")
            kill_everything(first.gateway)
            before = len(hook.seen)
            report(engine.url, *(said(n, "incident.resolved") for n in range(count)))
            hook.status = 200
            until(lambda: len(hook.seen) > before, 90)
            until(lambda: len(set(ids(hook, 200))) == 2 * count)
            until(lambda: target(second)["delivers_here"])
        kinds: dict[str, list[str]] = {}
        for one in hook.got():
            kinds.setdefault(one["id"], []).append(one["type"])
        both = ["incident.opened", "incident.resolved"]
        assert list(kinds.values()) == [both] * count
        assert set(ids(hook, 500)) <= set(ids(hook, 200))
        verify(hook)


class Killed:
    """A gateway that is killed during the test; its exit status is not checked."""

    def __init__(self, text: str, store: str) -> None:
        self.gateway = Gateway(text, store=store).start()

    def close(self) -> None:
        self.gateway.stop(check=False)


@pytest.mark.parametrize("way", ["killed", "frozen"])
def test_a_store_outage_is_reported_while_the_store_is_down(engine, way):
    """A store outage is reported once, signed, while the store is down; its end is
    reported when the store is back.
    """
    down, up = {
        "killed": (engine.kill, engine.start),
        "frozen": (engine.freeze, engine.thaw),
    }[way]
    limit = '[{ per = "client_ip", requests = 1000, window = "1h" }]'
    more = f"[policy.default]\nlimits = {limit}"
    with (
        running_hook() as hook,
        running_gateway(
            config(hook, more), store=engine.url, store_keys=SURE
        ) as gateway,
    ):
        until(lambda: target(gateway).get("delivers_here"))
        down()
        # A frozen store is detected only by a call that waits for its answer.
        asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": "?"}]}
        call("POST", f"{gateway.url}/v1/chat/completions", asked)
        until(lambda: hook.kinds() == ["gateway.degraded"])
        verify(hook)
        up()
        until(lambda: "gateway.recovered" in hook.kinds())
        until(lambda: gateway.api("GET", "/api/v1/alerts")["pending"] == 0)
        assert hook.kinds() == ["gateway.degraded", "gateway.recovered"]
        verify(hook)

        def listed() -> list[str]:
            items = gateway.api("GET", "/api/v1/alerts?state=sent")["items"]
            return sorted(one["id"] for one in items)

        until(lambda: listed() == sorted(ids(hook, 200)))


def test_an_outage_alert_that_failed_is_retried_from_the_store(engine):
    """An outage alert that the receiver refused is retried from the store under the
    same id.
    """
    with (
        running_hook() as hook,
        running_gateway(
            config(hook, f"retries = {json.dumps(['1s'] * 60)}"),
            store=engine.url,
            store_keys=SURE,
        ) as gateway,
    ):
        until(lambda: target(gateway).get("delivers_here"))
        hook.status = 500
        engine.kill()
        until(lambda: hook.seen)
        engine.start()
        hook.status = 200
        until(lambda: "gateway.recovered" in hook.kinds())
        degraded = {
            fields["webhook-id"]
            for fields, body, _ in hook.seen
            if json.loads(body)["type"] == "gateway.degraded"
        }
        assert len(degraded) == 1
        assert hook.kinds() == ["gateway.degraded", "gateway.recovered"]
        verify(hook)


def test_the_end_of_an_outage_is_reported_after_control_was_killed(engine):
    """When control is killed during an outage, its successor reports the end of the
    outage once, and the alert keeps its id.
    """
    with (
        running_hook() as hook,
        running_gateway(config(hook), store=engine.url) as gateway,
    ):
        until(lambda: target(gateway).get("delivers_here"), 20)
        engine.kill()
        until(lambda: hook.kinds() == ["gateway.degraded"], 30)
        (control,) = gateway.children("control")
        control.kill()
        until(lambda: len(hook.seen) > 1, 60)
        engine.start()
        until(lambda: "gateway.recovered" in hook.kinds(), 60)
        until(lambda: gateway.api("GET", "/api/v1/alerts")["pending"] == 0, 30)
        told = [
            (json.loads(body)["type"], fields["webhook-id"])
            for fields, body, _ in hook.seen
        ]
        assert [kind for kind, _ in told].count("gateway.recovered") == 1
        assert len(set(told)) == 2
        verify(hook)


def test_a_refused_configuration_and_its_correction_are_reported(engine):
    """A refused configuration is reported without its contents, and its correction
    resolves the alert.
    """
    with (
        running_hook() as hook,
        running_gateway(config(hook), store=engine.url) as gateway,
    ):
        good = gateway.config_file.read_text()
        bad = f'{good}[{SECRETS[0]}]\nx = "{SECRETS[1]}"\n'
        gateway.config_file.write_text(bad)
        assert call("POST", f"{gateway.admin}/api/v1/reload")[0] == 422
        until(lambda: hook.kinds() == ["gateway.degraded"], 30)
        gateway.config_file.write_text(good)
        until(lambda: hook.kinds() == ["gateway.degraded", "gateway.recovered"], 30)
        begun, over = hook.got()
        assert begun["id"] == over["id"]
        assert "configuration" in begun["reasons"][0]
        assert not any(
            one.encode() in body for _, body, _ in hook.seen for one in SECRETS
        )
