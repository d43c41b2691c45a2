"""One attack, three gateways with detectors of their own, one store, one receiver."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator

import pytest
from standardwebhooks.webhooks import Webhook

from tests.e2e.test_alerts import SECRETS, Hook, running_hook
from tests.e2e.test_detection import Client, crowd
from tests.engines import engine_binaries, running_engine
from tests.gateway_process import PATIENT, Gateway, MockLLM, running_gateway, until
from tests.words import WORDS

pytestmark = [
    pytest.mark.skipif(not engine_binaries(), reason="no store engine here"),
    pytest.mark.slow,
    pytest.mark.timeout(480),
]
GATEWAYS = 3
# What all three need to say it by themselves, while nobody is refused.
FOUND_S = 200.0
# Long enough for what another gateway says meanwhile to come out.
QUIET_S = 5.0


def config(mock: MockLLM, hook: Hook) -> str:
    """Observed: each gateway goes on seeing its share of the attack."""
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
    """Three gateways that know their ordinary clients."""
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
            assert crowd(gateway) == {200}
        yield gateways


def walk(fleet: list[Gateway], addresses: list[str]) -> Iterator[None]:
    """The addresses walk a template, each over all gateways; a pause is a round."""
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
    """All that it shows."""
    return gateway.api("GET", "/api/v1/incidents?limit=1000")["items"]


def go_on(steps: Iterator[None], done, wait_s: float) -> bool:
    """Attack until it is so, or for so long."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        next(steps)
        if done():
            return True
    return False


@pytest.mark.parametrize(
    "addresses",
    [["127.66.0.1"], [f"127.67.0.{n + 1}" for n in range(5)]],
    ids=["one", "crowd"],
)
def test_one_attack_is_one_incident_whoever_of_three_sees_it(fleet, hook, addresses):
    """Opened once though each detector says it; an operator ends it, once."""
    steps = walk(fleet, addresses)

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
