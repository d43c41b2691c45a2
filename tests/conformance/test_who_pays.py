"""Ways to have another client throttled or blocked: none succeeds."""

from __future__ import annotations

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
