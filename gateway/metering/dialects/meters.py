"""Usage meters: read the usage of an answer while its bytes pass.

A chunk of a stream without usage costs one regex search and one list append; only
records that may contain a usage object are parsed. In case no usage is stated, records
are kept for counting: the last 64 KiB whole, of older ones only the generated text.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

import msgspec

from gateway.core.model import RequestFacts, Usage
from gateway.metering.dialects.base import (
    JSON,
    NDJSON,
    OPAQUE,
    OPEN_STREAM,
    SSE,
    CountTask,
    PathMatch,
    count_task,
)
from gateway.metering.dialects.billed import name_answer, name_tools
from gateway.metering.dialects.endings import end_of_body, end_of_stream, tail_of
from gateway.metering.dialects.fields import (
    ABSENT,
    CLOSED,
    OPEN,
    UsageEnvelope,
    decode_envelope,
    decode_envelopes,
    decode_simple,
    plain_usage,
)
from gateway.metering.dialects.loose import (
    envelope_in_head,
    envelope_in_tail,
    loose_envelope,
)
from gateway.metering.dialects.tally import UsageTally
from gateway.metering.dialects.texts import raw_texts, sse_payload

# Records of a stream kept whole: about 350 events of 180 bytes.
KEPT_BYTES = 64 * 1024
# So much of the oldest records is reduced to text at a time (about 50 us).
STEP_BYTES = 8 * 1024
# Text kept of older records; beyond it, only the size of records is kept.
TEXT_CHARS = 1024 * 1024
# A JSON answer kept whole; of a larger one, WINDOW_BYTES of its head and its tail.
BODY_BYTES = 1024 * 1024
WINDOW_BYTES = 64 * 1024
# One event kept whole; of a larger one (with an image inside), the tail.
EVENT_BYTES = 1024 * 1024

# Two line ends in a row, each CRLF, LF or CR (WHATWG: event streams).
BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\n")

# Matches where a usage object may begin. A literal prefix keeps the search fast.
USAGE_HIT = re.compile(rb'"usage(?:Metadata)?"\s*+:\s*+\{').search
META_HIT = re.compile(rb'"(?:usage|meta|tokens|billed_units)"\s*+:\s*+\{').search
OLLAMA_HIT = re.compile(rb'eval_count"').search
BEDROCK_HIT = re.compile(
    rb'"(?:usage|amazon-bedrock-invocationMetrics)"\s*+:\s*+\{'
    rb'|_token_count"|TokenCount"'
).search
ANY_HIT = re.compile(
    rb'"(?:usage(?:Metadata)?|meta|tokens|billed_units'
    rb'|amazon-bedrock-invocationMetrics)"\s*+:\s*+\{|eval_count"|_token_count"'
    rb'|TokenCount"|"tokens_(?:evaluated|predicted)"'
).search


def read_envelope(payload: bytes) -> UsageEnvelope | None:
    """The usage members of one JSON object; None if it is not JSON."""
    try:
        return decode_envelope(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return loose_envelope(payload)


class NullMeter:
    """The meter of error answers and of endpoints that cost nothing."""

    __slots__ = ()

    def feed(self, data: bytes) -> None:
        """Count nothing."""

    def finish(self, complete: bool) -> Usage | None:  # noqa: FBT001
        """No tokens."""
        return Usage()

    def unstated(self) -> CountTask | None:
        """None: nothing to count."""
        return None

    @property
    def implausible(self) -> bool:
        """False: no usage is read."""
        return False

    def end(self) -> str:
        """OPEN_STREAM: the answer is not read."""
        return OPEN_STREAM


class _Base:
    """Common part of JSON and stream meters: the tally, and the end of an answer."""

    __slots__ = ("_facts", "_model", "_must_count", "framing", "tally")

    def __init__(
        self, facts: RequestFacts, match: PathMatch, framing: str = JSON
    ) -> None:
        self.framing = framing
        self._facts = facts
        self._model = match.model
        self._must_count = match.counted
        self.tally: UsageTally | None = None

    def _take(self, envelope: UsageEnvelope | None) -> None:
        if envelope is not None:
            if self.tally is None:
                self.tally = UsageTally()
            self.tally.take(envelope)

    @property
    def implausible(self) -> bool:
        """Whether the stated usage cannot be true: it is counted from the text."""
        return self.tally is not None and not self.tally.plausible

    def _ended(self, complete: bool) -> Usage | None:  # noqa: FBT001
        tally = self.tally
        if tally is not None and tally.seen and not self.implausible:
            short = tally.open == OPEN or (tally.open != CLOSED and not complete)
            if not (short and self._must_count):
                usage = tally.usage()
                if usage.tools:
                    name_tools(usage, self._facts.tools)
                return usage
            return None
        return None if self._must_count else self._without_tokens()

    def _without_tokens(self) -> Usage:
        """What the answer states beside tokens, such as the seconds of a transcript."""
        usage = Usage()
        if self.tally is not None:
            self.tally.billed.onto(usage)
            name_tools(usage, self._facts.tools)
            if usage.units or usage.tools or usage.cost_usd is not None:
                usage.source = "upstream"
        if self._facts.units and not usage.units:
            usage.units = self._facts.units
            if usage.source == "none":
                usage.source = "counted"
        return usage

    def _task(self) -> CountTask:
        tally = self.tally
        stated = beside = None
        if tally is not None:
            if tally.seen and not self.implausible:
                stated = tally.usage()
            beside = tally.billed.onto(Usage())
            for one in (stated or beside, beside):
                name_tools(one, self._facts.tools)
        if self._facts.units and not (beside and beside.units):
            beside = beside or Usage()
            beside.units = self._facts.units
        task = count_task(self._facts, self._model, self.framing, stated)
        task.beside = beside
        return task


class JsonMeter(_Base):
    """One JSON body (or Gemini's array of them)."""

    __slots__ = ("_chunks", "_head", "_lost", "_size", "_tail")

    def __init__(
        self, facts: RequestFacts, match: PathMatch, framing: str = JSON
    ) -> None:
        # Not through super(), which would double the cost of a small JSON answer.
        self.framing = framing
        self._facts = facts
        self._model = match.model
        self._must_count = match.counted
        self.tally = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._head = b""
        self._tail = b""
        self._lost = 0

    def feed(self, data: bytes) -> None:
        """Keep the body, or its head and tail."""
        self._size += len(data)
        self._chunks.append(data)
        if self._size > BODY_BYTES:
            self._shrink()

    def _shrink(self) -> None:
        """Reduce the body to head and tail; runs once per MiB."""
        whole = self._tail + b"".join(self._chunks)
        if not self._head:
            self._head = whole[:WINDOW_BYTES]
            whole = whole[WINDOW_BYTES:]
        self._tail = whole[-WINDOW_BYTES:]
        self._lost += len(whole) - len(self._tail)
        self._chunks = []
        self._size = 0

    def finish(self, complete: bool) -> Usage | None:  # noqa: FBT001
        """Decode the usage members of the body."""
        if self._head:
            self._shrink()
            self._take(envelope_in_head(self._head))
            self._take(envelope_in_tail(self._tail))
            return self._ended(complete)
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = [body]
        return self._read(body) or self._ended(complete)

    def _read(self, body: bytes) -> Usage | None:
        """Fast path: the usage of the most frequent shape. Else None; see the tally."""
        try:
            simple = decode_simple(body)
            stated = simple.usage
            if stated is not None:
                usage = plain_usage(stated)
                if usage is not None:
                    return name_answer(usage, simple.model, simple.service_tier)
                self.tally = tally = UsageTally()
                tally.take_stated(stated)
                tier = simple.service_tier or simple.converse_tier
                tally.billed.note_names(simple.model, tier)
                if simple.output is not ABSENT or simple.tool_usage is not ABSENT:
                    tally.billed.note_tools(
                        simple.output, simple.tool_usage, simple.tools
                    )
                if simple.steps is not ABSENT:
                    tally.billed.note_tools(simple.steps, ABSENT, ABSENT)
                if tally.seen:
                    return None
            self._take(decode_envelope(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._read_slow_path(body)
        return None

    def _read_slow_path(self, body: bytes) -> None:
        """Read an array, a member of unexpected type, or a truncated body."""
        try:
            for envelope in decode_envelopes(body):
                self._take(envelope)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._take(loose_envelope(body) or envelope_in_tail(body[-WINDOW_BYTES:]))

    def end(self) -> str:
        """By the members of a whole body; of a large one, not read."""
        if self._head:
            return OPEN_STREAM
        return end_of_body(b"".join(self._chunks))

    def unstated(self) -> CountTask | None:
        """The counting task with the body, or with its head and tail."""
        task = self._task()
        task.answer = [self._head, self._tail] if self._head else self._chunks
        task.lost_bytes = self._lost
        return task


class StreamMeter(_Base):
    """A stream of records: server-sent events or lines of JSON.

    ``hit`` searches a record for the beginning of a usage object.
    """

    __slots__ = (
        "_boundary",
        "_buffer",
        "_ends",
        "_from",
        "_hit",
        "_kept",
        "_kept_bytes",
        "_lost",
        "_text",
        "_text_chars",
    )

    def __init__(
        self,
        facts: RequestFacts,
        match: PathMatch,
        framing: str = SSE,
        hit: Callable[[bytes], object] = USAGE_HIT,
    ) -> None:
        super().__init__(facts, match, framing)
        self._hit = hit
        self._ends, self._boundary = (
            (b"\n\n", BLANK_LINE) if framing == SSE else (b"\n", _LINE_END)
        )
        self._buffer = bytearray()
        self._from = 0
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._text: list[bytes] = []
        self._text_chars = 0
        self._lost = 0

    def feed(self, data: bytes) -> None:
        """Scan answer bytes."""
        if self._buffer or not data.endswith(self._ends):
            self._feed_slow_path(data)
            return
        if self._hit(data):
            self._read(data)
        self._kept.append(data)
        self._kept_bytes += len(data)
        if self._kept_bytes > KEPT_BYTES:
            self._compact()

    def keep(self, records: bytes) -> None:
        """``feed`` for whole records without usage, which the caller has searched."""
        self._kept.append(records)
        self._kept_bytes += len(records)
        if self._kept_bytes > KEPT_BYTES:
            self._compact()

    def _feed_slow_path(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        for found in self._boundary.finditer(buffer, self._from):
            end = found.end()
            self._record(bytes(buffer[start:end]))
            start = end
        if start:
            del buffer[:start]
        if len(buffer) > EVENT_BYTES:
            # Events of this size have their usage at the end.
            self._lost += len(buffer) - WINDOW_BYTES
            del buffer[:-WINDOW_BYTES]
        # A line end may be split over two reads: search the last three bytes again.
        self._from = max(0, len(buffer) - 3)

    def _record(self, record: bytes) -> None:
        if self._hit(record):
            self._read(record)
        self.keep(record)

    def _read(self, records: bytes) -> None:
        """Merge the usage in whole records."""
        for line in records.splitlines():
            if not self._hit(line):
                continue
            payload = line
            if self.framing == SSE and line.startswith(b"data:"):
                payload = line[5:]
            envelope = read_envelope(payload)
            if envelope is None:
                # JSON over several data lines, or the tail of an oversized event.
                whole = sse_payload(records)
                envelope = read_envelope(whole) or envelope_in_tail(whole or records)
            self._take(envelope)

    def _read_names(self, records: bytes) -> None:
        """Model and tier of a stream without usage, which each of its records states."""
        for line in records.splitlines():
            if b'"model' in line:
                self._take(read_envelope(line.removeprefix(b"data:")))
                return

    def _compact(self) -> None:
        """Reduce the oldest records to their text, a few at a time."""
        while self._kept_bytes > KEPT_BYTES - STEP_BYTES:
            record = self._kept.popleft()
            self._kept_bytes -= len(record)
            if self._text_chars > TEXT_CHARS:
                self._lost += len(record)
                continue
            text = raw_texts(record)
            if text:
                self._text_chars += len(text)
                self._text.append(text)

    def events_kept(self) -> int:
        """The number of the last records, which are kept whole."""
        return sum(record.count(b"\n\n") for record in self._kept)

    def text_bytes(self) -> int:
        """Bytes of generated text so far, as the contents of JSON strings."""
        kept = sum(len(raw_texts(record)) for record in self._kept)
        return self._text_chars + self._lost + kept

    def finish(self, complete: bool) -> Usage | None:  # noqa: FBT001
        """Read the last record, which may lack its end, and return the usage."""
        if self._buffer:
            self._record(bytes(self._buffer))
            self._buffer.clear()
        return self._ended(complete)

    def end(self) -> str:
        """By the last records."""
        tail = tail_of(reversed(self._kept), bytes(self._buffer))
        return end_of_stream(self.framing, tail)

    def unstated(self) -> CountTask | None:
        """The counting task with the records and text that were kept."""
        if self.tally is None and self._kept:
            self._read_names(self._kept[-1])
        task = self._task()
        task.answer = list(self._kept)
        task.text = self._text
        task.lost_bytes = self._lost
        return task


class SniffMeter(_Base):
    """Chooses a meter by the first bytes, where the content type is not conclusive."""

    __slots__ = ("_begun", "_hit", "_match", "_meter")

    def __init__(
        self,
        facts: RequestFacts,
        match: PathMatch,
        hit: Callable[[bytes], object],
    ) -> None:
        super().__init__(facts, match)
        self._match = match
        self._hit = hit
        self._begun = b""
        self._meter: JsonMeter | StreamMeter | None = None

    def feed(self, data: bytes) -> None:
        """Feed the meter for the format of the first bytes."""
        if self._meter is None:
            begun = (self._begun + data).lstrip(b"\xef\xbb\xbf \t\r\n")
            if not begun:
                return
            if len(begun) < len(b"event:") and b"event:".startswith(begun):
                self._begun = begun
                return
            data = begun
            self._meter = self._choose(begun)
        self._meter.feed(data)

    def _choose(self, begun: bytes) -> JsonMeter | StreamMeter:
        common = (self._facts, self._match)
        if begun[:1] in (b"{", b"["):
            return JsonMeter(*common)
        if begun.startswith((b"data:", b"event:", b"id:", b"retry:", b":")):
            return StreamMeter(*common, SSE, self._hit)
        return JsonMeter(*common, OPAQUE)

    @property
    def implausible(self) -> bool:
        """Whether the chosen meter read a usage that cannot be true."""
        return self._meter is not None and self._meter.implausible

    def end(self) -> str:
        """By the chosen meter."""
        return OPEN_STREAM if self._meter is None else self._meter.end()

    def finish(self, complete: bool) -> Usage | None:  # noqa: FBT001
        """The usage by the chosen meter."""
        if self._meter is None:
            return self._ended(complete)
        return self._meter.finish(complete)

    def unstated(self) -> CountTask | None:
        """The counting task of the chosen meter."""
        return self._task() if self._meter is None else self._meter.unstated()


__all__ = [
    "ANY_HIT",
    "BEDROCK_HIT",
    "META_HIT",
    "NDJSON",
    "OLLAMA_HIT",
    "USAGE_HIT",
    "JsonMeter",
    "NullMeter",
    "SniffMeter",
    "StreamMeter",
]
