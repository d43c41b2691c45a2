"""Bodies that cannot be read or decoded, in enforce mode and in observe mode."""

from __future__ import annotations

import gzip

import brotli
import pytest
from backports import zstd

from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"
PLAIN = b'{"model":"m","messages":[],"pad":"%b"}' % (b"a" * 5_000_000)
SMALL = b'{"model":"m","messages":[]}'
UNREADABLE = {
    "unknown": (b"compress", b"x", b"415"),
    "double gzip": (b"gzip, gzip", gzip.compress(gzip.compress(SMALL)), b"415"),
    "not gzip": (b"gzip", SMALL, b"400"),
    "cut": (b"gzip", gzip.compress(SMALL)[:-4], b"400"),
    "ratio": (b"gzip", gzip.compress(PLAIN), b"413"),
    "ratio br": (b"br", brotli.compress(PLAIN), b"413"),
    "ratio zstd": (b"zstd", zstd.compress(PLAIN), b"413"),
    "not JSON": (b"identity", b"{", b"400"),
    "twice": (b"identity", b'{"model":"a","model":"b"}', b"400"),
    "a form": (b"identity", b"--x\r\n\r\n--x--", b"400"),
}


def post(coding: bytes, body: bytes) -> bytes:
    """A chat request with a body in this coding."""
    fields = CLOSE + b"Content-Encoding: %b\r\n" % coding
    return request(b"POST", CHAT, fields, body)


@pytest.mark.parametrize("case", UNREADABLE)
async def test_unreadable_bodies(case, upstream):
    """Enforce mode refuses them; observe mode passes their bytes and marks the record."""
    coding, body, status = UNREADABLE[case]
    async with InProcess(upstream) as gateway:
        answer = await gateway.talk(post(coding, body))
        assert answer[9:12] == status
        assert (b"Accept-Encoding: gzip, deflate, br, zstd" in answer) is (
            status == b"415"
        )
        assert not upstream.requests
        gateway.text = gateway.text.replace('mode = "enforce"', 'mode = "observe"')
        gateway.reload()
        assert (await gateway.talk(post(coding, body)))[9:12] == b"200"
    assert upstream.requests[0].endswith(body)
    assert gateway.records[1].metering == "unread"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"br", brotli.compress(SMALL)),
        (b"zstd", zstd.compress(SMALL)),
        (b"GZIP, identity", gzip.compress(SMALL, mtime=0)),
        (b"identity", SMALL),
        (b"identity, identity", SMALL),
    ],
)
async def test_readable_bodies(coding, body, upstream):
    """br and zstd are read like gzip."""
    async with InProcess(upstream) as gateway:
        assert (await gateway.talk(post(coding, body)))[9:12] == b"200"
    assert gateway.records[0].model == "m"
    assert gateway.records[0].metering != "unread"


async def test_observe_mode_takes_larger_bodies_than_the_policy(upstream):
    """``max_body`` of a policy is the policy's: observe mode does not enforce it."""
    caps = 'caps = { max_body = "1KiB", max_stream = "1s" }'
    body = b'{"model":"m","pad":"%b"}' % (b"a" * 5_000)
    async with InProcess(upstream, policy=caps) as gateway:
        assert (await gateway.talk(post(b"identity", body)))[9:12] == b"413"
        gateway.text = gateway.text.replace('mode = "enforce"', 'mode = "observe"')
        gateway.reload()
        assert (await gateway.talk(post(b"identity", body)))[9:12] == b"200"
