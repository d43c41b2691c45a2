"""Joining the caller's trace (W3C Trace Context): what a worker does of tracing.

It reads ``traceparent``, chooses the id of our own span, and writes the line by which
the upstream becomes its child. The span itself is made by control, from the record.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from gateway.core.model import NO_TRACE

# Lines of a head, each with its end. The name in any case; what is not plainly spelled
# comes from the parsed head, where names and values are checked already.
_PARENT = re.compile(
    rb"^traceparent:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.MULTILINE | re.IGNORECASE
)
_EITHER = re.compile(
    rb"^trace(?:parent|state):[^\r\n]*\r\n", re.MULTILINE | re.IGNORECASE
)
# Version 00 is exactly this long; a later one may go on after its flags.
_VALID = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}"
    rb"-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
# As nearly every caller sends it: sampled, at the beginning of a line.
_PLAIN = re.compile(
    rb"(?<![^\n])[Tt]raceparent: 00-(?!0{32})([0-9a-f]{32})"
    rb"-(?!0{16})([0-9a-f]{16})-(0[13])\r\n"
)
_SAMPLED = 1
_RANDOM = 2  # the only other flag that there is: the trace id was drawn at random
_LOW_64 = (1 << 64) - 1


class Tracer:
    """Decides which requests get a span.

    ``ratio``: the share of traces that begin here. ``parent_based``: what has a valid
    parent does as the parent did; else the ratio decides there too. ``draw`` gives so
    many random bits.
    """

    __slots__ = ("_below", "_draw", "_parent_based")

    def __init__(
        self,
        ratio: float = 1.0,
        *,
        parent_based: bool = True,
        draw: Callable[[int], int] = random.getrandbits,
    ) -> None:
        # As the SDKs' TraceIdRatioBased does it: every party comes to the same result.
        self._below = round(ratio * (1 << 64))
        self._parent_based = parent_based
        self._draw = draw

    def join(self, lines: bytes) -> tuple[str, bytes]:
        """What the record keeps of the trace, and the lines for the upstream.

        ``lines`` are whole header lines of this request, the caller's ``traceparent``
        among them if there is one. The first is NO_TRACE where no span is to be made.
        """
        plain = _PLAIN.search(lines) if lines and self._parent_based else None
        if plain is not None and lines.lower().count(b"traceparent") == 1:
            # Only the parent's id is another one for the upstream.
            trace, parent, kept = plain.groups()
            span = b"%016x" % (self._draw(64) or 1)
            place = plain.start(2)
            line = lines[:place] + span + lines[place + 16 :]
            return (trace + span + kept + parent).decode(), line
        return self._join_odd(lines)

    def _join_odd(self, lines: bytes) -> tuple[str, bytes]:
        """As above, however it is spelled."""
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
        """A trace of our own; a state belongs to the parent that there is not."""
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
    """Header lines without those of a trace, and those."""
    found = b"".join(_EITHER.findall(forward))
    return (_EITHER.sub(b"", forward), found) if found else (forward, b"")


def _line(trace: bytes, span: bytes, flags: int) -> bytes:
    return b"Traceparent: 00-%b-%b-%02x\r\n" % (trace, span, flags)


def _text(trace: bytes, span: bytes, flags: int, parent: bytes) -> str:
    return (b"%b%b%02x%b" % (trace, span, flags, parent)).decode()
