"""PROXY protocol headers, versions 1 and 2."""

from __future__ import annotations

import socket

import pytest

from gateway.http.head import WireError
from gateway.http.proxyproto import SIGNATURE_V2, parse_proxy_header

V4 = socket.inet_aton("203.0.113.9") + socket.inet_aton("192.0.2.1")
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::9") * 2
PORTS = (51_000).to_bytes(2) + (443).to_bytes(2)


def v2(command: int, family: int, payload: bytes, length: int | None = None) -> bytes:
    """A version 2 header with this payload."""
    size = len(payload) if length is None else length
    return SIGNATURE_V2 + bytes([command, family]) + size.to_bytes(2) + payload


GOOD = {
    "v1-tcp4": (
        b"PROXY TCP4 203.0.113.9 192.0.2.1 51000 443\r\n",
        "203.0.113.9",
    ),
    "v1-tcp6": (
        b"PROXY TCP6 2001:DB8:0::9 ::1 51000 443\r\n",
        "2001:db8::9",
    ),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1-unknown-words": (b"PROXY UNKNOWN a b c d e f\r\n", None),
    "v2-tcp4": (v2(0x21, 0x11, V4 + PORTS), "203.0.113.9"),
    "v2-tcp4-tlv": (v2(0x21, 0x11, V4 + PORTS + b"x" * 40), "203.0.113.9"),
    "v2-tcp6": (v2(0x21, 0x21, V6 + PORTS), "2001:db8::9"),
    "v2-local": (v2(0x20, 0x00, b""), None),
    "v2-local-addresses": (v2(0x20, 0x11, V4 + PORTS), None),
    "v2-unspecified": (v2(0x21, 0x00, b"tlv"), None),
    "v2-unix": (v2(0x21, 0x31, b"/" * 216), None),
}


@pytest.mark.parametrize("name", GOOD)
def test_header_is_read(name):
    """Source and length are read; bytes after the header are not consumed."""
    raw, source = GOOD[name]
    header = parse_proxy_header(raw + b"GET / HTTP/1.1\r\n")
    assert header == (source, len(raw))


@pytest.mark.parametrize("name", GOOD)
def test_every_prefix_asks_for_more(name):
    """An incomplete header needs more bytes."""
    raw = GOOD[name][0]
    assert all(parse_proxy_header(raw[:i]) is None for i in range(len(raw)))


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 51000\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 51000 443 x\r\n",
        b"PROXY TCP4  203.0.113.9 192.0.2.1 51000 443\r\n",
        b"PROXY TCP5 203.0.113.9 192.0.2.1 51000 443\r\n",
        b"PROXY TCP4 2001:db8::9 ::1 51000 443\r\n",
        b"PROXY TCP6 203.0.113.9 192.0.2.1 51000 443\r\n",
        b"PROXY TCP4 203.0.113.09 192.0.2.1 51000 443\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 70000 443\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 051 443\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 51000 x\r\n",
        b"PROXY TCP4 \xff 192.0.2.1 51000 443\r\n",
        b"PROXY UNKNOWN " + b"x" * 100,
        v2(0x11, 0x11, V4 + PORTS),
        v2(0x22, 0x11, V4 + PORTS),
        v2(0x21, 0x13, V4 + PORTS),
        v2(0x21, 0x11, V4),
        v2(0x21, 0x21, V4 + PORTS),
        v2(0x21, 0x11, V4 + PORTS, 5000),
    ],
)
def test_anything_else_is_refused(raw):
    """A connection without a valid header is refused."""
    with pytest.raises(WireError, match="400"):
        parse_proxy_header(raw)
