"""The gateway's own answers to pages of origins that the upstream allows."""

from __future__ import annotations

import pytest

from gateway.http.response import AnswerHead
from gateway.proxy.cors import MAX_ORIGIN_BYTES, MAX_ORIGINS, AllowedOrigins
from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PAGE, OTHER = b"https://page.example", b"https://other.example"
LIMITS = 'limits = [{ per = "client_ip", requests = 2, window = "1h" }]'


def answer(
    allowed: bytes | None, credentials: bytes = b"", status: int = 204
) -> AnswerHead:
    """The upstream's answer with these CORS fields."""
    fields = [(b"Access-Control-Allow-Credentials", credentials)]
    if allowed is not None:
        fields.append((b"Access-Control-Allow-Origin", allowed))
    return AnswerHead(status, fields)


@pytest.mark.parametrize(
    ("allowed", "credentials", "expected"),
    [
        (PAGE, b"", (True, True, False)),
        (PAGE, b"true", (True, True, True)),
        (PAGE, b"false", (True, True, False)),
        (b"*", b"", (True, False, False)),
        (b"*", b"true", (True, False, False)),
        (OTHER, b"true", (False, False, False)),
        (b"null", b"", (False, False, False)),
        (None, b"true", (False, False, False)),
    ],
)
@pytest.mark.parametrize("preflight", [True, False])
def test_lines_are_as_the_upstream_allowed(allowed, credentials, expected, preflight):
    """The origin, ``Vary`` and credentials as the upstream allowed them, never more."""
    origins = AllowedOrigins()
    origins.learn(PAGE, answer(allowed, credentials), preflight=preflight)
    lines = origins.lines(PAGE)
    wanted = (
        b"Access-Control-Allow-Origin: %b\r\n" % (allowed or b""),
        b"Vary: Origin\r\n",
        b"Access-Control-Allow-Credentials: true\r\n",
    )
    assert tuple(line in lines for line in wanted) == expected
    assert (b"Access-Control-Expose-Headers: Retry-After" in lines) == expected[0]
    assert bool(lines) == expected[0]
    assert origins.lines(OTHER) == b""


def test_last_preflight_decides():
    """A preflight that allows nothing forgets what a preflight has allowed."""
    origins = AllowedOrigins()
    origins.learn(PAGE, answer(PAGE), preflight=True)
    origins.learn(PAGE, answer(None, status=400), preflight=False)
    assert origins.lines(PAGE)
    origins.learn(PAGE, answer(None), preflight=True)
    assert origins.lines(PAGE) == b""


def test_preflights_do_not_forget_what_answers_have_shown():
    """Anybody can send them, for any origin."""
    origins = AllowedOrigins()
    origins.learn(PAGE, answer(PAGE), preflight=False)
    origins.learn(PAGE, answer(None), preflight=True)
    for number in range(3 * MAX_ORIGINS):
        origin = b"https://%d.example" % number
        origins.learn(origin, answer(origin), preflight=True)
        origins.learn(origin, answer(origin, status=401), preflight=False)
    assert origins.lines(PAGE)
    origins.learn(PAGE, answer(None), preflight=False)
    assert origins.lines(PAGE) == b""


def test_memory_is_bounded():
    """Only the latest origins are remembered, and none that is too long."""
    origins = AllowedOrigins()
    for number in range(3 * MAX_ORIGINS):
        origin = b"https://%d.example" % number
        origins.learn(origin, answer(origin), preflight=True)
    assert len(origins._asked) <= MAX_ORIGINS
    assert origins.lines(b"https://0.example") == b""
    assert origins.lines(origin)
    long = b"https://" + b"a" * MAX_ORIGIN_BYTES
    origins.learn(long, answer(long), preflight=True)
    assert origins.lines(long) == b""


def _from(origin: bytes, fields: bytes = b"") -> bytes:
    return b"Origin: %b\r\n%b" % (origin, fields)


async def test_page_can_read_a_refusal(upstream):
    """After a preflight that the upstream allowed, the page sees the 429 and when to try
    again; a page of another origin does not.
    """
    upstream.scripts.append(
        (
            b"HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: %b\r\n"
            b"Access-Control-Allow-Headers: authorization\r\n\r\n" % PAGE,
        )
    )
    asks = b"Access-Control-Request-Method: POST\r\n"
    call = {"method": b"POST", "target": CHAT, "body": b'{"model": "m"}'}
    server = 'hosts = ["*"]\n'
    async with InProcess(upstream, server=server, policy=LIMITS) as gateway:
        client = await gateway.client()
        client.send(request(b"OPTIONS", CHAT, _from(PAGE, asks)))
        assert (await client.answer()).startswith(b"HTTP/1.1 204 ")
        client.send(request(fields=_from(OTHER), **call))
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        client.send(request(fields=_from(PAGE), **call))
        refusal = await client.answer()
        assert refusal.startswith(b"HTTP/1.1 429 ")
        assert b"\r\nAccess-Control-Allow-Origin: %b\r\n" % PAGE in refusal
        for fields in (_from(OTHER), b""):
            client.send(request(fields=fields, **call))
            refusal = await client.answer()
            assert refusal.startswith(b"HTTP/1.1 429 ")
            assert b"Access-Control" not in refusal
