"""Templates of floods, which are refused to newcomers at their first prompt."""

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
    """A detector after two hours of ordinary clients and a flood of 200 sources in 10
    s.
    """
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


def test_a_blocked_template_has_its_class_and_reason(engine):
    """A blocked template has its fingerprint, start, end, score and reason."""
    (flood,) = blocked_templates(engine, engine.clock.now)
    assert (flood.tenant, flood.print, flood.cls) == ("acme", PRINT, "ddos")
    assert flood.born == T + 7230
    assert flood.until > engine.clock.now + 500
    assert flood.score >= 5.0
    assert "similar prompts" in flood.reason


def test_a_template_block_ends_after_the_flood(engine):
    """A template is blocked for ten minutes after its last prompt."""
    assert not list(blocked_templates(engine, engine.clock.now + 700))
    assert not list(blocked_templates(Engine(), T))


def test_members_are_refused_at_their_first_prompt(engine):
    """Newcomers are refused the template at their first prompt; established clients,
    other prompts and other tenants are not.
    """
    assert refuses(engine, "acme", BOT, PRINT)
    assert refuses(engine, "acme", REGULAR | {"client_ip": "198.18.9.9"}, PRINT)
    assert not refuses(engine, "acme", REGULAR, PRINT)
    assert not refuses(engine, "acme", BOT, PRINT ^ 0xFFFF_0000)
    assert not refuses(engine, "beta", BOT, PRINT)


def test_established_clients_are_listed(engine):
    """Clients seen before the flood are established; members of the flood are not."""
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
def test_templates_are_blocked_only_where_the_flood_is(settings):
    """In observe mode, for an allowed tenant or with a ladder without block no template
    is blocked.
    """
    engine = attacked(**settings)
    assert not list(blocked_templates(engine, engine.clock.now))
    assert not refuses(engine, "acme", BOT, PRINT)


def test_the_template_of_an_unsure_flood_is_not_blocked(engine):
    """The template of an unsure flood, as in a rush of newcomers, is not blocked."""
    template, _ = engine.tenants["acme"].templates.find(PRINT)
    template.unsure = True
    assert not list(blocked_templates(engine, engine.clock.now))
    assert not refuses(engine, "acme", BOT, PRINT)


def test_another_tenant_may_use_the_template(engine):
    """Another tenant with the same template is not blocked."""
    send(engine, engine.clock.now, "10.9.9.9", "anonymous", PRINT, "beta")
    assert [flood.tenant for flood in blocked_templates(engine, engine.clock.now)] == [
        "acme"
    ]
    assert not refuses(engine, "beta", BOT, PRINT)
