"""Many users, named in the bodies, share one key, and one of them attacks."""

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
# Longest time until the attacker is blocked, and how long it continues afterwards.
STOPPED_S, AFTER_S = 90.0, 15.0
PEOPLE = 14


class App:
    """An application that sends requests of many users with one key."""

    def __init__(self, gateway: Gateway) -> None:
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", gateway.port, timeout=60
        )
        self._chance = random.Random(7)
        self.template = " ".join(self._chance.choices(WORDS, k=18))

    def ask(self, user: str, client_ip: str, prompt: str) -> int:
        """Send one call of a user; its status."""
        asked = {"role": "user", "content": prompt}
        body = {"model": "gpt-4o", "messages": [asked], "user": user}
        headers = {"Authorization": f"Bearer {KEY}", "X-Forwarded-For": client_ip}
        url = "/v1/chat/completions"
        self._connection.request("POST", url, json.dumps(body), headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status

    def other_users(self) -> set[int]:
        """Send a request of every other user; the statuses."""
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
        """Send one variation of a template as Mallory; the status."""
        word = self._chance.choice(WORDS)
        return self.ask(MALLORY, client_ip, f"{self.template} {word} {count}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextlib.contextmanager
def shared(mock: MockLLM) -> Iterator[tuple[Gateway, App]]:
    """A gateway and its application, whose users have sent two requests each."""
    config = CONFIG.format(url=mock.url, key=key_hash(KEY))
    with (
        running_gateway(config, server=SERVER) as gateway,
        contextlib.closing(App(gateway)) as app,
    ):
        assert app.other_users() | app.other_users() == {200}
        yield gateway, app


def blocked(gateway: Gateway) -> set[tuple[str, str]]:
    """Subjects in the admin API's list of blocks."""
    rows = gateway.api("GET", "/api/v1/blocks")["items"]
    return {(row["kind"], row["id"]) for row in rows}


def test_other_users_of_an_attackers_key_are_served(mock):
    """Only the attacker's user and address are blocked while it continues; the shared
    key is not, and its other users are always served.
    """
    with shared(mock) as (gateway, app):
        end, count, status = time.monotonic() + STOPPED_S, 0, 200
        while status != 403 and time.monotonic() < end:
            status = app.attack(count := count + 1)
        assert status == 403
        end = time.monotonic() + AFTER_S
        while time.monotonic() < end:
            assert {app.attack(count + n) for n in range(150)} == {403}
            assert app.other_users() == {200}
        who = blocked(gateway)
        assert ("client_ip", ATTACKER) in who
        assert who <= {("client_ip", ATTACKER), ("user", MALLORY)}
        refused = {one["user"] for one in gateway.records(outcome="refused")}
        assert MALLORY in refused


@pytest.mark.parametrize("by", ["user", "network"])
def test_refused_users_do_not_mark_a_shared_key_as_stolen(mock, by):
    """A shared key is not classified as stolen when one of its users comes from forty
    networks and is refused by user or by network.
    """
    with shared(mock) as (gateway, app):
        if by == "network":
            gateway.api("POST", "/api/v1/blocks", {"kind": by, "id": "203.0.0.0/8"})
        for count in range(1200):
            app.attack(count, f"203.{count % 40}.113.66")
            if count % 200 == 0:
                assert app.other_users() == {200}
        assert app.other_users() == {200}
        refused = {one["user"] for one in gateway.records(outcome="refused")}
        assert (MALLORY in refused) is (by == "user")
        assert not {id_ for _, id_ in blocked(gateway) if id_.startswith("key_")}
