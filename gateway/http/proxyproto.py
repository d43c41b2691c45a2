"""The PROXY protocol header, versions 1 and 2 (haproxy.org, proxy-protocol.txt).

Only trusted proxies may send it; the caller checks that. The checksum and the other TLV
fields of version 2 are skipped.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from gateway.http.head import WireError

SIGNATURE_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_START_V1: Final = b"PROXY "
_VERSIONS_V1: Final = {"TCP4": 4, "TCP6": 6}
_VERSION_2: Final = 2
_MAX_V1_BYTES: Final = 107  # the longest line of the specification
_HEAD_V2_BYTES: Final = 16
# Addresses take at most 216 bytes; the rest are TLVs, which are skipped.
_MAX_V2_BYTES: Final = 4096
_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_MAX_PORT: Final = 65_535
# Family and transport of version 2: bytes of one address, 0 for "no inet address".
_FAMILIES: Final = {
    0x00: 0,  # unspecified
    0x11: 4,  # TCP over IPv4
    0x12: 4,  # UDP over IPv4
    0x21: 16,  # TCP over IPv6
    0x22: 16,  # UDP over IPv6
    0x31: 0,  # Unix stream
    0x32: 0,  # Unix datagram
}


def parse_proxy_header(raw: bytes) -> tuple[str | None, int] | None:
    """Return the client's address and the length in bytes of the header.

    None: more bytes are needed. The address is None where the header has none (LOCAL,
    UNKNOWN, a Unix socket): use the connection's own peer. Raises `WireError` (400) for
    anything else: where a header is expected, a connection without it is refused.
    """
    if raw.startswith(SIGNATURE_V2):
        return _parse_v2(raw)
    if raw.startswith(_START_V1):
        return _parse_v1(raw)
    if SIGNATURE_V2.startswith(raw) or _START_V1.startswith(raw):
        return None
    raise WireError(400, "PROXY header expected")


def _parse_v1(raw: bytes) -> tuple[str | None, int] | None:
    line, ended, _ = raw[:_MAX_V1_BYTES].partition(b"\r\n")
    if not ended:
        if len(raw) >= _MAX_V1_BYTES:
            raise WireError(400, "PROXY header too long")
        return None
    consumed = len(line) + 2
    try:
        words = line.decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise WireError(400, "malformed PROXY header") from None
    if words[1] == "UNKNOWN":  # the rest of the line is to be ignored
        return None, consumed
    try:
        _, family, source, destination, port, own_port = words
    except ValueError:
        raise WireError(400, "malformed PROXY header") from None
    version = _VERSIONS_V1.get(family)
    address = _read_address(source, version)
    _read_address(destination, version)
    _check_port(port)
    _check_port(own_port)
    return address, consumed


def _read_address(text: str, version: int | None) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise WireError(400, "malformed PROXY header") from None
    if address.version != version:
        raise WireError(400, "malformed PROXY header")
    return str(address)


def _check_port(text: str) -> None:
    if not _PORT.fullmatch(text) or int(text) > _MAX_PORT:
        raise WireError(400, "malformed PROXY header")


def _parse_v2(raw: bytes) -> tuple[str | None, int] | None:
    if len(raw) < _HEAD_V2_BYTES:
        return None
    version, command = raw[12] >> 4, raw[12] & 0x0F
    size = _FAMILIES.get(raw[13])
    length = int.from_bytes(raw[14:16])
    if version != _VERSION_2 or command > 1 or size is None:
        raise WireError(400, "malformed PROXY header")
    if length > _MAX_V2_BYTES:
        raise WireError(400, "PROXY header too long")
    consumed = _HEAD_V2_BYTES + length
    # Two addresses, then two ports of two bytes each.
    if command and length < (size and 2 * size + 4):
        raise WireError(400, "malformed PROXY header")
    if len(raw) < consumed:
        return None
    if not command or not size:
        return None, consumed
    return str(ipaddress.ip_address(raw[16 : 16 + size])), consumed
