"""Native APIs of inference servers: TGI and SGLang (``/generate``), llama.cpp
(``/completion``, ``/infill``), TEI (``/embed``).
"""

from __future__ import annotations

import re
from typing import ClassVar

import msgspec
from msgspec import Raw

from gateway.core.model import RequestFacts
from gateway.metering.dialects.base import (
    DialectError,
    HeaderLookup,
    PathMatch,
    UsageMeter,
)
from gateway.metering.dialects.dialect import (
    CapPaths,
    Dialect,
    Search,
    cap_of,
    other_model,
    sum_sizes,
)
from gateway.metering.dialects.fields import decode_envelopes
from gateway.metering.dialects.meters import JsonMeter
from gateway.metering.dialects.requests import (
    EMPTY,
    BodyReader,
    Count,
    count_items,
    member_values,
    to_count,
)
from gateway.metering.dialects.splice import with_cap
from gateway.metering.dialects.tally import UsageTally

NATIVE_HIT = re.compile(
    rb'"(?:generated_tokens|meta_info|tokens_predicted)"\s*+:|"usage"\s*+:\s*+\{'
).search
_NO_COMPLETION = frozenset({"embed", "embeddings"})
# Where each server's cap is, by the name of its prompt.
_TGI = ("parameters", "max_new_tokens")
_SGLANG = ("sampling_params", "max_new_tokens")
_LLAMA_CPP = ("n_predict",)
_VLLM = ("max_tokens",)
_TGI_NAMES = ("max_new_tokens", "best_of")
_SGLANG_NAMES = ("max_new_tokens", "n")


class NativeBody(msgspec.Struct):
    """Fields of all these servers; their prompts have different names."""

    inputs: Raw = EMPTY
    text: Raw = EMPTY
    input_ids: Raw = EMPTY
    prompt: Raw = EMPTY
    input_prefix: Raw = EMPTY
    input_suffix: Raw = EMPTY
    input_extra: Raw = EMPTY
    content: Raw = EMPTY
    input: Raw = EMPTY
    parameters: Raw = EMPTY
    sampling_params: Raw = EMPTY
    model: str | None = None
    stream: bool | None = None
    n_predict: Count = None
    max_tokens: Count = None
    n: Count = None
    best_of: Count = None


_read = BodyReader(NativeBody).read
_list = msgspec.json.Decoder(list[Raw]).decode


class Native(Dialect):
    """Answers with ``details``, ``meta_info`` or ``tokens_predicted``."""

    name = "openai"
    cap_paths: ClassVar[CapPaths] = (_TGI, _SGLANG, _LLAMA_CPP, _VLLM)
    n_paths: ClassVar[CapPaths] = (
        ("parameters", "best_of"),
        ("sampling_params", "n"),
        ("n",),
        ("best_of",),
    )
    searcher: ClassVar[tuple[Search]] = (NATIVE_HIT,)

    def _read_body(self, match: PathMatch, body: bytes) -> RequestFacts:
        given = _read(body)
        prompt_bytes, known, _ = sum_sizes(
            given.inputs,
            given.text,
            given.input_ids,
            given.prompt,
            given.input_prefix,
            given.input_suffix,
            given.input_extra,
            given.content,
            given.input,
        )
        caps: list[int | None] = [given.n_predict, given.max_tokens]
        n = max(1, given.n or 1, given.best_of or 1)
        nested = [(given.parameters, _TGI_NAMES)]
        nested += [(raw, _SGLANG_NAMES) for raw in _objects(given.sampling_params)]
        for raw, names in nested:
            cap, count = member_values(raw, names)
            caps.append(to_count(cap, names[0]))
            n = max(n, to_count(count, names[1]) or 1)
        prompts = 1
        for raw in (given.inputs, given.text, given.prompt):
            prompts = max(prompts, count_items(raw) if raw is not EMPTY else 1)
        return RequestFacts(
            match.endpoint,
            match.model or given.model or "",
            bool(match.stream or given.stream),
            cap_of(*caps),
            n * prompts,
            None,
            prompt_bytes,
            known,
            match.billable,
            prompts=prompts,
            body_model=other_model(match, given.model),
        )

    def cap_path(self, facts: RequestFacts) -> tuple[str, ...] | None:
        """Where text is generated; ``clamp`` decides by the body."""
        return None if facts.endpoint in _NO_COMPLETION else _TGI

    def clamp(
        self, body: bytes, facts: RequestFacts, max_tokens: int | None, n: int | None
    ) -> bytes:
        """Lower the caps, or write the one that the server of this prompt reads."""
        listed = bytes(_read(body).sampling_params).lstrip().startswith(b"[")
        if listed and max_tokens is not None:
            raise DialectError("a list of parameters cannot be capped", _SGLANG[0])
        absent = facts.max_tokens is None and not facts.endless
        if max_tokens is None or not absent or self.cap_path(facts) is None:
            return super().clamp(body, facts, max_tokens, n)
        body = super().clamp(body, facts, None, n)
        given = _read(body)
        path: tuple[str, ...]
        if given.sampling_params is not EMPTY or given.input_ids is not EMPTY:
            path = _SGLANG
        elif given.inputs is not EMPTY:
            path = _TGI
        elif given.text is not EMPTY:
            path = _SGLANG
        else:
            path = _VLLM if facts.endpoint == "generate" else _LLAMA_CPP
        return with_cap(body, path, max_tokens, fold_case=False)

    def open_meter(
        self,
        match: PathMatch,
        facts: RequestFacts,
        status: int,
        headers: HeaderLookup,
        content_type: bytes,
    ) -> UsageMeter:
        """The common meters; the answers to a list of prompts are added up."""
        meter = super().open_meter(match, facts, status, headers, content_type)
        return NativeMeter(facts, match) if type(meter) is JsonMeter else meter


class NativeMeter(JsonMeter):
    """One answer, or a list of answers to several prompts."""

    __slots__ = ()

    def _read_slow_path(self, body: bytes) -> None:
        try:
            answers = decode_envelopes(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            super()._read_slow_path(body)
            return
        for answer in answers:
            one = UsageTally()
            one.take(answer)
            if self.tally is None:
                self.tally = one
            else:
                self.tally.add(one)


def _objects(raw: Raw) -> list[Raw]:
    """One object, or the objects of a list: SGLang takes parameters for each prompt."""
    if not bytes(raw).lstrip().startswith(b"["):
        return [raw]
    try:
        return _list(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


NATIVE = Native()
