"""Three gateways with their own detectors on one store report one attack once."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator

import pytest
from standardwebhooks.webhooks import Webhook

from tests.e2e.test_alerts import SECRETS, Hook, running_hook
from tests.e2e.test_detection import Client, ordinary_clients
from tests.engines import engine_binaries, running_engine
from tests.gateway_process import PATIENT, Gateway, MockLLM, running_gateway, until
from tests.words import WORDS

pytestmark = [
    pytest.mark.skipif(not engine_binaries(), reason="no store engine here"),
    pytest.mark.slow,
    pytest.mark.timeout(480),
]
GATEWAYS = 3
# Longest time until all three detectors report the attack; no request is refused.
FOUND_S = 200.0
# Longer than a report of another gateway takes to be delivered.
QUIET_S = 5.0


def config(mock: MockLLM, hook: Hook) -> str:
    """A configuration in observe mode, so that each gateway keeps its share of the
    attack.
    """
    return (
        f'[[upstream]]\nname = "mock"\nurl = "{mock.url}"\n'
        '[policy.default]\nmode = "observe"\n'
        f'[[alert]]\ntype = "webhook"\nname = "hook"\nurl = "{hook.url}"\n'
        f'secret = "{SECRETS[0]}"\nallow_private = true\n'
        'min_severity = "info"\nmax_alerts_per_minute = 1000\n'
    )


@pytest.fixture(name="hook")
def _hook() -> Iterator[Hook]:
    with running_hook() as hook:
        yield hook


@pytest.fixture(name="fleet")
def _fleet(mock: MockLLM, hook: Hook) -> Iterator[list[Gateway]]:
    """Three gateways that have seen their ordinary clients."""
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(
            running_engine(next(iter(engine_binaries().values())))
        )
        gateways = [
            stack.enter_context(
                running_gateway(
                    config(mock, hook), store=engine.url, store_keys=PATIENT
                )
            )
            for _ in range(GATEWAYS)
        ]
        for gateway in gateways:
            assert ordinary_clients(gateway) == {200}
        yield gateways


def enumerate_template(fleet: list[Gateway], addresses: list[str]) -> Iterator[None]:
    """Send variations of a template from each address over all gateways, one round a
    step.
    """
    chance = random.Random(11)
    template = " ".join(chance.choices(WORDS, k=18))
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(
                contextlib.closing(Client(gateway, address, f"sk-thief-{address}"))
            )
            for address in addresses
            for gateway in fleet
        ]
        for count in range(1_000_000):
            for client in clients:
                client.ask(f"{template} {chance.choice(WORDS)} {count}")
            yield


def incidents(gateway: Gateway) -> list[dict]:
    """All incidents of the admin API."""
    return gateway.api("GET", "/api/v1/incidents?limit=1000")["items"]


def go_on(steps: Iterator[None], done, wait_s: float) -> bool:
    """Continue the attack until ``done()`` or for ``wait_s`` seconds; whether it was
    done.
    """
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        next(steps)
        if done():
            return True
    return False


@pytest.mark.parametrize(
    "addresses",
    [["127.66.0.1"], [f"127.67.0.{n + 1}" for n in range(5)]],
    ids=["one", "many"],
)
def test_one_attack_seen_by_three_gateways_is_one_incident(fleet, hook, addresses):
    """An attack that three detectors report is one incident, opened once at the
    receiver and resolved once by an operator.
    """
    steps = enumerate_template(fleet, addresses)

    def seen_by_all() -> bool:
        found = incidents(fleet[0])
        return any(len(one.get("gateways", ())) == GATEWAYS for one in found)

    with contextlib.closing(steps):
        assert go_on(steps, seen_by_all, FOUND_S), incidents(fleet[0])
        go_on(steps, lambda: False, QUIET_S)
        (one,) = incidents(fleet[0])
        until(lambda: hook.kinds().count("incident.opened") == 1)
        assert hook.got()[0]["id"] == one["id"]
        path = f"/api/v1/incidents/{one['id']}/resolve"
        fleet[1].api("POST", path, {})
        until(lambda: "incident.resolved" in hook.kinds())
        go_on(steps, lambda: False, QUIET_S)
    told = [kind for kind in hook.kinds() if kind.startswith("incident.")]
    assert told.count("incident.opened") == told.count("incident.resolved") == 1, told
    assert (told[0], told[-1]) == ("incident.opened", "incident.resolved")
    assert {one["id"] for one in hook.got() if "incident" in one["type"]} == {one["id"]}
    for gateway in fleet:
        until(
            lambda gateway=gateway: (
                [known["state"] for known in incidents(gateway)] == ["resolved"]
            )
        )
    for fields, body, _ in hook.seen:
        Webhook(SECRETS[0]).verify(body, fields)
