"""OpenAI's images, speech, transcripts, videos and pages: billed by other units.

Where the answer states tokens, these are what is billed; else the units that it states,
or that the request asked for.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from gateway.core.model import RequestFacts, Usage
from gateway.metering.dialects.base import (
    OPAQUE,
    SSE,
    HeaderLookup,
    PathMatch,
    UsageMeter,
)
from gateway.metering.dialects.billed import qualified, quantity
from gateway.metering.dialects.dialect import framing_of, sum_sizes
from gateway.metering.dialects.fallbacks import Routed, add_models
from gateway.metering.dialects.forms import FormFields
from gateway.metering.dialects.lenient import loads
from gateway.metering.dialects.meters import JsonMeter, NullMeter, StreamMeter
from gateway.metering.dialects.openai import OpenAI, named_user
from gateway.metering.dialects.requests import EMPTY, BodyReader, Count

IMAGES = frozenset({"images.generations", "images.edits", "images.variations"})
TRANSCRIPTS = frozenset({"audio.transcriptions", "audio.translations"})
_UNITS = {
    **dict.fromkeys(IMAGES, "images"),
    **dict.fromkeys(TRANSCRIPTS, "audio_seconds"),
    "audio.speech": "input_characters",
    "videos": "video_seconds",
}
# OpenAI's default.
_VIDEO_SECONDS = 4
# What sizes and qualities look like; others are left out. "auto" says nothing.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class MediaBody(Routed):
    """Fields of these endpoints, of OpenAI and compatible providers."""

    model: str | None = None
    prompt: Raw = EMPTY
    input: Raw = EMPTY
    instructions: Raw = EMPTY
    n: Count = None
    size: Raw = EMPTY
    width: Raw = EMPTY
    height: Raw = EMPTY
    quality: Raw = EMPTY
    resolution: Raw = EMPTY
    seconds: Raw = EMPTY
    duration: Raw = EMPTY
    stream: bool | None = None
    user: str | None = None
    metadata: Raw = EMPTY
    safety_identifier: str | None = None


class _Length(msgspec.Struct):
    """What an answer says about its length and size."""

    data: Raw = EMPTY
    duration: Any = None
    seconds: Any = None
    size: Any = None
    quality: Any = None
    usage_info: Any = None


_read = BodyReader(MediaBody).read
_length = msgspec.json.Decoder(_Length).decode
_list = msgspec.json.Decoder(list[Raw]).decode


class Media(OpenAI):
    """Reads how many units a request asks for."""

    def _read_body(self, match: PathMatch, body: bytes) -> RequestFacts:
        given = _read(body)
        prompt_bytes, known, _ = sum_sizes(
            given.prompt, given.input, given.instructions
        )
        n = max(1, given.n or 1)
        size = plain(given.size) or plain(given.resolution)
        if not size and given.width is not EMPTY:
            size = f"{plain(given.width)}x{plain(given.height)}"
        amount: Any = n
        if match.endpoint == "videos":
            asked = plain(given.seconds) or plain(given.duration)
            amount = quantity(asked) or _VIDEO_SECONDS
        elif match.endpoint == "audio.speech":
            amount = len(str(plain(given.input))) or prompt_bytes
        elif match.endpoint not in IMAGES:
            amount = None
        facts = RequestFacts(
            match.endpoint,
            match.model or given.model or "",
            bool(given.stream),
            None,
            n,
            named_user(given.user, given.metadata, given.safety_identifier),
            prompt_bytes,
            known,
            match.billable,
            units=asked_units(match.endpoint, size, plain(given.quality), amount),
        )
        return add_models(facts, given, given.model)

    def _read_form(self, match: PathMatch, fields: FormFields) -> RequestFacts:
        facts = super()._read_form(match, fields)
        amount: Any = facts.n
        if match.endpoint == "videos":
            amount = quantity(fields.get("seconds")) or _VIDEO_SECONDS
        elif match.endpoint in TRANSCRIPTS:
            amount = fields.seconds
        size, quality = fields.get("size"), fields.get("quality")
        facts.units = asked_units(match.endpoint, size, quality, amount)
        return facts

    def cap_path(self, facts: RequestFacts) -> tuple[str, ...] | None:
        """None: there is no cap on tokens."""
        return None

    def open_meter(
        self,
        match: PathMatch,
        facts: RequestFacts,
        status: int,
        headers: HeaderLookup,
        content_type: bytes,
    ) -> UsageMeter:
        """The common meters, with units in addition to tokens."""
        meter = super().open_meter(match, facts, status, headers, content_type)
        if isinstance(meter, NullMeter):
            return meter
        kind = framing_of(content_type)
        if kind == SSE:
            return MediaStreamMeter(facts, match, SSE, self.searcher[0])
        return MediaMeter(facts, match, OPAQUE if kind == OPAQUE else "json")


def plain(raw: Raw) -> Any:
    """A text or a number of a request; "" for anything else."""
    if raw is EMPTY:
        return ""
    try:
        # Half a surrogate pair is no reason to count no characters.
        value = loads(bytes(raw))
    except (ValueError, RecursionError):
        return ""
    return value if isinstance(value, str | int | float) else ""


def asked_units(
    endpoint: str, size: Any, quality: Any, amount: Any
) -> tuple[tuple[str, float], ...]:
    """The units that a request asks for; () if it does not say how many."""
    unit = _UNITS.get(endpoint)
    asked = quantity(amount)
    if unit is None or not asked:
        return ()
    return ((qualified(unit, size, quality), asked),)


def completed(facts: RequestFacts, usage: Usage, body: bytes) -> Usage:
    """The usage with units where the answer states neither tokens nor units.

    ``body``: the answer, if it is one JSON object.
    """
    if usage.total:
        made = "image" if facts.endpoint in IMAGES else "audio"
        known = any(unit.startswith("output") for unit, _ in usage.units)
        if facts.endpoint not in TRANSCRIPTS and usage.completion and not known:
            output = (f"output_{made}_tokens", usage.completion)
            usage.units = (*usage.units, output)
        return usage
    if usage.units and usage.units != facts.units:
        return usage  # the seconds of a transcript
    stated = _stated_units(facts, body)
    if stated:
        usage.units, usage.source = stated, "upstream"
    elif usage.source == "counted" and facts.endpoint in TRANSCRIPTS:
        usage.source = "estimated"
    return usage


def _stated_units(facts: RequestFacts, body: bytes) -> tuple[tuple[str, float], ...]:
    """Pictures, pages or seconds of a JSON answer; () if it states none."""
    endpoint = facts.endpoint
    try:
        given = _length(body)
        amount = _amount(endpoint, given)
    except _UNREADABLE:
        return ()
    if not amount:
        return ()
    unit = _UNITS.get(endpoint, "pages")
    if endpoint in IMAGES or endpoint == "videos":
        said = qualified(unit, given.size, given.quality)
        # The size that was asked for, unless the answer names the one that it has.
        unit = facts.units[0][0] if said == unit and facts.units else said
    return ((unit, amount),)


def _amount(endpoint: str, given: _Length) -> float | None:
    if endpoint in IMAGES:
        return len(_list(given.data))
    if endpoint in TRANSCRIPTS:
        return quantity(given.duration)
    if endpoint == "videos":
        return quantity(given.seconds)
    pages = given.usage_info
    return quantity(pages.get("pages_processed")) if isinstance(pages, dict) else None


class MediaMeter(JsonMeter):
    """A JSON answer, or sound and pictures, which are not read."""

    __slots__ = ()

    def finish(self, complete: bool) -> Usage | None:  # noqa: FBT001
        """The stated usage, or the units."""
        usage = super().finish(complete) or Usage()
        body = b"" if self._head or self.framing == OPAQUE else b"".join(self._chunks)
        return completed(self._facts, usage, body)


class MediaStreamMeter(StreamMeter):
    """A stream of pictures, sound or text."""

    __slots__ = ()

    def finish(self, complete: bool) -> Usage | None:  # noqa: FBT001
        """The stated usage, or the units that were asked for."""
        return completed(self._facts, super().finish(complete) or Usage(), b"")


MEDIA = Media()
