"""AWS Bedrock: Converse, and invoke with the bodies of each vendor."""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import ClassVar

import msgspec
from msgspec import Raw

from gateway.core.model import RequestFacts, Usage
from gateway.metering.dialects.base import (
    FAILED,
    FRAMES,
    HeaderLookup,
    PathMatch,
    UsageMeter,
)
from gateway.metering.dialects.billed import qualified
from gateway.metering.dialects.dialect import (
    CapPaths,
    Dialect,
    ErrorWriter,
    Search,
    cap_of,
    sum_sizes,
)
from gateway.metering.dialects.errors import bedrock_error, bedrock_error_type
from gateway.metering.dialects.fields import MAX_COUNT
from gateway.metering.dialects.meters import (
    BEDROCK_HIT,
    JsonMeter,
    NullMeter,
    StreamMeter,
)
from gateway.metering.dialects.outside import add_outside
from gateway.metering.dialects.requests import (
    EMPTY,
    BodyReader,
    Count,
    member,
    member_values,
    to_count,
)
from gateway.metering.dialects.tally import UsageTally
from gateway.metering.eventstream import EventStreamError, EventStreamReader

_INPUT = b"x-amzn-bedrock-input-token-count"
_OUTPUT = b"x-amzn-bedrock-output-token-count"
_CACHE_READ = b"x-amzn-bedrock-cache-read-input-token-count"
_CACHE_WRITE = b"x-amzn-bedrock-cache-write-input-token-count"
_EVENT_STREAM = b"application/vnd.amazon.eventstream"


class InvokeBody(msgspec.Struct):
    """Prompt and caps of Converse and of every vendor's invoke body."""

    messages: Raw = EMPTY
    system: Raw = EMPTY
    prompt: Raw = EMPTY
    message: Raw = EMPTY
    chat_history: Raw = EMPTY
    inputText: Raw = EMPTY  # noqa: N815
    texts: Raw = EMPTY
    input: Raw = EMPTY
    tools: Raw = EMPTY
    toolConfig: Raw = EMPTY  # noqa: N815
    inferenceConfig: Raw = EMPTY  # noqa: N815
    textGenerationConfig: Raw = EMPTY  # noqa: N815
    imageGenerationConfig: Raw = EMPTY  # noqa: N815
    metadata: Raw = EMPTY
    promptVariables: Raw = EMPTY  # noqa: N815
    requestMetadata: Raw = EMPTY  # noqa: N815
    max_tokens: Count = None
    max_tokens_to_sample: Count = None
    max_gen_len: Count = None
    maxTokens: Count = None  # noqa: N815
    max_completion_tokens: Count = None


class _Part(msgspec.Struct):
    bytes: str | None = None


# Words in names of models: where their cap is, and which answer without text.
_INVOKE_CAPS = {
    "nova": ("inferenceConfig", "max_new_tokens"),
    "titan-text": ("textGenerationConfig", "maxTokenCount"),
    "llama": ("max_gen_len",),
}
_NO_COMPLETION = ("embed", "rerank", "image", "canvas", "stability", "reel")
_IMAGE_MODELS = re.compile(r"image|canvas|stability")
_HOSTED = re.compile(rb"systemTool|\\u00")
_read = BodyReader(InvokeBody).read
_part = msgspec.json.Decoder(_Part).decode


def _images(model: str, config: Raw) -> tuple[tuple[str, float], ...]:
    """The images that a request to an image model asks for; () for other models."""
    if not _IMAGE_MODELS.search(model.lower()):
        return ()
    names = ("numberOfImages", "width", "height", "quality")
    given = [None] * len(names) if config is EMPTY else member_values(config, names)
    n, width, height, quality = given
    size = f"{width}x{height}" if width and height else ""
    return ((qualified("images", size, quality), to_count(n, names[0]) or 1),)


class Bedrock(Dialect):
    """Answers with usage in headers, in bodies or in the last event of a stream."""

    name = "bedrock"
    cap_paths: ClassVar[CapPaths] = (
        ("inferenceConfig", "maxTokens"),
        ("inferenceConfig", "max_new_tokens"),
        ("textGenerationConfig", "maxTokenCount"),
        ("max_tokens",),
        ("max_tokens_to_sample",),
        ("max_gen_len",),
        ("maxTokens",),
        ("max_completion_tokens",),
    )
    searcher: ClassVar[tuple[Search]] = (BEDROCK_HIT,)
    error_writer: ClassVar[tuple[ErrorWriter]] = (bedrock_error,)

    def cap_path(self, facts: RequestFacts) -> tuple[str, ...] | None:
        """Converse has one place, invoke one for each vendor."""
        if facts.endpoint == "converse":
            return ("inferenceConfig", "maxTokens")
        model = facts.model.lower()
        if any(word in model for word in _NO_COMPLETION):
            return None
        for word, path in _INVOKE_CAPS.items():
            if word in model:
                return path
        return ("max_tokens",)

    def _read_body(self, match: PathMatch, body: bytes) -> RequestFacts:
        given = _read(body)
        prompt_bytes, known, outside = sum_sizes(
            given.prompt,
            given.message,
            given.inputText,
            given.texts,
            given.tools,
            given.toolConfig,
            content=(given.messages, given.system, given.chat_history),
            items=(given.input,),
        )
        nested = member_values(given.inferenceConfig, ("maxTokens", "max_new_tokens"))
        titan = member(given.textGenerationConfig, "maxTokenCount")
        cap = cap_of(
            given.max_tokens,
            given.max_tokens_to_sample,
            given.max_gen_len,
            given.maxTokens,
            given.max_completion_tokens,
            *(to_count(asked, "inferenceConfig.maxTokens") for asked in nested),
            to_count(titan, "textGenerationConfig.maxTokenCount"),
        )
        user = member(given.metadata, "user_id", free=True) or member(
            given.requestMetadata, "user_id", free=True
        )
        facts = RequestFacts(
            match.endpoint,
            match.model,
            bool(match.stream),
            cap,
            1,
            user if isinstance(user, str) else None,
            prompt_bytes,
            known,
            match.billable,
            units=_images(match.model, given.imageGenerationConfig),
            # Amazon's own tools; a stored prompt.
            outside=outside or _HOSTED.search(bytes(given.toolConfig)) is not None,
        )
        return add_outside(facts, given.tools, given.promptVariables)

    def open_meter(
        self,
        match: PathMatch,
        facts: RequestFacts,
        status: int,
        headers: HeaderLookup,
        content_type: bytes,
    ) -> UsageMeter:
        """By content type; token counts in header fields take precedence."""
        if content_type.startswith(_EVENT_STREAM):
            if facts.billable and match.billable and status < 300:  # noqa: PLR2004
                return FramesMeter(facts, match)
            return NullMeter()
        meter = super().open_meter(match, facts, status, headers, content_type)
        if headers(_INPUT) is None or isinstance(meter, NullMeter):
            return meter
        counts = tuple(
            _header_count(headers(name))
            for name in (_INPUT, _OUTPUT, _CACHE_READ, _CACHE_WRITE)
        )
        return HeaderMeter(facts, match, counts)

    def error_headers(self, status: int, code: str) -> list[tuple[bytes, bytes]]:
        """AWS clients choose their exception by this field."""
        return [(b"x-amzn-errortype", bedrock_error_type(status).encode())]


def _header_count(value: bytes | None) -> int:
    if value is None or not value.isdigit():
        return 0
    return min(int(value[:15]), MAX_COUNT)


class HeaderMeter(JsonMeter):
    """Token counts from header fields, completed by the body."""

    __slots__ = ("_counts",)

    def __init__(
        self, facts: RequestFacts, match: PathMatch, counts: tuple[int, ...]
    ) -> None:
        super().__init__(facts, match)
        self._counts = counts

    def finish(self, complete: bool) -> Usage | None:  # noqa: FBT001
        """The larger prompt of header and body: only one of them includes cached tokens."""
        super().finish(complete)
        stated = Usage()
        if self.tally and self.tally.seen and self.tally.plausible:
            stated = self.tally.usage()
        fresh, completion, read, write = self._counts
        tally = UsageTally()
        if self.tally is not None:
            tally.billed = self.tally.billed
        tally.fresh = fresh
        tally.cached = read or stated.cached
        tally.cache_write = write or stated.cache_write
        if fresh >= stated.prompt:
            tally.prompt = fresh + read + write
        tally.completion = completion or stated.completion
        tally.reasoning = stated.reasoning
        tally.seen = True
        self.tally = tally
        usage = self._ended(complete)
        if usage is not None and self._facts.units and not usage.units:
            usage.units = self._facts.units
        return usage


class FramesMeter(StreamMeter):
    """An AWS event stream, whose payloads are metered as lines of JSON."""

    __slots__ = ("_broken", "_failed", "_reader")

    def __init__(self, facts: RequestFacts, match: PathMatch) -> None:
        super().__init__(facts, match, FRAMES, BEDROCK_HIT)
        self._reader = EventStreamReader()
        self._broken = False
        self._failed = False  # an exception came as a message

    def feed(self, data: bytes) -> None:
        """Read whole messages; once framing is lost, only count bytes."""
        if self._broken:
            self._lost += len(data)
            return
        try:
            for kind, payload in self._reader.feed(data):
                self._failed = self._failed or kind.endswith("Exception")
                self._payload(payload)
        except EventStreamError:
            self._broken = True
            self._lost += len(data)

    def end(self) -> str:
        """FAILED after an exception, else by the last payloads."""
        return FAILED if self._failed else super().end()

    def _payload(self, payload: bytes) -> None:
        if payload.startswith(b'{"bytes"'):
            payload = _unwrapped(payload)
        if payload:
            self._record(payload + b"\n")


def _unwrapped(payload: bytes) -> bytes:
    """The JSON that an invoke stream carries in base64."""
    try:
        inner = _part(payload).bytes
        return a2b_base64(inner) if inner else b""
    except (msgspec.DecodeError, UnicodeDecodeError, Base64Error, ValueError):
        return payload
