"""The usage of one answer, read from a copy of the bytes that pass to the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.metering.dialects import UsageFilter
from gateway.metering.inflate import InflateError, Inflater

if TYPE_CHECKING:
    from gateway.core.model import RequestFacts, Usage
    from gateway.http.response import AnswerHead
    from gateway.metering.dialects import CountTask, Match, UsageMeter
    from gateway.proxy.tables import DataSettings

# A stream may be long, and its decoded copy is dropped as it is read.
MAX_ANSWER_INFLATE = 16


class Metering:
    """A meter with what its bytes need first: decoding, or the usage chunk's removal.

    ``filter`` holds events back (``take`` gives less than it got); without it bytes
    pass at once, and their copies wait in ``scan`` until the write is out.
    """

    __slots__ = ("filter", "inflater", "meter", "scan", "unreadable")

    def __init__(self, meter: UsageMeter) -> None:
        self.meter = meter
        self.filter: UsageFilter | None = None
        self.inflater: Inflater | None = None
        self.unreadable = False  # in a coding that nobody here knows
        self.scan: list[bytes] = []

    def decode(self, encoding: bytes, settings: DataSettings) -> None:
        """The answer comes coded: decode the copy, bounded."""
        try:
            self.inflater = Inflater(
                encoding.decode("latin-1"),
                MAX_ANSWER_INFLATE * settings.max_inflate,
                settings.max_inflate_ratio,
            )
        except InflateError:
            self.unreadable = True

    def take(self, data: bytes) -> bytes:
        """What of ``data`` may go to the client now."""
        if self.filter is not None:
            return self.filter.feed(data)
        self.scan.append(data)
        return data

    def read(self) -> None:
        """Meter the copies of what is on its way."""
        pieces, self.scan = self.scan, []
        meter, inflater = self.meter, self.inflater
        if inflater is not None:
            self._inflate(pieces, inflater)
        elif not self.unreadable:
            for piece in pieces:
                meter.feed(piece)

    def _inflate(self, pieces: list[bytes], inflater: Inflater) -> None:
        try:
            for piece in pieces:
                for plain in inflater.pieces(piece):
                    self.meter.feed(plain)
        except InflateError:
            # The client has its bytes; what cannot be read is estimated.
            self.inflater = None
            self.unreadable = True

    def finish(self, *, complete: bool) -> Usage | CountTask | None:
        """What was stated, else what has to be counted; None: it costs nothing."""
        return self.meter.finish(complete) or self.meter.unstated()


def open_metering(
    match: Match,
    facts: RequestFacts,
    answer: AnswerHead,
    settings: DataSettings,
    asked_usage: bool,
) -> Metering:
    """A meter for an answer whose head has come. ``asked_usage``: the gateway asked for
    a usage chunk that the client must not see.
    """
    content_type = answer.content_type
    metering = Metering(
        match.dialect.open_meter(match, facts, answer.status, answer.get, content_type)
    )
    encoding = answer.content_encoding.lower()
    if encoding and encoding != b"identity":
        metering.decode(encoding, settings)
    elif (
        asked_usage
        and answer.status == 200
        and content_type.startswith(b"text/event-stream")
    ):
        metering.filter = UsageFilter(metering.meter)
    return metering


def open_lost_metering(match: Match, facts: RequestFacts) -> Metering:
    """The upstream has the prompt, and nobody will see what it makes of it."""
    return Metering(
        match.dialect.open_meter(
            match, facts, 200, lambda _name: None, b"application/json"
        )
    )
