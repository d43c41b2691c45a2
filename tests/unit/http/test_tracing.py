"""Joining a trace: the parent, the line for the upstream, sampling."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import NO_TRACE
from gateway.http.tracing import Tracer, split_trace_lines
from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TRACE, PARENT = b"%032x" % 0xABC, b"%016x" % 0xDEF
SPAN = b"%016x" % 7
LINE = re.compile(rb"(?im)^traceparent:[^\r\n]*\r\n")
GOOD = re.compile(
    rb"Traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]\r\n", re.IGNORECASE
)
OTHER = b"baggage: traceparent: 00-1\r\n"
BODY = b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


def tracer(ratio: float = 1.0, **more: bool) -> Tracer:
    """Draws 7 for everything."""
    return Tracer(ratio, draw=lambda _bits: 7, **more)


def line(flags: bytes = b"01", version: bytes = b"00", rest: bytes = b"") -> bytes:
    return b"traceparent: %b-%b-%b-%b%b\r\n" % (version, TRACE, PARENT, flags, rest)


@pytest.mark.parametrize(
    ("given_line", "flags"),
    [
        (line(), b"01"),
        (line(b"03"), b"03"),
        (line(b"ff"), b"03"),
        (line().replace(b"t", b"T", 1), b"01"),
        (line().replace(b"traceparent: ", b"TRACEPARENT:\t"), b"01"),
        (line(version=b"01", rest=b"-what-later-versions-say"), b"01"),
        (line(version=b"cc"), b"01"),
    ],
)
def test_a_valid_parent_is_joined(given_line, flags):
    """Trace id and flags are kept; our span is the parent of the upstream's."""
    text, lines = tracer().join(OTHER + given_line)
    assert text.encode() == TRACE + SPAN + flags + PARENT
    (sent,) = LINE.findall(lines)
    assert sent.lower() == b"traceparent: 00-%b-%b-%b\r\n" % (TRACE, SPAN, flags)
    assert OTHER in lines


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        line(version=b"ff"),
        line(rest=b"-more"),
        line(b"1"),
        line(b"0g"),
        line().replace(TRACE, b"0" * 32),
        line().replace(PARENT, b"0" * 16),
        line().replace(b"abc", b"ABC"),
        line() + line(),
        b"traceparent: \r\n",
    ],
)
def test_what_is_no_parent_begins_a_trace(bad):
    """A malformed or repeated traceparent is replaced; tracestate is dropped."""
    text, lines = tracer().join(bad + OTHER + b"Tracestate: a=b\r\n")
    assert text == f"{7:032x}{7:016x}03"
    assert lines == OTHER + b"Traceparent: 00-%032x-%016x-03\r\n" % (7, 7)


def test_an_unsampled_parent_passes_unchanged():
    """An unsampled parent makes no span and changes no byte."""
    lines = line(b"00") + b"tracestate: a=b\r\n"
    assert tracer().join(lines) == (NO_TRACE, lines)


def test_the_ratio_decides_without_a_parent():
    """Sampling uses the low half of the trace id and sets the flag upstream."""
    low = Tracer(0.5, draw=lambda _bits: (1 << 63) - 1).join(b"")
    high = Tracer(0.5, draw=lambda _bits: 1 << 63).join(b"")
    assert low[0]
    assert low[1].endswith(b"-03\r\n")
    assert high[0] == NO_TRACE
    assert high[1].endswith(b"-02\r\n")


def test_a_sampler_may_overrule_the_parent():
    """Without ``parentbased_`` the ratio applies to every request."""
    for flags in (b"00", b"01"):
        text, lines = tracer(0.0, parent_based=False).join(line(flags))
        assert (text, lines.lower()) == (NO_TRACE, line(b"00"))
        text, lines = tracer(1.0, parent_based=False).join(line(flags))
        assert text[:32] == TRACE.decode()
        assert lines.endswith(b"-01\r\n")


@given(
    st.lists(
        st.sampled_from([line(), line(b"00"), b"Traceparent:x\r\n", OTHER, b"A: b\r\n"])
        | st.binary(max_size=70)
        .filter(lambda text: not {10, 13} & set(text))
        .map(b"traceparent: %b\r\n".__mod__)
    )
)
def test_the_upstream_gets_one_good_line(parts):
    """The upstream always gets exactly one valid ``traceparent``."""
    _, lines = Tracer(0.5).join(b"".join(parts))
    (sent,) = LINE.findall(lines)
    assert GOOD.fullmatch(sent)
    rest = [part for part in parts if part in {OTHER, b"A: b\r\n"}]
    assert LINE.sub(b"", lines) == b"".join(rest)


def test_lines_of_a_trace_are_taken_out():
    """Trace lines are split off in any spelling; others keep bytes and order."""
    lines = b"A: 1\r\nTRACEPARENT:x\r\nB: 2\r\ntracestate: y\r\n"
    found = split_trace_lines(lines)
    assert found == (b"A: 1\r\nB: 2\r\n", b"TRACEPARENT:x\r\ntracestate: y\r\n")
    assert split_trace_lines(b"A: 1\r\n") == (b"A: 1\r\n", b"")
    assert split_trace_lines(b"") == (b"", b"")


@pytest.mark.parametrize("spelling", [b"traceparent: ", b"TRACEPARENT:", b"off"])
async def test_on_the_wire(upstream, spelling):
    """With tracing the upstream gets our traceparent once; without, the caller's."""
    upstream.default = (ANSWER,)
    off = spelling == b"off"
    theirs = line().removeprefix(b"traceparent: ")
    fields = (b"traceparent: " if off else spelling) + theirs + b"Connection: close\r\n"
    async with InProcess(upstream) as gateway:
        gateway.plane.shared.tracer = None if off else tracer()
        for _ in range(2):
            await gateway.talk(request(b"POST", CHAT, fields, b'{"model":"m"}'))
        texts = {record.trace for record in gateway.records}
    for raw in upstream.requests:
        (sent,) = LINE.findall(raw)
        assert TRACE + b"-" + (PARENT if off else SPAN) in sent
    assert len(upstream.requests) == 2
    assert texts == {"" if off else (TRACE + SPAN + b"01" + PARENT).decode()}
