"""Ways to have another client throttled, blocked or charged: none succeeds."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json

import pytest

from tests.inprocess import (
    CHAT,
    SECRET,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    until,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"
BEHIND = 'proxy_protocol = true\ntrusted_proxies = ["127.0.0.1"]'
LIMIT = 'limits = [{ per = "user", requests = 3, window = "1h" }]\n'
BODY_FIRST = LIMIT + 'user_from = ["body", "credential"]\n'
OFFICE = '[[tenant]]\nname = "office"\ncidrs = ["192.0.2.0/24", "198.51.100.0/24"]\n'
TENANT = (
    '[[tenant]]\nname = "a"\napi_keys = ["sha256:'
    + hashlib.sha256(b"VICTIM").hexdigest()
    + '"]\n'
)
VICTIM = "key_" + hmac.digest(SECRET, b"VICTIM", "sha256").hex()[:16]
KEY = b"Authorization: Bearer VICTIM\r\n"
JUNK = b"Authorization: Bearer junk\r\n"
SIGNED = (
    b"Authorization: AWS4-HMAC-SHA256 Credential=VICTIM/2026/us/x, SignedHeaders=h, "
    b"Signature=0\r\n"
)
PREFLIGHT = b"Origin: http://x.test\r\nAccess-Control-Request-Method: POST\r\n"
OURS = 'api_key = "PROVIDER"'

# policy, route, tenants, attacker's header fields, user in the attacker's body, victim's
# header fields, user in the victim's body
WAYS = {
    "id of a key, no credential": (LIMIT, "", "", b"", VICTIM, KEY, None),
    "id of a key, in a network": (LIMIT, "", OFFICE, b"", VICTIM, KEY, None),
    "id of a key, own key": (BODY_FIRST, "", "", JUNK, VICTIM, KEY, None),
    "id of a tenant's key": (
        *(BODY_FIRST, "", TENANT + OFFICE, b"", VICTIM, KEY, None),
    ),
    "name of another's body, own key": (
        *(BODY_FIRST, "", "", JUNK, "alice", KEY, "alice"),
    ),
    "name of another's body, no key": (
        *(BODY_FIRST, "", "", b"", "alice", b"", "alice"),
    ),
    "full id of another's body": (
        *(BODY_FIRST, "", "", b"", "body:alice@192.0.2.1", b"", "alice"),
    ),
    "anonymous with the gateway's key": (LIMIT, OURS, "", b"", None, b"", None),
    "junk with the gateway's key": (LIMIT, OURS, OFFICE, JUNK, None, b"", None),
    "address as the name": (*(LIMIT, "", "", b"", "anonymous@192.0.2.1", b"", None),),
    "key as the key id of AWS": (LIMIT, "", "", SIGNED, None, KEY, None),
    "tenant's key as the key id of AWS": (
        *(LIMIT, OURS, TENANT + OFFICE, SIGNED, None, KEY, None),
    ),
    "key id of AWS": (LIMIT, "", "", SIGNED, None, SIGNED, None),
    "tenant's key as the key id of AWS, name of another's body": (
        *(BODY_FIRST, "", TENANT, SIGNED, "alice", KEY, "alice"),
    ),
    "addresses in X-Forwarded-For": (
        *(LIMIT, OURS, OFFICE, b"X-Forwarded-For: 192.0.2.1\r\n", None, b"", None),
    ),
    "addresses in Forwarded": (
        *(LIMIT, OURS, OFFICE, b"Forwarded: for=192.0.2.1\r\n", None, b"", None),
    ),
    "preflights": (LIMIT, "", "", PREFLIGHT + JUNK, None, KEY, None),
}


def call(source: bytes, fields: bytes, user: str | None) -> bytes:
    """One call of the client at ``source``."""
    line = b"PROXY TCP4 %b 127.0.0.1 9 9\r\n" % source
    if fields.startswith(PREFLIGHT):
        return line + request(b"OPTIONS", CHAT, CLOSE + fields)
    named = {} if user is None else {"user": user}
    body = json.dumps({"model": "m", "messages": []} | named).encode()
    return line + request(b"POST", CHAT, CLOSE + fields, body)


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_never_pays_for_another(way, upstream):
    """Whatever another client sends, the victim's own limit stays its own."""
    policy, route, more, attack, named, fields, user = WAYS[way]
    async with InProcess(
        upstream, server=BEHIND, route=route, policy=policy, more=more
    ) as gateway:
        for _ in range(6):
            await gateway.talk(call(b"198.51.100.7", attack, named))
        victim = [
            (await gateway.talk(call(b"192.0.2.1", fields, user)))[9:12]
            for _ in range(4)
        ]
    assert victim == [b"200", b"200", b"200", b"429"]


REFUSED = b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n{}"
USAGE = b'{"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(USAGE), USAGE)
SHARED = (
    'per = "tenant", tokens = 10_000, window = "day"',
    'per = "tenant", completion_tokens = 10_000, window = "1h"',
    'per = "model", tokens = 10_000, window = "day"',
    'per = "tenant+model", usd = 0.1, window = "month"',
    'per = "tenant", requests = 9, window = "day"',
    'per = "tenant", concurrent = 4',
)
CAPPED, UNCAPPED = b',"max_tokens":9900', b""
# Members of the attacker's body, whether it leaves before the status, and the status.
ATTACKS = {
    "waits": (CAPPED, False, REFUSED),
    "leaves": (CAPPED, True, REFUSED),
    "leaves without a cap": (UNCAPPED, True, REFUSED),
    "leaves a stream": (b',"stream":true', True, REFUSED),
    "leaves a capped stream": (b',"stream":true' + CAPPED, True, REFUSED),
    "leaves a bad request": (CAPPED, True, REFUSED.replace(b"401", b"400")),
    "is never answered": (CAPPED, True, b""),
}


def stranger(key: bytes, members: bytes, source: bytes = b"198.51.100.7") -> bytes:
    """A call with a key that only the upstream can check."""
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]%b}' % members
    fields = CLOSE + b"Authorization: Bearer " + key + b"\r\n"
    return b"PROXY TCP4 %b 127.0.0.1 9 9\r\n" % source + request(
        b"POST", CHAT, fields, body
    )


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("limit", SHARED)
async def test_invalid_keys_neither_charge_nor_hold_what_others_share(
    limit, attack, upstream
):
    """While they are in flight, a known client passes; afterwards everybody does."""
    members, leaves, answer = ATTACKS[attack]
    victim = stranger(b"VICTIM", b',"max_tokens":20', b"192.0.2.1")
    upstream.default = (ANSWER,)
    async with InProcess(
        upstream, server=BEHIND, policy=f"limits = [{{ {limit} }}]"
    ) as gateway:
        assert (await gateway.talk(victim))[9:12] == b"200"
        clients = []
        for n in range(12):
            upstream.scripts.append((0.3, answer))
            client = await gateway.client()
            client.send(stranger(b"bad%d" % n, members))
            clients.append(client)
            await until(
                lambda n=n: len(upstream.requests) + len(gateway.records) > n + 1
            )
        upstream.scripts.clear()
        if leaves:
            for client in clients:
                client.close()
        assert (await gateway.talk(victim))[9:12] == b"200"
        if not leaves:
            await asyncio.gather(*(client.rest() for client in clients))
        elif answer:
            await until(lambda: len(gateway.records) == 14)
            newcomer = stranger(b"NEW", b',"max_tokens":20', b"192.0.2.2")
            assert (await gateway.talk(newcomer))[9:12] == b"200"
        charged = [r.total_tokens for r in gateway.records if r.status != 200]
        assert not any(charged)
        assert (await gateway.talk(victim))[9:12] == b"200"


@pytest.mark.parametrize("limit", SHARED[:4])
async def test_a_valid_key_that_always_leaves_is_charged(limit, upstream):
    """Whoever rotates keys that the upstream accepts reaches the limit all the same."""
    upstream.default = (0.02, _answer_of(900))
    async with InProcess(
        upstream, server=BEHIND, policy=f"limits = [{{ {limit} }}]"
    ) as gateway:
        for n in range(14):
            seen, client = len(upstream.requests), await gateway.client()
            client.send(stranger(b"good%d" % n, b',"max_tokens":900'))
            await until(
                lambda seen=seen, n=n: (
                    len(upstream.requests) > seen or len(gateway.records) > n
                )
            )
            client.close()
            await until(lambda n=n: len(gateway.records) > n)
        passed = [r.total_tokens for r in gateway.records if r.status == 200]
        assert 9 <= len(passed) <= 12
        assert set(passed) == {905}
        assert gateway.records[-1].status == 429


def _answer_of(tokens: int) -> bytes:
    body = b'{"usage":{"prompt_tokens":5,"completion_tokens":%d,"total_tokens":%d}}'
    body %= tokens, tokens + 5
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
