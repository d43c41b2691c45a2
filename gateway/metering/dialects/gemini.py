"""Gemini and Vertex AI: generateContent and its siblings.

``usageMetadata`` (thoughts included) is read in ``fields.py``, as for every dialect.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import msgspec
from msgspec import Raw

from gateway.core.model import RequestFacts, Usage, UsageSource
from gateway.metering.dialects.base import HeaderLookup, PathMatch, UsageMeter
from gateway.metering.dialects.billed import qualified, quantity
from gateway.metering.dialects.dialect import (
    CapPaths,
    Dialect,
    ErrorWriter,
    cap_of,
    sum_sizes,
)
from gateway.metering.dialects.errors import gemini_error
from gateway.metering.dialects.fields import Number, whole
from gateway.metering.dialects.meters import JsonMeter, NullMeter
from gateway.metering.dialects.outside import add_outside
from gateway.metering.dialects.requests import (
    EMPTY,
    BodyReader,
    count_items,
    member,
    member_values,
    to_count,
)
from gateway.metering.dialects.splice import with_cap
from gateway.metering.dialects.tally import UsageTally


class GenerateBody(msgspec.Struct):
    """Fields of all methods; protobuf JSON accepts both spellings of a name."""

    contents: Raw = EMPTY
    content: Raw = EMPTY
    requests: Raw = EMPTY
    instances: Raw = EMPTY
    parameters: Raw = EMPTY
    tools: Raw = EMPTY
    systemInstruction: Raw = EMPTY  # noqa: N815
    system_instruction: Raw = EMPTY
    generationConfig: Raw = EMPTY  # noqa: N815
    generation_config: Raw = EMPTY
    cachedContent: Raw = EMPTY  # noqa: N815
    cached_content: Raw = EMPTY


class _Statistics(msgspec.Struct):
    token_count: Number = None


class _Embedding(msgspec.Struct):
    statistics: _Statistics | None = None


class _Prediction(msgspec.Struct):
    embeddings: _Embedding | None = None


class _Total(msgspec.Struct, rename="camel"):
    total_tokens: Number = None


class _TokenMetadata(msgspec.Struct, rename="camel"):
    input_token_count: _Total | None = None
    output_token_count: _Total | None = None


class _PredictMetadata(msgspec.Struct, rename="camel"):
    token_metadata: _TokenMetadata | None = None


class PredictAnswer(msgspec.Struct):
    """Vertex ``:predict``: embeddings and PaLM text models."""

    predictions: list[_Prediction] | None = None
    metadata: _PredictMetadata | None = None


# Both spellings of the cap and of the number of answers.
_CONFIG_NAMES = (
    "maxOutputTokens",
    "max_output_tokens",
    "candidateCount",
    "candidate_count",
)
_PREDICT = frozenset({"predict", "predict_long_running"})
# Models of ``:predict`` that make pictures, videos and music: the unit of each, and what
# they make unless the request says otherwise.
_MAKERS: tuple[tuple[re.Pattern[str], str, int, float], ...] = (
    (re.compile(r"veo-"), "video_seconds", 1, 8),
    (re.compile(r"lyria-"), "audio_seconds", 1, 30),
    (
        re.compile(r"imagen-|imagegeneration|virtual-try-on|imageproduct"),
        "images",
        4,
        1,
    ),
)
_COUNTS = ("sampleCount", "numberOfImages", "numberOfVideos")
_read = BodyReader(GenerateBody, longest="contents").read
_predict_answer = msgspec.json.Decoder(PredictAnswer).decode


class PredictMeter(JsonMeter):
    """Token counts of ``:predict``, which each prediction states."""

    __slots__ = ()

    def finish(self, complete: bool) -> Usage | None:  # noqa: FBT001
        """The sum over the predictions; without counts, as for any JSON answer."""
        if self._facts.units:
            return self._made()
        try:
            answer = _predict_answer(b"".join(self._chunks))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return super().finish(complete)
        tally = UsageTally()
        for prediction in answer.predictions or ():
            if prediction.embeddings and prediction.embeddings.statistics:
                count = whole(prediction.embeddings.statistics.token_count)
                tally.prompt = (tally.prompt or 0) + (count or 0)
                tally.seen = True
        tokens = answer.metadata.token_metadata if answer.metadata else None
        if tokens is not None:
            tally.prompt = _total(tokens.input_token_count)
            tally.completion = _total(tokens.output_token_count)
            tally.seen = True
        return tally.usage() if tally.seen else super().finish(complete)

    def _made(self) -> Usage:
        """The units: as many as were made, else as were asked for."""
        (unit, amount), *_ = self._facts.units
        source: UsageSource = "counted"
        try:
            made = len(_predict_answer(b"".join(self._chunks)).predictions or ())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            made = 0
        if made and unit.startswith("images"):
            amount, source = made, "upstream"
        return Usage(source=source, units=((unit, amount),))


def asked_units(
    model: str, parameters: Raw, prompts: int, *, video: bool = False
) -> tuple[int, tuple[tuple[str, float], ...]]:
    """How many pictures, videos or pieces of music each prompt asks for, and the units
    of all of them; (1, ()) for other models. ``video``: those make videos.
    """
    name = model.rpartition("/")[2].lower()
    makers = (maker for maker in _MAKERS if maker[0].match(name))
    maker = next(makers, _MAKERS[0] if video else None)
    if maker is None:
        return 1, ()
    _, unit, made, seconds = maker
    counts: tuple[int, ...] = (0,)
    size: Any = ""
    if parameters is not EMPTY:
        counts = tuple(
            to_count(value, name) or 0
            for value, name in zip(
                member_values(parameters, _COUNTS), _COUNTS, strict=True
            )
        )
        size = member(parameters, "resolution", "sampleImageSize")
        asked = quantity(member(parameters, "durationSeconds"))
        if unit == "video_seconds" and asked:
            seconds = asked
    n = max(counts) or made
    amount = n * max(1, prompts) * seconds
    return n, ((qualified(unit, size, ""), amount),)


def _total(count: _Total | None) -> int:
    return (whole(count.total_tokens) or 0) if count else 0


class Gemini(Dialect):
    """Answers with ``candidates`` and ``usageMetadata``."""

    name = "gemini"
    cap_paths: ClassVar[CapPaths] = (
        ("generationConfig", "maxOutputTokens"),
        ("generationConfig", "max_output_tokens"),
        ("generation_config", "maxOutputTokens"),
        ("generation_config", "max_output_tokens"),
        ("parameters", "maxOutputTokens"),
    )
    n_paths: ClassVar[CapPaths] = (
        ("generationConfig", "candidateCount"),
        ("generationConfig", "candidate_count"),
        ("generation_config", "candidateCount"),
        ("generation_config", "candidate_count"),
        ("parameters", "candidateCount"),
        ("parameters", "sampleCount"),
        ("parameters", "numberOfImages"),
        ("parameters", "numberOfVideos"),
    )
    error_writer: ClassVar[tuple[ErrorWriter]] = (gemini_error,)

    def _read_body(self, match: PathMatch, body: bytes) -> RequestFacts:
        given = _read(body)
        prompt_bytes, known, outside = sum_sizes(
            given.tools,
            content=(given.contents, given.systemInstruction, given.system_instruction),
            items=(given.content, given.requests, given.instances),
        )
        cap: int | None = None
        n = 1
        for config in (
            given.generationConfig,
            given.generation_config,
            given.parameters,
        ):
            if config is EMPTY:
                continue
            asked = member_values(config, _CONFIG_NAMES)
            caps = (to_count(value, "maxOutputTokens") for value in asked[:2])
            cap = cap_of(cap, *caps)
            for value in asked[2:]:
                n = max(n, to_count(value, "candidateCount") or 1)
        prompts = count_items(given.instances)
        units: tuple[tuple[str, float], ...] = ()
        if match.endpoint in _PREDICT:
            video = match.endpoint == "predict_long_running"
            made, units = asked_units(
                match.model, given.parameters, prompts, video=video
            )
            n = max(n, made)
        facts = RequestFacts(
            match.endpoint,
            match.model,
            bool(match.stream),
            cap,
            n * prompts,
            None,
            prompt_bytes,
            known,
            match.billable,
            prompts=prompts,
            units=units,
            outside=outside,
        )
        cached = (given.cachedContent, given.cached_content)
        return add_outside(facts, given.tools, *cached, by_name=True)

    def clamp(
        self, body: bytes, facts: RequestFacts, max_tokens: int | None, n: int | None
    ) -> bytes:
        """As everywhere; a number of pictures that is absent has a default above 1."""
        body = super().clamp(body, facts, max_tokens, n)
        if n is None or facts.n <= n or not facts.units:
            return body
        each = max(1, n // facts.prompts)
        return with_cap(body, ("parameters", _COUNTS[0]), each, fold_case=False)

    def cap_path(self, facts: RequestFacts) -> tuple[str, ...] | None:
        """``generationConfig.maxOutputTokens`` where text is generated."""
        return self.cap_paths[0] if facts.endpoint == "generate_content" else None

    def open_meter(
        self,
        match: PathMatch,
        facts: RequestFacts,
        status: int,
        headers: HeaderLookup,
        content_type: bytes,
    ) -> UsageMeter:
        """The common meters, except for ``:predict``."""
        meter = super().open_meter(match, facts, status, headers, content_type)
        if match.endpoint == "predict" and not isinstance(meter, NullMeter):
            return PredictMeter(facts, match)
        return meter
