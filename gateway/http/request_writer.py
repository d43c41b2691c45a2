"""Writing the head of a request to an upstream. Pure functions over bytes.

The caller says what is sent (names and values); this module decides how it is written
in HTTP/1.1. Everything that equal requests share is written once (``OutgoingHead``), so
that a request costs one ``%`` on bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# Values of ``OutgoingRequest.body_length`` other than a length in bytes.
NO_BODY: Final = -1  # neither Content-Length nor Transfer-Encoding is sent
CHUNKED: Final = -2  # of unknown length: sent in the chunked coding

_GZIP: Final = b"\r\nAccept-Encoding: gzip\r\n"
_IDENTITY: Final = b"\r\nAccept-Encoding: identity\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"


class OutgoingHead:
    """What equal requests to one address share: request line and header fields."""

    __slots__ = ("_uncompressed", "method", "start")

    def __init__(
        self, method: str, target: bytes, authority: bytes, field_lines: bytes
    ) -> None:
        self.method = method
        self.start = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (
            method.encode(),
            target,
            authority,
            field_lines,
        )
        self._uncompressed = b""

    def uncompressed(self) -> bytes:
        """Return ``start`` with ``Accept-Encoding: identity`` in place of gzip."""
        if not self._uncompressed:
            self._uncompressed = self.start.replace(_GZIP, _IDENTITY, 1)
        return self._uncompressed


class OutgoingRequest(msgspec.Struct, gc=False):
    """One request: the shared head, and the fields that are its own.

    ``lines`` are complete header lines, ``fields`` names and values.
    ``uncompressed``: the answer must not be compressed. A struct, because one is made
    for each request: 0.1 us instead of 0.3 us for a class with ``__slots__``.
    """

    head: OutgoingHead
    lines: bytes
    request_id: bytes
    body_length: int
    fields: tuple[tuple[bytes, bytes], ...] = ()
    uncompressed: bool = False


def write_head(request: OutgoingRequest) -> bytes:
    """Write the complete head, with its empty line."""
    head = request.head
    start = head.uncompressed() if request.uncompressed else head.start
    if request.fields:
        start += write_fields(request.fields)
    length = request.body_length
    if length >= 0:
        return b"%b%bX-Request-Id: %b\r\nContent-Length: %d\r\n\r\n" % (
            start,
            request.lines,
            request.request_id,
            length,
        )
    return b"%b%bX-Request-Id: %b\r\n%b\r\n" % (
        start,
        request.lines,
        request.request_id,
        b"Transfer-Encoding: chunked\r\n" if length == CHUNKED else b"",
    )


def write_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write header lines."""
    return b"".join([b"%b: %b\r\n" % pair for pair in fields])


def write_chunk(data: bytes) -> bytes:
    """Write one chunk of a body (RFC 9112 section 7.1); ``data`` must not be empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def rewrite_values(
    lines: bytes, changes: Mapping[bytes, Callable[[bytes], bytes]]
) -> bytes:
    """Change the values of some fields; a field whose new value is empty is removed.

    ``lines`` are complete header lines; ``changes`` has a function from the old value
    to the new one for each lower-case name.
    """
    kept = []
    for line in lines.split(b"\r\n"):
        name, _, value = line.partition(b":")
        change = changes.get(name.lower())
        if change is None:
            kept.append(line)
        elif new := change(value.strip()):
            kept.append(name + b": " + new)
    return b"\r\n".join(kept)
