"""Templates of crowds, refused of newcomers at their first prompt."""

from __future__ import annotations

import random

import pytest

from gateway.core.model import Ladder
from gateway.detect.blocked_templates import (
    blocked_templates,
    established_clients,
    refuses,
)
from gateway.detect.engine import Engine
from gateway.detect.model import DetectSettings, Event
from gateway.limits.gate import pack_client_hashes

T = 1_767_600_000.0
PRINT = 0x0F0F_3C3C_5A5A_9669
BOT = {"client_ip": "198.18.9.9", "user": "key_bot"}
REGULAR = {"client_ip": "10.0.3.7", "user": "key_3"}


def attacked(clients: int = 14, **settings: object) -> Engine:
    """Ordinary clients for two hours, then a crowd of two hundred for ten seconds."""
    engine, chance = Engine(DetectSettings(**settings)), random.Random(1)
    for at in range(0, 7200, 30):
        for n in range(clients):
            send(engine, T + at + n, f"10.0.{n}.7", f"key_{n}", chance.getrandbits(64))
    for n in range(200):
        send(engine, T + 7230 + n / 20, f"198.18.0.{n}", "anonymous", PRINT)
    return engine


def send(
    engine: Engine, ts: float, ip: str, user: str, print_: int, tenant: str = "acme"
) -> None:
    event = Event(
        ts, ip, user, tenant, "m", "chat.completions", 300, 200, fingerprint=print_
    )
    engine.observe(event)


@pytest.fixture(name="engine")
def _engine() -> Engine:
    return attacked()


def test_a_crowds_template_is_told_with_its_reason(engine):
    """Its print, since when it is there, how long it is refused, and why."""
    (flood,) = blocked_templates(engine, engine.clock.now)
    assert (flood.tenant, flood.print, flood.cls) == ("acme", PRINT, "ddos")
    assert flood.born == T + 7230
    assert flood.until > engine.clock.now + 500
    assert flood.score >= 5.0
    assert "alike prompts" in flood.reason


def test_it_is_over_when_the_crowd_is(engine):
    """Ten minutes after its last prompt; where nothing happens there is none."""
    assert not list(blocked_templates(engine, engine.clock.now + 700))
    assert not list(blocked_templates(Engine(), T))


def test_members_are_refused_at_their_first_prompt(engine):
    """Whoever was there before may ask the same, and everybody something else."""
    assert refuses(engine, "acme", BOT, PRINT)
    assert refuses(engine, "acme", REGULAR | {"client_ip": "198.18.9.9"}, PRINT)
    assert not refuses(engine, "acme", REGULAR, PRINT)
    assert not refuses(engine, "acme", BOT, PRINT ^ 0xFFFF_0000)
    assert not refuses(engine, "beta", BOT, PRINT)


def test_who_was_there_before_is_marked(engine):
    """Every client of the first two hours, and nobody of the crowd."""
    tenant = engine.tenants["acme"]
    settled = established_clients(tenant, T + 7230, engine.clock.now)
    before = [("client_ip", f"10.0.{n}.7") for n in range(14)]
    before += [("user", f"key_{n}") for n in range(14)]
    assert sorted(settled[n : n + 4] for n in range(0, len(settled), 4)) == sorted(
        pack_client_hashes([one]) for one in before
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"observe": True},
        {"allow": frozenset({"tenant:acme"})},
        {"class_ladders": {"ddos": Ladder(block=99.0)}},
    ],
)
def test_where_the_crowd_is_not_blocked_its_prompts_are_not(settings):
    """Observed, allowed, a ladder without a block."""
    engine = attacked(**settings)
    assert not list(blocked_templates(engine, engine.clock.now))
    assert not refuses(engine, "acme", BOT, PRINT)


def test_an_unsure_crowd_is_tagged_and_not_refused(engine):
    """It may be part of a tide of newcomers."""
    template, _ = engine.tenants["acme"].templates.find(PRINT)
    template.unsure = True
    assert not list(blocked_templates(engine, engine.clock.now))
    assert not refuses(engine, "acme", BOT, PRINT)


def test_the_tenant_next_door_is_not_flooded(engine):
    """It may ask the same."""
    send(engine, engine.clock.now, "10.9.9.9", "anonymous", PRINT, "beta")
    assert [flood.tenant for flood in blocked_templates(engine, engine.clock.now)] == [
        "acme"
    ]
    assert not refuses(engine, "beta", BOT, PRINT)
