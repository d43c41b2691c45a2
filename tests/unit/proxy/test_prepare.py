"""The head for the upstream, and the sender that it is cached for."""

from __future__ import annotations

import re

import pytest

from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"
BEHIND = 'proxy_protocol = true\ntrusted_proxies = ["127.0.0.1"]'


def via(source: bytes) -> bytes:
    """The PROXY line of a trusted balancer for a client at ``source``."""
    return b"PROXY TCP4 %b 127.0.0.1 9 9\r\n" % source


async def test_same_head_from_different_peers(upstream):
    """Equal bytes share the parsed head; identity and forwarding are per peer."""
    async with InProcess(upstream, server=BEHIND) as gateway:
        for source in (b"192.0.2.1", b"192.0.2.2", b"192.0.2.1"):
            await gateway.talk(via(source) + request(fields=CLOSE))
        assert [record.client_ip for record in gateway.records] == [
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.1",
        ]
        hops = [
            re.search(rb"X-Forwarded-For: (\S+)", raw)[1] for raw in upstream.requests
        ]
        assert hops == [b"192.0.2.1", b"192.0.2.2", b"192.0.2.1"]
        assert gateway.plane.listener.state.heads.hits == 2


@pytest.mark.parametrize("trusted", [False, True])
async def test_forwarded_fields_count_from_trusted_proxies_only(trusted, upstream):
    """An untrusted peer cannot set the client, the scheme or the host."""
    server = 'trusted_proxies = ["127.0.0.1"]' if trusted else ""
    fields = (
        b"X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: public.test\r\n"
    )
    async with InProcess(upstream, server=server) as gateway:
        await gateway.talk(request(fields=CLOSE + fields))
        (record,) = gateway.records
        assert record.client_ip == ("192.0.2.9" if trusted else "127.0.0.1")
    sent = upstream.requests[0]
    assert b"X-Forwarded-For: 192.0.2.9, 127.0.0.1\r\n" in sent
    assert (b"X-Forwarded-Proto: https\r\n" in sent) is trusted
    assert (b"X-Forwarded-Host: public.test\r\n" in sent) is trusted


async def test_reload_makes_heads_anew(upstream):
    """After a reload a cached head follows the new configuration."""
    async with InProcess(upstream, route='api_key = "old"') as gateway:
        await gateway.talk(request(fields=CLOSE))
        gateway.text = gateway.text.replace('"old"', '"new"')
        gateway.reload()
        await gateway.talk(request(fields=CLOSE))
    keys = [
        re.search(rb"(?i)authorization: (.+)\r\n", raw)[1] for raw in upstream.requests
    ]
    assert keys == [b"Bearer old", b"Bearer new"]


async def test_replaced_credential_goes_nowhere(upstream):
    """The client's key is not sent where the upstream has its own."""
    fields = CLOSE + b"Authorization: Bearer mine\r\nx-api-key: mine\r\n"
    async with InProcess(upstream, route='api_key = "theirs"') as gateway:
        await gateway.talk(request(target=b"/x?a=1&key=mine&b=2", fields=fields))
    assert b"mine" not in upstream.received
    assert upstream.requests[0].startswith(b"GET /x?a=1&b=2 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("given", "kept"),
    [(b"abc-1", True), (b"a b", False), (b"x" * 129, False), (b"\xe9", False)],
)
async def test_request_id(given, kept, upstream):
    """A request id of one ASCII word is kept, any other replaced; the record agrees."""
    async with InProcess(upstream) as gateway:
        fields = CLOSE + b"X-Request-Id: %b\r\n" % given
        answer = await gateway.talk(request(fields=fields))
        sent = re.search(rb"X-Request-Id: (.*)\r\n", upstream.requests[0])[1]
        assert (sent == given) is kept
        assert b"X-Request-Id: %b\r\n" % sent in answer
        assert gateway.records[0].request_id.encode() == sent


async def test_upstreams_request_id_wins(upstream):
    """The answer carries the upstream's request id if it sends one."""
    upstream.default = (
        b"HTTP/1.1 200 OK\r\nx-request-id: req_1\r\nContent-Length: 0\r\n\r\n",
    )
    async with InProcess(upstream) as gateway:
        answer = await gateway.talk(request(b"POST", CHAT, CLOSE, b'{"model":"m"}'))
        assert re.findall(rb"(?i)x-request-id: (.*)\r\n", answer) == [b"req_1"]


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize(
    "path",
    [
        b"/openai/../internal/x",
        b"/openai/%2e%2E/internal/x",
        b"/v1/chat/completions/x/..",
        b"/v1/chat/completions%00",
        b"/v1/chat/completions%20",
    ],
)
async def test_path_that_an_upstream_could_resolve_is_refused(path, mode, upstream):
    """Dot segments and control characters never reach an upstream, in any mode."""
    async with InProcess(upstream, route='api_key = "sk-provider"') as gateway:
        gateway.text = gateway.text.replace('mode = "enforce"', f'mode = "{mode}"')
        gateway.reload()
        answer = await gateway.talk(request(b"POST", path, CLOSE, b'{"model":"m"}'))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert gateway.records[0].status == 400
    assert not upstream.requests
