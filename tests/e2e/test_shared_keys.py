"""One key of many users, whom the bodies name: one of them attacks."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import time
from collections.abc import Iterator

import pytest

from tests.gateway_process import Gateway, MockLLM, key_hash, running_gateway
from tests.words import WORDS

KEY, ATTACKER, MALLORY = "sk-shared", "203.0.113.66", "mallory"
CONFIG = """
[[upstream]]
url = "{url}"
[policy.default]
mode = "enforce"
user_from = ["body", "credential"]
[[tenant]]
name = "app"
api_keys = ["{key}"]
"""
SERVER = 'trusted_proxies = ["127.0.0.0/8"]\n'
# What the attacker may take until it is stopped, and goes on for afterwards.
STOPPED_S, AFTER_S = 90.0, 15.0
PEOPLE = 14


class App:
    """The one client of the gateway: it has the key and says for whom it asks."""

    def __init__(self, gateway: Gateway) -> None:
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", gateway.port, timeout=60
        )
        self._chance = random.Random(7)
        self.template = " ".join(self._chance.choices(WORDS, k=18))

    def ask(self, user: str, client_ip: str, prompt: str) -> int:
        """The status of one call."""
        asked = {"role": "user", "content": prompt}
        body = {"model": "gpt-4o", "messages": [asked], "user": user}
        headers = {"Authorization": f"Bearer {KEY}", "X-Forwarded-For": client_ip}
        url = "/v1/chat/completions"
        self._connection.request("POST", url, json.dumps(body), headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status

    def people(self) -> set[int]:
        """Everybody else asks something; what they were answered."""
        chance = self._chance
        return {
            self.ask(
                f"person-{n}",
                f"198.51.{n}.7",
                " ".join(chance.choices(WORDS, k=chance.randint(8, 40))),
            )
            for n in range(PEOPLE)
        }

    def attack(self, count: int, client_ip: str = ATTACKER) -> int:
        """Mallory walks a template; the status."""
        word = self._chance.choice(WORDS)
        return self.ask(MALLORY, client_ip, f"{self.template} {word} {count}")

    def close(self) -> None:
        """Leave."""
        self._connection.close()


@contextlib.contextmanager
def shared(mock: MockLLM) -> Iterator[tuple[Gateway, App]]:
    """A gateway and its application, which some have used for a while."""
    config = CONFIG.format(url=mock.url, key=key_hash(KEY))
    with (
        running_gateway(config, server=SERVER) as gateway,
        contextlib.closing(App(gateway)) as app,
    ):
        assert app.people() | app.people() == {200}
        yield gateway, app


def blocked(gateway: Gateway) -> set[tuple[str, str]]:
    """Whom the admin API names as blocked."""
    rows = gateway.api("GET", "/api/v1/blocks")["items"]
    return {(row["kind"], row["id"]) for row in rows}


def test_who_shares_a_key_with_an_attacker_is_served(mock):
    """Mallory and that address are stopped, and hammer on against the block; the key
    is nobody, and every other user of it is answered each time.
    """
    with shared(mock) as (gateway, app):
        end, count, status = time.monotonic() + STOPPED_S, 0, 200
        while status != 403 and time.monotonic() < end:
            status = app.attack(count := count + 1)
        assert status == 403
        end = time.monotonic() + AFTER_S
        while time.monotonic() < end:
            assert {app.attack(count + n) for n in range(150)} == {403}
            assert app.people() == {200}
        who = blocked(gateway)
        assert ("client_ip", ATTACKER) in who
        assert who <= {("client_ip", ATTACKER), ("user", MALLORY)}
        refused = {one["user"] for one in gateway.records(outcome="refused")}
        assert any(user.startswith("key_") for user in refused)


@pytest.mark.parametrize("by", ["user", "network"])
def test_a_key_whose_users_are_refused_is_not_in_many_hands(mock, by):
    """Mallory comes from forty networks, and is refused by name or before anybody has
    read a name: the key is not taken for a stolen one.
    """
    with shared(mock) as (gateway, app):
        if by == "network":
            gateway.api("POST", "/api/v1/blocks", {"kind": by, "id": "203.0.0.0/8"})
        for count in range(1200):
            app.attack(count, f"203.{count % 40}.113.66")
            if count % 200 == 0:
                assert app.people() == {200}
        assert app.people() == {200}
        refused = {one["user"] for one in gateway.records(outcome="refused")}
        assert (MALLORY in refused) is (by == "user")
        assert not {id_ for _, id_ in blocked(gateway) if id_.startswith("key_")}
