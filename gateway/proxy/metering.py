"""The usage of one answer, read from a copy of the bytes that pass to the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.model import Usage
from gateway.metering.dialects import (
    FAILED,
    OPEN_STREAM,
    CountTask,
    NullMeter,
    UsageFilter,
)
from gateway.metering.dialects.dialect import framing_of
from gateway.metering.dialects.outside import OUTSIDE_TOKENS
from gateway.metering.dialects.works import WorkReader
from gateway.metering.inflate import InflateError, Inflater
from gateway.metering.usage import estimated_prompt, generated_nothing

if TYPE_CHECKING:
    from gateway.core.model import RequestFacts
    from gateway.http.response import AnswerHead
    from gateway.metering.dialects import Match, UsageMeter
    from gateway.proxy.flow import Flow, StreamGrowth
    from gateway.proxy.tables import DataSettings

# Times ``max_inflate``: a stream may be long, and its decoded copy is not kept.
MAX_ANSWER_INFLATE = 16
# gzip reaches 1,032. A client can have an answer compress well (text that its own tools
# return), so a lower bound would let it hide what the answer states.
ANSWER_RATIO = 1_100


class Metering:
    """A meter behind a decoder, or behind the filter that removes the usage chunk.

    ``filter`` holds events back (``take`` may return less than it got). Without it bytes
    pass at once, and copies wait in ``scan`` until they are written to the client.
    ``error`` is a fault of the gateway: the answer passes on, no longer metered.
    """

    __slots__ = (
        "error",
        "failed",
        "filter",
        "inflater",
        "meter",
        "over",
        "scan",
        "unreadable",
        "work",
    )

    def __init__(self, meter: UsageMeter) -> None:
        self.meter = meter
        self.filter: UsageFilter | None = None
        self.inflater: Inflater | None = None
        self.error: Exception | None = None
        self.failed = False  # it ended with an error, though its status is 200
        self.unreadable = False  # in an unknown or broken coding
        self.scan: list[bytes] = []
        # Reads the state of work that may be paid later.
        self.work: WorkReader | None = None
        # Set when the stream is to be ended: what outgrew its reservation.
        self.over: StreamGrowth | None = None

    def decode(self, encoding: bytes, settings: DataSettings) -> None:
        """Decode the copy of a compressed answer, within bounds."""
        try:
            self.inflater = Inflater(
                encoding.decode("latin-1"),
                MAX_ANSWER_INFLATE * settings.max_inflate,
                ANSWER_RATIO,
            )
        except InflateError:
            self.unreadable = True

    def take(self, data: bytes) -> bytes:
        """The part of ``data`` that may go to the client now."""
        if self.filter is not None:
            try:
                return self.filter.feed(data)
            except Exception as error:  # noqa: BLE001
                self._fail(error)
                return self.filter.feed(data)
        self.scan.append(data)
        return data

    def _fail(self, error: Exception) -> None:
        self.error = self.error or error
        self.meter = NullMeter()
        self.inflater = None
        if self.filter is not None:
            self.filter.stop_metering()

    def flush(self) -> bytes:
        """What the filter holds back at the end of the answer."""
        return b"" if self.filter is None else self.filter.flush()

    def read(self) -> None:
        """Meter the copies of what was written to the client."""
        pieces = self.scan
        if not pieces:
            return
        self.scan = []
        try:
            if self.inflater is not None:
                self._inflate(pieces, self.inflater)
            elif not self.unreadable:
                for piece in pieces:
                    self.meter.feed(piece)
                if self.work is not None:
                    self.work.feed(b"".join(pieces))
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def _inflate(self, pieces: list[bytes], inflater: Inflater) -> None:
        try:
            for piece in pieces:
                for plain in inflater.pieces(piece):
                    self.meter.feed(plain)
                    if self.work is not None:
                        self.work.feed(plain)
        except InflateError:
            # The client has its bytes; usage that cannot be read is estimated.
            self.inflater = None
            self.unreadable = True

    def end(self) -> str:
        """Whether the answer has ended by its own mark or by an error, so far."""
        try:
            return self.meter.end()
        except Exception as error:  # noqa: BLE001
            self._fail(error)
            return OPEN_STREAM

    def finish(self, flow: Flow, *, complete: bool) -> Usage | CountTask | None:
        """Usage that the provider stated, else a task that counts it from the text; None:
        there is nothing to count. ``complete``: the answer was not truncated.
        """
        try:
            usage = self.meter.finish(complete) or self.meter.unstated()
        except Exception as error:  # noqa: BLE001
            self._fail(error)
            return None
        streamed = flow.facts is not None and flow.facts.stream
        if streamed or not isinstance(usage, Usage) or usage.source != "upstream":
            self.failed = self.end() == FAILED
        if self.failed and isinstance(usage, CountTask) and generated_nothing(usage):
            return None  # an error in place of an answer is not billed
        if isinstance(usage, CountTask):
            # A compressed body cannot be counted: the prompt's estimate is used.
            usage.body = b"" if flow.context.request_encoding else flow.body
            usage.prompt_estimate = flow.prompt_estimate
            if flow.facts is not None and flow.facts.outside:
                # Nothing states a prompt that is not whole in its body.
                usage.body = b""
                usage.prompt_estimate = estimated_prompt(usage) + OUTSIDE_TOKENS
        return usage


def open_metering(
    flow: Flow, answer: AnswerHead, settings: DataSettings
) -> Metering | None:
    """A meter for the answer whose head has arrived; None: the answer is not metered."""
    match, facts = flow.context.match, flow.facts
    if match is None or facts is None or answer.no_body:
        return None
    if flow.head.method != "POST" and not (match.metered or match.polled):
        return None
    content_type = answer.content_type
    metering = Metering(
        match.dialect.open_meter(match, facts, answer.status, answer.get, content_type)
    )
    if match.work:
        metering.work = _work_reader(facts, match, content_type)
    encoding = answer.content_encoding.lower()
    if encoding and encoding != b"identity":
        metering.decode(encoding, settings)
    elif (
        flow.usage_requested
        and answer.status == 200
        and content_type.startswith(b"text/event-stream")
    ):
        metering.filter = UsageFilter(metering.meter)
    return metering


def _work_reader(
    facts: RequestFacts, match: Match, content_type: bytes
) -> WorkReader | None:
    """A reader of the state of work; None: the answer is the end of its request."""
    if match.endpoint == "messages.batches.results":
        return WorkReader("", "")  # the results themselves are the end
    if facts.stream and not facts.background and not match.polled:
        return None
    return WorkReader(match.work, framing_of(content_type))


def open_lost_metering(flow: Flow) -> Metering | None:
    """A meter for an answer that will not be read, because the client left. The
    upstream has the prompt, so the prompt is charged.
    """
    match, facts = flow.context.match, flow.facts
    if match is None or facts is None:
        return None
    return Metering(
        match.dialect.open_meter(
            match, facts, 200, lambda _name: None, b"application/json"
        )
    )
