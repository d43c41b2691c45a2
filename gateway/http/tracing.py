"""Trace context (W3C): joining the caller's trace in a worker.

Reads ``traceparent``, chooses the id of the gateway's span, and writes the line that
makes the upstream's span its child. The control process makes the span from the record.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from gateway.core.model import NO_TRACE

# Header lines with their line ends, names in any case. Lines that ``heads`` does not
# cut out are part of the parsed head, where names and values were checked.
_PARENT = re.compile(
    rb"^traceparent:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.MULTILINE | re.IGNORECASE
)
_EITHER = re.compile(
    rb"^trace(?:parent|state):[^\r\n]*\r\n", re.MULTILINE | re.IGNORECASE
)
# Version 00 has exactly this length; a later version may have more after its flags.
_VALID = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}"
    rb"-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
# The fast path: version 00, sampled, in the usual spelling.
_FAST_PATH = re.compile(
    rb"(?<![^\n])[Tt]raceparent: 00-(?!0{32})([0-9a-f]{32})"
    rb"-(?!0{16})([0-9a-f]{16})-(0[13])\r\n"
)
_SAMPLED = 1
_RANDOM = 2  # the only other flag: the trace id was chosen at random
_LOW_64 = (1 << 64) - 1


class Tracer:
    """Decides which requests get a span.

    ``ratio``: share of the traces starting here that are sampled. ``parent_based``:
    a request with a valid parent follows the parent's decision; otherwise the ratio
    applies to it too. ``draw`` returns the given number of random bits.
    """

    __slots__ = ("_below", "_draw", "_parent_based")

    def __init__(
        self,
        ratio: float = 1.0,
        *,
        parent_based: bool = True,
        draw: Callable[[int], int] = random.getrandbits,
    ) -> None:
        # As the SDKs' TraceIdRatioBased, so that all services make the same decision.
        self._below = round(ratio * (1 << 64))
        self._parent_based = parent_based
        self._draw = draw

    def join(self, lines: bytes) -> tuple[str, bytes]:
        """Return the trace for the record (NO_TRACE: no span), and the upstream's lines.

        ``lines`` are complete header lines of this request, with the caller's
        ``traceparent`` if there is one.
        """
        found = _FAST_PATH.search(lines) if lines and self._parent_based else None
        if found is not None and lines.lower().count(b"traceparent") == 1:
            # Only the parent's id is replaced for the upstream.
            trace, parent, kept = found.groups()
            span = b"%016x" % (self._draw(64) or 1)
            place = found.start(2)
            line = lines[:place] + span + lines[place + 16 :]
            return (trace + span + kept + parent).decode(), line
        return self._join_slow_path(lines)

    def _join_slow_path(self, lines: bytes) -> tuple[str, bytes]:
        """Join a trace in any spelling."""
        values = _PARENT.findall(lines) if lines else ()
        if len(values) != 1:
            return self._begin(lines)
        found = _VALID.fullmatch(values[0])
        if found is None:
            return self._begin(lines)
        trace, parent = found[1], found[2]
        flags = int(found[3], 16)
        if self._parent_based:
            if not flags & _SAMPLED:
                return NO_TRACE, lines
        elif not self._draws(int(trace, 16)):
            kept = flags & _RANDOM
            return NO_TRACE, _PARENT.sub(b"", lines) + _line(trace, parent, kept)
        flags = flags & _RANDOM | _SAMPLED
        span = b"%016x" % (self._draw(64) or 1)
        line = _line(trace, span, flags)
        return _text(trace, span, flags, parent), _PARENT.sub(b"", lines) + line

    def _begin(self, lines: bytes) -> tuple[str, bytes]:
        """Start a trace; ``tracestate`` is dropped, as it belongs to a parent."""
        number = self._draw(128) or 1
        trace = b"%032x" % number
        span = b"%016x" % (self._draw(64) or 1)
        if lines:
            lines = _EITHER.sub(b"", lines)
        if not self._draws(number):
            return NO_TRACE, lines + _line(trace, span, _RANDOM)
        flags = _SAMPLED | _RANDOM
        return _text(trace, span, flags, b""), lines + _line(trace, span, flags)

    def _draws(self, trace: int) -> bool:
        return trace & _LOW_64 < self._below


def split_trace_lines(forward: bytes) -> tuple[bytes, bytes]:
    """Split header lines into those without trace context, and those with it."""
    found = b"".join(_EITHER.findall(forward))
    return (_EITHER.sub(b"", forward), found) if found else (forward, b"")


def _line(trace: bytes, span: bytes, flags: int) -> bytes:
    return b"Traceparent: 00-%b-%b-%02x\r\n" % (trace, span, flags)


def _text(trace: bytes, span: bytes, flags: int, parent: bytes) -> str:
    return (b"%b%b%02x%b" % (trace, span, flags, parent)).decode()
