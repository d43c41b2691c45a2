"""Usage members in the answers of all providers, merged into one tally.

One set of structs for all dialects, because gateways that translate between providers
mix their field names: an answer is read by its members, whatever the dialect. Only the
fields below are decoded; msgspec skips everything else in C.
"""

from __future__ import annotations

from math import inf
from typing import Any

import msgspec
from msgspec import Raw

from gateway.core.model import Usage

Number = int | float | None

# A member that is read only where it says something.
ABSENT = Raw()

# No answer has so many tokens: a count of this size is not believed (``figure``).
MAX_COUNT = 1 << 32

# Whether more usage may follow (see ``UsageTally.open``).
CLOSED, OPEN_IF_CUT, OPEN = 0, 1, 2


class CachedDetails(msgspec.Struct, gc=False):
    """``cached_tokens_details``, of Realtime."""

    audio_tokens: Number = None
    image_tokens: Number = None


class Details(msgspec.Struct, gc=False):
    """``*_tokens_details`` of the OpenAI family."""

    cached_tokens: Number = None
    reasoning_tokens: Number = None
    cache_write_tokens: Number = None
    audio_tokens: Number = None
    image_tokens: Number = None
    video_tokens: Number = None
    cached_tokens_details: CachedDetails | None = None


class Pair(msgspec.Struct, gc=False):
    """Cohere's ``tokens`` and ``billed_units``."""

    input_tokens: Number = None
    output_tokens: Number = None
    image_tokens: Number = None
    search_units: Number = None
    classifications: Number = None


class CacheCreation(msgspec.Struct, gc=False):
    """Anthropic's cache writes by their time to live."""

    ephemeral_1h_input_tokens: Number = None


class CacheDetail(msgspec.Struct, gc=False):
    """Bedrock's cache writes of one time to live."""

    inputTokens: Number = None  # noqa: N815
    ttl: Any = None


class ToolCalls(msgspec.Struct, gc=False):
    """Calls of server tools: Anthropic's, xAI's."""

    web_search_requests: Number = None
    web_search_calls: Number = None
    x_search_calls: Number = None
    file_search_calls: Number = None
    document_search_calls: Number = None


class Iteration(msgspec.Struct, gc=False):
    """One of Anthropic's ``iterations``: a sampling step of one answer."""

    type: str | None = None
    model: Any = None
    input_tokens: Number = None
    output_tokens: Number = None
    cache_creation_input_tokens: Number = None
    cache_read_input_tokens: Number = None
    cache_creation: CacheCreation | None = None


class Stated(msgspec.Struct):
    """A ``usage`` (or Cohere ``meta``) object."""

    prompt_tokens: Number = None
    completion_tokens: Number = None
    total_tokens: Number = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    # OpenAI Responses, images and transcriptions; Anthropic
    input_tokens: Number = None
    output_tokens: Number = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None
    # Realtime, transcriptions
    input_token_details: Details | None = None
    output_token_details: Details | None = None
    cache_creation_input_tokens: Number = None
    cache_read_input_tokens: Number = None
    iterations: list[Iteration] | None = None
    # DeepSeek, Moonshot, Cohere
    prompt_cache_hit_tokens: Number = None
    cached_tokens: Number = None
    reasoning_tokens: Number = None
    tokens: Pair | int | float | None = None
    billed_units: Pair | None = None
    # Bedrock Converse and Nova
    inputTokens: Number = None  # noqa: N815
    outputTokens: Number = None  # noqa: N815
    totalTokens: Number = None  # noqa: N815
    cacheReadInputTokens: Number = None  # noqa: N815
    cacheReadInputTokenCount: Number = None  # noqa: N815
    cacheWriteInputTokens: Number = None  # noqa: N815
    cacheWriteInputTokenCount: Number = None  # noqa: N815
    cacheDetails: list[CacheDetail] | None = None  # noqa: N815
    # Gemini's Interactions
    total_input_tokens: Number = None
    total_output_tokens: Number = None
    total_thought_tokens: Number = None
    total_tool_use_tokens: Number = None
    total_cached_tokens: Number = None
    input_tokens_by_modality: Raw = ABSENT
    output_tokens_by_modality: Raw = ABSENT
    cached_tokens_by_modality: Raw = ABSENT
    grounding_tool_count: Raw = ABSENT
    # The price: OpenRouter and Perplexity; xAI; DeepInfra
    cost: Any = None
    cost_in_usd_ticks: Number = None
    estimated_cost: Number = None
    # Anthropic
    service_tier: Any = None
    speed: Any = None
    cache_creation: CacheCreation | None = None
    server_tool_use: ToolCalls | None = None
    # Perplexity, xAI
    num_search_queries: Number = None
    num_sources_used: Number = None
    server_side_tool_usage_details: ToolCalls | None = None
    # Transcriptions: OpenAI, Mistral
    type: Any = None
    seconds: Any = None
    prompt_audio_seconds: Any = None


class Modality(msgspec.Struct, gc=False):
    """Gemini's tokens of one modality, in both APIs."""

    modality: Any = None
    tokenCount: Number = None  # noqa: N815
    tokens: Number = None


class Metadata(msgspec.Struct, gc=False, rename="camel"):
    """Gemini's ``usageMetadata``."""

    prompt_token_count: Number = None
    candidates_token_count: Number = None
    total_token_count: Number = None
    thoughts_token_count: Number = None
    tool_use_prompt_token_count: Number = None
    cached_content_token_count: Number = None
    # Gemini Live's name for candidatesTokenCount
    response_token_count: Number = None
    prompt_tokens_details: Raw = ABSENT
    candidates_tokens_details: Raw = ABSENT
    response_tokens_details: Raw = ABSENT
    cache_tokens_details: Raw = ABSENT
    tool_use_prompt_tokens_details: Raw = ABSENT
    traffic_type: Any = None
    service_tier: Any = None


class Invocation(msgspec.Struct, gc=False, rename="camel"):
    """Bedrock's ``amazon-bedrock-invocationMetrics``, last chunk of a stream."""

    input_token_count: Number = None
    output_token_count: Number = None
    cache_read_input_token_count: Number = None
    cache_write_input_token_count: Number = None


class TitanResult(msgspec.Struct, gc=False):
    """One of Titan's ``results`` (and of watsonx')."""

    tokenCount: Number = None  # noqa: N815
    input_token_count: Number = None
    generated_token_count: Number = None


class TgiSequence(msgspec.Struct, gc=False):
    """Another answer of TGI's ``best_of``."""

    generated_tokens: Number = None


class TgiDetails(msgspec.Struct):
    """TGI's ``details``."""

    generated_tokens: Number = None
    input_length: Number = None
    prefill: list[Raw] | None = None
    best_of_sequences: list[TgiSequence] | None = None


class SglangInfo(msgspec.Struct, gc=False):
    """SGLang's ``meta_info``; ``id`` tells the answers of a stream apart."""

    id: Any = None
    prompt_tokens: Number = None
    completion_tokens: Number = None
    cached_tokens: Number = None


class Holder(msgspec.Struct):
    """An object one level down that carries usage."""

    usage: Stated | None = None
    meta: Stated | None = None
    model: Any = None
    service_tier: Any = None
    output: Raw = ABSENT
    tool_usage: Raw = ABSENT
    tools: Raw = ABSENT


class UsageEnvelope(msgspec.Struct):
    """The top level of an answer, or of one event of a stream."""

    usage: Stated | None = None
    model: Any = None
    service_tier: Any = None
    usage_metadata: Metadata | None = msgspec.field(name="usageMetadata", default=None)
    # Groq's extra object; Anthropic's message_start; Responses, Cohere v1; Cohere v2.
    # In other dialects, members of these names are plain text.
    x_groq: Holder | None = None
    message: Holder | str | None = None
    response: Holder | str | None = None
    delta: Holder | str | None = None
    meta: Stated | None = None
    # Gemini: the model, searches; Interactions' last event
    model_version: Any = msgspec.field(name="modelVersion", default=None)
    candidates: Raw = ABSENT
    interaction: Holder | str | None = None
    # Responses: the items of an answer, its tools and the tokens of that for pictures;
    # Interactions' items
    output: Raw = ABSENT
    steps: Raw = ABSENT
    tool_usage: Raw = ABSENT
    tools: Raw = ABSENT
    # Bedrock Converse
    converse_tier: Any = msgspec.field(name="serviceTier", default=None)
    # Ollama
    prompt_eval_count: Number = None
    eval_count: Number = None
    # Bedrock invoke: metrics of streams; Llama; Titan
    metrics: Invocation | None = msgspec.field(
        name="amazon-bedrock-invocationMetrics", default=None
    )
    prompt_token_count: Number = None
    generation_token_count: Number = None
    input_text_token_count: Number = msgspec.field(
        name="inputTextTokenCount", default=None
    )
    results: list[TitanResult] | None = None
    # Native servers: llama.cpp, TGI, SGLang
    tokens_evaluated: Number = None
    tokens_predicted: Number = None
    details: Raw = ABSENT
    meta_info: Raw = ABSENT


class Simple(msgspec.Struct):
    """The part of ``UsageEnvelope`` that most JSON answers need: twice as fast."""

    usage: Stated | None = None
    model: Any = None
    service_tier: Any = None
    converse_tier: Any = msgspec.field(name="serviceTier", default=None)
    output: Raw = ABSENT
    steps: Raw = ABSENT
    tool_usage: Raw = ABSENT
    tools: Raw = ABSENT


decode_tgi = msgspec.json.Decoder(TgiDetails).decode
decode_sglang = msgspec.json.Decoder(SglangInfo).decode
decode_simple = msgspec.json.Decoder(Simple).decode
decode_envelope = msgspec.json.Decoder(UsageEnvelope).decode
decode_envelopes = msgspec.json.Decoder(list[UsageEnvelope]).decode


def whole(value: Any) -> int | None:
    """A count as a whole number; None for any other value.

    Cohere writes ``7.0``; translating gateways may write strings.
    """
    if value is None:
        return None
    if type(value) is int:
        return min(max(value, 0), MAX_COUNT)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, float) and 0 <= value < inf:
        return int(min(value, MAX_COUNT))
    return None


def figure(value: Any) -> int | None:
    """``whole`` for the counts that make up a usage: a number that cannot be a count
    (negative, infinite) is MAX_COUNT, which makes the usage implausible.
    """
    if value is None:
        return None
    if type(value) is int:
        return value if 0 <= value < MAX_COUNT else MAX_COUNT
    if isinstance(value, int | float) and not 0 <= value < MAX_COUNT:
        return MAX_COUNT
    return whole(value)


def plain_usage(stated: Stated) -> Usage | None:
    """Usage of the most frequent shape (three plain counts); None for any other."""
    prompt, completion, total = (
        stated.prompt_tokens,
        stated.completion_tokens,
        stated.total_tokens,
    )
    if (
        type(prompt) is not int
        or type(completion) is not int
        or type(total) is not int
        or total != prompt + completion
        or stated.prompt_tokens_details is not None
        or stated.completion_tokens_details is not None
        or stated.prompt_cache_hit_tokens is not None
        or stated.cached_tokens is not None
        or stated.cache_read_input_tokens is not None
        or stated.reasoning_tokens is not None
        or stated.cost is not None
        or stated.cost_in_usd_ticks is not None
        or stated.estimated_cost is not None
        or stated.num_search_queries is not None
        or stated.num_sources_used is not None
        or stated.prompt_audio_seconds is not None
        or prompt < 0
        or completion < 0
        or total >= MAX_COUNT
    ):
        return None
    return Usage(prompt, completion, total, source="upstream")
