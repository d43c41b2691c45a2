"""What answers state beside their token counts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import UNITS, RequestFacts, Usage
from gateway.metering.dialects import CountTask, find_endpoint
from gateway.metering.dialects.billed import MODEL_CHARS, Billed, bounded_units, dollars
from gateway.metering.usage import estimate_usage

SSE = b"text/event-stream"
JSON = b"application/json"
PLAIN = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def read(path, *pieces, content_type=JSON, model="asked", complete=True):
    """The usage, or the counting task, that the meter of ``path`` returns."""
    match = find_endpoint("POST", path)
    facts = RequestFacts(match.endpoint, model, stream=content_type == SSE)
    meter = match.dialect.open_meter(match, facts, 200, {}.get, content_type)
    for piece in pieces:
        meter.feed(piece if isinstance(piece, bytes) else json.dumps(piece).encode())
    return meter.finish(complete) or meter.unstated()


def event(value):
    """One server-sent event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
GEMINI = "/v1beta/models/asked:generateContent"
GEMINI_STREAM = "/v1beta/models/asked:streamGenerateContent"
DETAILED = {**PLAIN, "prompt_tokens_details": {"cached_tokens": 1}}
META = {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12}
ANSWERED = {"id": "r", "model": "m-1", "service_tier": "flex", "usage": PLAIN}

NAMES = {
    "chat": (CHAT, [ANSWERED], "m-1", "flex"),
    "chat, detailed": (CHAT, [{**ANSWERED, "usage": DETAILED}], "m-1", "flex"),
    "azure deployment": (
        "/openai/deployments/mine/chat/completions",
        [{"model": "gpt-5", "usage": PLAIN}],
        "gpt-5",
        "",
    ),
    "messages": (
        MESSAGES,
        [
            {
                "model": "claude-x",
                "usage": {
                    "input_tokens": 1,
                    "output_tokens": 2,
                    "service_tier": "Priority",
                },
            }
        ],
        "claude-x",
        "priority",
    ),
    "messages, fast": (
        MESSAGES,
        [
            {
                "model": "claude-x",
                "usage": {"input_tokens": 1, "output_tokens": 2, "speed": "fast"},
            }
        ],
        "claude-x",
        "fast",
    ),
    "gemini": (
        GEMINI,
        [
            {
                "modelVersion": "gemini-x",
                "usageMetadata": {**META, "trafficType": "PROVISIONED_THROUGHPUT"},
            }
        ],
        "gemini-x",
        "provisioned_throughput",
    ),
    "gemini tier": (
        GEMINI,
        [{"usageMetadata": {**META, "serviceTier": "flex"}}],
        "",
        "flex",
    ),
    "converse": (
        "/model/asked/converse",
        [
            {
                "usage": {"inputTokens": 1, "outputTokens": 2},
                "serviceTier": {"type": "priority"},
            }
        ],
        "",
        "priority",
    ),
    "responses": (
        RESPONSES,
        [
            {
                "model": "m-2",
                "service_tier": "priority",
                "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
            }
        ],
        "m-2",
        "priority",
    ),
    "converse without usage": (
        "/model/asked/converse",
        [{"metrics": {}, "serviceTier": {"type": "flex"}}],
        "",
        "flex",
    ),
    "not text": (CHAT, [{"model": 7, "service_tier": [], "usage": PLAIN}], "", ""),
    "not text, detailed": (
        CHAT,
        [{"model": {}, "service_tier": 1, "usage": DETAILED}],
        "",
        "",
    ),
    "null": (CHAT, [{"model": None, "service_tier": None, "usage": PLAIN}], "", ""),
}


@pytest.mark.parametrize(("path", "pieces", "model", "tier"), NAMES.values(), ids=NAMES)
def test_names(path, pieces, model, tier):
    """The answer's model and service tier are read in every provider's shape."""
    usage = read(path, *pieces)
    if isinstance(usage, CountTask):
        usage = estimate_usage(usage)
    assert (usage.model, usage.tier) == (model, tier)


STREAMS = {
    "chat": (
        CHAT,
        [
            {"model": "m", "choices": [{"delta": {"content": "x"}}]},
            {"model": "m", "choices": [], "usage": PLAIN, "service_tier": "default"},
        ],
        "m",
        "default",
    ),
    "messages": (
        MESSAGES,
        [
            {
                "type": "message_start",
                "message": {
                    "model": "claude",
                    "usage": {"input_tokens": 1, "service_tier": "standard"},
                },
            },
            {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 2}},
        ],
        "claude",
        "standard",
    ),
    "responses": (
        RESPONSES,
        [
            {"type": "response.created", "response": {"model": "m", "usage": None}},
            {
                "type": "response.completed",
                "response": {
                    "model": "m-dated",
                    "service_tier": "flex",
                    "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
                },
            },
        ],
        "m-dated",
        "flex",
    ),
    "interactions": (
        GEMINI_STREAM,
        [
            {
                "event_type": "interaction.completed",
                "interaction": {
                    "model": "gemini-3.5-flash",
                    "service_tier": "standard",
                    "usage": {
                        "total_tokens": 346,
                        "total_input_tokens": 11,
                        "total_output_tokens": 90,
                        "total_thought_tokens": 245,
                    },
                },
            }
        ],
        "gemini-3.5-flash",
        "standard",
    ),
    "gemini": (
        GEMINI_STREAM,
        [{"usageMetadata": META, "modelVersion": "gemini-x"}],
        "gemini-x",
        "",
    ),
}


@pytest.mark.parametrize(
    ("path", "events", "model", "tier"), STREAMS.values(), ids=STREAMS
)
def test_names_in_streams(path, events, model, tier):
    """A stream's model and tier are read beside its usage."""
    usage = read(path, *map(event, events), content_type=SSE)
    assert (usage.model, usage.tier) == (model, tier)


def test_names_are_bounded():
    """A name has a largest length, on the fast path too."""
    for usage in (PLAIN, DETAILED):
        found = read(
            CHAT, {"model": "m" * 999, "service_tier": "t" * 999, "usage": usage}
        )
        assert len(found.model) == MODEL_CHARS
        assert len(found.tier) < MODEL_CHARS


def test_names_of_answers_without_usage():
    """What is counted from the text keeps the answer's model."""
    chunk = {
        "model": "m-1",
        "service_tier": "flex",
        "choices": [{"delta": {"content": "x"}}],
    }
    for task in (
        read(CHAT, {"model": "m-1", "service_tier": "flex", "choices": []}),
        read(CHAT, event(chunk), event(chunk), content_type=SSE),
    ):
        assert isinstance(task, CountTask)
        usage = estimate_usage(task)
        assert (usage.model, usage.tier, usage.source) == ("m-1", "flex", "estimated")


def test_streams_that_name_nothing():
    """A stream without names, or without anything, is counted all the same."""
    for pieces in ([], [b": ping\n\n"], [b"data: [DONE]\n\n"]):
        task = read(CHAT, *pieces, content_type=SSE)
        assert isinstance(task, CountTask)
        assert estimate_usage(task).model == ""


COSTS = {
    "openrouter": ({**DETAILED, "cost": 0.00014}, 0.00014),
    "plain": ({**PLAIN, "cost": 0.25}, 0.25),
    "text": ({**PLAIN, "cost": "0.5"}, 0.5),
    "perplexity": (
        {**PLAIN, "cost": {"total_cost": 0.006, "request_cost": 0.005}},
        0.006,
    ),
    "xai": ({**DETAILED, "cost_in_usd_ticks": 37_756_000}, 0.0037756),
    "xai, plain": ({**PLAIN, "cost_in_usd_ticks": 10_000_000_000}, 1.0),
    "deepinfra": ({**PLAIN, "estimated_cost": 2.5e-05}, 2.5e-05),
    "none": (PLAIN, None),
    "negative": ({**PLAIN, "cost": -1}, None),
    "absurd": ({**PLAIN, "cost": 1e300}, None),
    "not a number": ({**PLAIN, "cost": "x"}, None),
    "a flag": ({**PLAIN, "cost": True}, None),
    "a list": ({**PLAIN, "cost": []}, None),
    "nan": ({**PLAIN, "cost": "nan"}, None),
}


@pytest.mark.parametrize(("stated", "cost"), COSTS.values(), ids=COSTS)
def test_costs(stated, cost):
    """The price that a router states, in dollars."""
    assert read(CHAT, {"usage": stated}).cost_usd == cost


def test_huge_numbers_are_no_price():
    """A number beyond floating point is none."""
    assert dollars(10**400) is None


UNIT_CASES = {
    "chat audio": (
        CHAT,
        {
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "prompt_tokens_details": {"audio_tokens": 80, "cached_tokens": 0},
                "completion_tokens_details": {"audio_tokens": 40},
            }
        },
        {"input_audio_tokens": 80, "output_audio_tokens": 40},
    ),
    "transcription": (
        "/v1/audio/transcriptions",
        {
            "text": "x",
            "usage": {
                "type": "tokens",
                "input_tokens": 14,
                "output_tokens": 101,
                "total_tokens": 115,
                "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
            },
        },
        {"input_audio_tokens": 14},
    ),
    "images": (
        "/v1/images/generations",
        {
            "usage": {
                "input_tokens": 50,
                "output_tokens": 50,
                "total_tokens": 100,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
                "output_tokens_details": {"image_tokens": 50},
            }
        },
        {"input_image_tokens": 40, "output_image_tokens": 50},
    ),
    "openrouter video": (
        CHAT,
        {
            "usage": {
                "prompt_tokens": 90,
                "completion_tokens": 1,
                "prompt_tokens_details": {"video_tokens": 70},
            }
        },
        {"input_video_tokens": 70},
    ),
    "cached audio": (
        RESPONSES,
        {
            "usage": {
                "input_tokens": 100,
                "output_tokens": 20,
                "total_tokens": 120,
                "input_token_details": {
                    "audio_tokens": 60,
                    "cached_tokens": 50,
                    "cached_tokens_details": {"audio_tokens": 30, "image_tokens": 5},
                },
                "output_token_details": {"audio_tokens": 15, "text_tokens": 5},
            }
        },
        {
            "input_audio_tokens": 60,
            "cache_audio_read_tokens": 30,
            "cache_image_read_tokens": 5,
            "output_audio_tokens": 15,
        },
    ),
    "gemini": (
        GEMINI,
        {
            "modelVersion": "gemini-2.5-flash",
            "usageMetadata": {
                "promptTokenCount": 100,
                "candidatesTokenCount": 60,
                "toolUsePromptTokenCount": 10,
                "totalTokenCount": 170,
                "cachedContentTokenCount": 30,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 20},
                    {"modality": "AUDIO", "tokenCount": 50},
                    {"modality": "VIDEO", "tokenCount": 20},
                    {"modality": "IMAGE", "tokenCount": 10},
                    {"modality": 7, "tokenCount": 10},
                ],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 30}],
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 60}],
                "toolUsePromptTokensDetails": [{"modality": "IMAGE", "tokenCount": 10}],
            },
        },
        {
            "input_audio_tokens": 50,
            "input_video_tokens": 20,
            "input_image_tokens": 20,
            "cache_audio_read_tokens": 30,
            "output_image_tokens": 60,
        },
    ),
    "gemini live": (
        GEMINI,
        {
            "usageMetadata": {
                "promptTokenCount": 1,
                "responseTokenCount": 9,
                "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 9}],
            }
        },
        {"output_audio_tokens": 9},
    ),
    "gemini, unreadable details": (
        GEMINI,
        {"usageMetadata": {**META, "promptTokensDetails": {"AUDIO": 3}}},
        {},
    ),
    "interactions": (
        GEMINI,
        {
            "model": "gemini-3.5-flash",
            "usage": {
                "total_input_tokens": 133,
                "total_output_tokens": 1567,
                "total_thought_tokens": 0,
                "total_tokens": 1700,
                "input_tokens_by_modality": [{"modality": "image", "tokens": 100}],
                "output_tokens_by_modality": [{"modality": "image", "tokens": 1120}],
                "cached_tokens_by_modality": [{"modality": "text", "tokens": 0}],
                "grounding_tool_count": [
                    {"type": "google_search", "count": 2},
                    {"type": "retrieval", "count": 5},
                ],
            },
        },
        {"input_image_tokens": 100, "output_image_tokens": 1120, "web_searches": 2},
    ),
    "anthropic": (
        MESSAGES,
        {
            "usage": {
                "input_tokens": 1,
                "output_tokens": 2,
                "cache_creation_input_tokens": 30,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 10,
                    "ephemeral_1h_input_tokens": 20,
                },
                "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 1},
            }
        },
        {"cache_write_1h_tokens": 20, "web_searches": 3},
    ),
    "converse caches": (
        "/model/asked/converse",
        {
            "usage": {
                "inputTokens": 1,
                "outputTokens": 2,
                "cacheWriteInputTokens": 30,
                "cacheDetails": [
                    {"inputTokens": 20, "ttl": "1h"},
                    {"inputTokens": 10, "ttl": "5m"},
                ],
            }
        },
        {"cache_write_1h_tokens": 20},
    ),
    "responses": (
        RESPONSES,
        {
            "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
            "output": [
                {"type": "web_search_call", "action": {"type": "search"}},
                {"type": "web_search_call", "action": {"type": "open_page"}},
                {"type": "web_search_call", "action": None},
                {"type": "file_search_call"},
                {"type": "message", "content": []},
            ],
            "tool_usage": {"web_search": {"num_requests": 1}},
        },
        {"web_searches": 2, "file_searches": 1},
    ),
    "responses, code": (
        RESPONSES,
        {
            "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
            "output": [
                {"type": "code_interpreter_call", "container_id": "cntr_1"},
                {"type": "code_interpreter_call", "container_id": "cntr_1"},
                {"type": "code_interpreter_call", "container_id": "cntr_2"},
            ],
        },
        {"code_sessions": 2},
    ),
    "responses, counted by the tool": (
        RESPONSES,
        {
            "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
            "output": {"text": "of another API"},
            "tool_usage": {"web_search": {"num_requests": 4}},
        },
        {"web_searches": 4},
    ),
    "responses, unreadable": (
        RESPONSES,
        {
            "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
            "output": {"web_search_call": 1},
            "tool_usage": {"web_search": {}, "image_gen": None},
        },
        {},
    ),
    "search preview": (
        CHAT,
        {"model": "gpt-4o-search-preview-2025-03-11", "usage": PLAIN},
        {"web_searches": 1},
    ),
    "search api, detailed": (
        CHAT,
        {"model": "gpt-5-search-api", "usage": DETAILED},
        {"web_searches": 1},
    ),
    "searches once": (
        CHAT,
        {"model": "x-search-api", "usage": {**PLAIN, "num_search_queries": 4}},
        {"web_searches": 4},
    ),
    "named like it": (CHAT, {"model": "my-search-model", "usage": PLAIN}, {}),
    "grounding before 3": (
        GEMINI,
        {
            "modelVersion": "gemini-2.5-pro",
            "usageMetadata": META,
            "candidates": [{"groundingMetadata": {"webSearchQueries": ["a", "b"]}}],
        },
        {"web_searches": 1},
    ),
    "maps and images": (
        GEMINI,
        {
            "modelVersion": "gemini-3-pro",
            "usageMetadata": META,
            "candidates": [
                {
                    "groundingMetadata": {
                        "imageSearchQueries": ["a"],
                        "groundingChunks": [{"maps": {"uri": "x"}}, {"web": {}}],
                    }
                }
            ],
        },
        {"web_searches": 2},
    ),
    "grounding": (
        GEMINI,
        {
            "modelVersion": "gemini-3-pro",
            "usageMetadata": META,
            "candidates": [
                {"groundingMetadata": {"webSearchQueries": ["a", "b"]}},
                {"content": {}},
            ],
        },
        {"web_searches": 2},
    ),
    "perplexity": (
        CHAT,
        {
            "model": "sonar-deep-research",
            "usage": {**PLAIN, "num_search_queries": 7},
        },
        {"web_searches": 7},
    ),
    "perplexity, by request": (
        CHAT,
        {"model": "sonar-pro", "usage": {**PLAIN, "num_search_queries": 7}},
        {},
    ),
    "xai": (CHAT, {"usage": {**PLAIN, "num_sources_used": 5}}, {"web_searches": 5}),
    "xai tools": (
        RESPONSES,
        {
            "usage": {
                "input_tokens": 1,
                "output_tokens": 2,
                "total_tokens": 3,
                "server_side_tool_usage_details": {
                    "web_search_calls": 2,
                    "x_search_calls": 1,
                    "document_search_calls": 4,
                },
            }
        },
        {"web_searches": 3, "file_searches": 4},
    ),
    "whisper": (
        "/v1/audio/transcriptions",
        {"text": "x", "usage": {"type": "duration", "seconds": 9}},
        {"audio_seconds": 9},
    ),
    "classify": (
        "/v1/classify",
        {"meta": {"billed_units": {"classifications": 3}}},
        {"classifications": 3},
    ),
    "embed": (
        "/v2/embed",
        {"meta": {"billed_units": {"input_tokens": 5, "image_tokens": 70}}},
        {"input_image_tokens": 70},
    ),
    "mistral audio": (
        CHAT,
        {"usage": {**PLAIN, "prompt_audio_seconds": 12}},
        {"audio_seconds": 12},
    ),
    "more parts than the whole": (
        CHAT,
        {
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "prompt_tokens_details": {"audio_tokens": 99, "image_tokens": 99},
                "completion_tokens_details": {"audio_tokens": 99},
            }
        },
        {"input_audio_tokens": 10, "output_audio_tokens": 2},
    ),
}


@pytest.mark.parametrize(
    ("path", "answer", "units"), UNIT_CASES.values(), ids=UNIT_CASES
)
def test_units(path, answer, units):
    """Other units, and parts of the tokens, are read from each provider's shape."""
    usage = read(path, answer)
    assert isinstance(usage, Usage)
    assert dict(usage.units) == units
    assert set(units) <= UNITS


def test_searches_of_a_rerank():
    """Documents are counted in tokens, and billed by search units."""
    task = read(
        "/v2/rerank", {"results": [], "meta": {"billed_units": {"search_units": 2}}}
    )
    assert isinstance(task, CountTask)
    assert dict(estimate_usage(task).units) == {"search_units": 2}


@pytest.mark.parametrize(
    ("documents", "units"), [(["x"] * 101, 2), (["x"], 1), (None, 1)]
)
def test_searches_that_are_not_stated(documents, units):
    """A rerank without a statement counts one search for 100 documents."""
    match = find_endpoint("POST", "/v2/rerank")
    body = {"model": "rerank-v3.5", "query": "x", "documents": documents}
    if documents is None:
        del body["documents"]
    text = json.dumps(body).encode()
    facts = match.dialect.read_request(match, text, "", "application/json")
    meter = match.dialect.open_meter(match, facts, 200, {}.get, JSON)
    meter.feed(b'{"results":[]}')
    assert meter.finish(complete=True) is None
    usage = estimate_usage(meter.unstated())
    assert dict(usage.units) == {"search_units": units}


def test_names_of_a_large_answer():
    """The head and the tail of an answer too large to keep name its model."""
    numbers = b"0.123456789," * 120_000
    for answer in (
        b'{"data":[%b0],"model":"text-embedding-3-small","usage":%b}',
        b'{"model":"text-embedding-3-small","service_tier":"flex","data":[%b0],"usage":%b}',
    ):
        stated = json.dumps({"prompt_tokens": 8, "total_tokens": 8}).encode()
        usage = read("/v1/embeddings", answer % (numbers, stated))
        assert usage.total == 8
        assert usage.model == "text-embedding-3-small"


def test_tools_of_an_answer_without_usage():
    """Searches are kept where the tokens have to be counted."""
    task = read(RESPONSES, {"output": [{"type": "file_search_call"}]})
    assert isinstance(task, CountTask)
    assert dict(estimate_usage(task).units) == {"file_searches": 1}


def test_the_image_tool_is_billed_beside_the_answer():
    """OpenAI states its image tool's tokens outside the usage."""
    usage = read(
        RESPONSES,
        {
            "usage": {"input_tokens": 20, "output_tokens": 3, "total_tokens": 23},
            "tool_usage": {
                "image_gen": {
                    "input_tokens": 7,
                    "input_tokens_details": {"image_tokens": 4},
                    "output_tokens": 9,
                }
            },
        },
    )
    assert (usage.prompt, usage.completion, usage.total) == (27, 12, 39)
    assert usage.units == ()
    (part,) = usage.tools
    assert (part.prompt, part.completion, part.total) == (7, 9, 16)
    assert dict(part.units) == {"input_image_tokens": 4, "output_image_tokens": 9}
    assert part.model == "gpt-image-1"


PICTURE = {"type": "image_generation_call", "status": "completed"}
MADE = {"image_gen": {"input_tokens": 7, "output_tokens": 9}}
TOOL = {"type": "image_generation", "model": "gpt-image-2", "quality": "low"}


@pytest.mark.parametrize(
    ("members", "units", "tokens"),
    [
        # Stated: the pictures among the items are not counted again.
        ({"output": [PICTURE], "tool_usage": MADE}, {"output_image_tokens": 9}, 16),
        (
            {"output": [{**PICTURE, "size": "1024x1024", "quality": "high"}, PICTURE]},
            {"images:1024x1024:high": 1, "images:low": 1},
            0,
        ),
        ({"output": [PICTURE, PICTURE], "tool_usage": {}}, {"images:low": 2}, 0),
        (
            {"output": [PICTURE], "tool_usage": {"image_gen": {"output_tokens": 0}}},
            {"images:low": 1},
            0,
        ),
        ({"output": [PICTURE], "tool_usage": [1]}, {"images:low": 1}, 0),
    ],
)
def test_pictures_cost_as_their_model(members, units, tokens):
    """By tokens where the answer states them, else by size and quality."""
    stated = {"input_tokens": 20, "output_tokens": 3, "total_tokens": 23}
    answer = {"model": "m", "usage": stated, "tools": [{"type": "x"}, TOOL], **members}
    wrapped = event({"type": "response.completed", "response": answer})
    for usage in (
        read(RESPONSES, answer),
        read(RESPONSES, wrapped, content_type=SSE),
        read(RESPONSES, {**answer, "extra": 1, "model": ["m"]}),
    ):
        assert usage.total == 23 + tokens
        (part,) = usage.tools
        assert (part.model, dict(part.units), part.total) == (
            "gpt-image-2",
            units,
            tokens,
        )


@pytest.mark.parametrize("tools", [[], {"no": "list"}, [{"type": "image_generation"}]])
def test_pictures_of_the_model_that_was_asked_for(tools):
    """Where the answer does not repeat its tools."""
    match = find_endpoint("POST", RESPONSES)
    stated = {"input_tokens": 20, "output_tokens": 3, "total_tokens": 23}
    failed = {**PICTURE, "status": "failed"}
    answer = {"usage": stated, "output": [PICTURE, failed], "tools": tools}
    for asked, model in (((), "gpt-image-1"), (("mine",), "mine")):
        facts = RequestFacts(match.endpoint, "m", tools=asked)
        for members in (answer, {"output": [PICTURE], "tools": tools}):
            meter = match.dialect.open_meter(match, facts, 200, {}.get, JSON)
            meter.feed(json.dumps(members).encode())
            usage = meter.finish(complete=True) or estimate_usage(meter.unstated())
            (part,) = usage.tools
            assert part.model == model
            assert part.units == (("images", 1),)


def test_an_advisor_is_billed_at_its_model():
    """Its steps are a part of the answer's tokens, with a price of their own."""
    steps = [
        {"type": "message", "model": "haiku", "input_tokens": 10, "output_tokens": 2},
        {
            "type": "advisor_message",
            "model": "opus",
            "input_tokens": 100,
            "output_tokens": 50,
            "cache_read_input_tokens": 20,
            "cache_creation_input_tokens": 8,
            "cache_creation": {"ephemeral_1h_input_tokens": 9},
        },
        {"type": "message", "input_tokens": 30, "output_tokens": 4},
    ]
    stated = {"input_tokens": 10, "output_tokens": 6, "iterations": steps}
    usage = read(MESSAGES, {"model": "haiku", "usage": stated})
    assert (usage.prompt, usage.completion, usage.total) == (168, 56, 224)
    (part,) = usage.tools
    assert part == Usage(
        128,
        50,
        178,
        20,
        0,
        8,
        "upstream",
        units=(("cache_write_1h_tokens", 8),),
        model="opus",
    )


def test_image_tool_in_a_stream():
    """The last event of a stream states the tools too."""
    done = {
        "type": "response.completed",
        "response": {
            "output": [{"type": "web_search_call", "action": {"type": "search"}}],
            "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
            "tool_usage": {"image_gen": {"input_tokens": 0, "output_tokens": 0}},
        },
    }
    usage = read(RESPONSES, event(done), content_type=SSE)
    assert usage.total == 2
    assert dict(usage.units) == {"web_searches": 1}


def test_searches_of_a_stream():
    """Gemini states its searches in one chunk, and repeats the usage in each."""
    first = {
        "modelVersion": "gemini-3-pro",
        "usageMetadata": META,
        "candidates": [{"groundingMetadata": {"webSearchQueries": ["a"]}}],
    }
    last = {
        "modelVersion": "gemini-3-pro",
        "usageMetadata": META,
        "candidates": [{"finishReason": "STOP"}],
    }
    usage = read(GEMINI_STREAM, event(first), event(last), content_type=SSE)
    assert dict(usage.units) == {"web_searches": 1}


@given(
    st.dictionaries(
        st.sampled_from(sorted(unit for unit in UNITS if unit.endswith("_tokens"))),
        st.floats(0, 1e9),
    ),
    *[st.integers(0, 10**6)] * 4,
)
def test_parts_never_exceed_the_whole(units, prompt, completion, cached, written):
    """Units in tokens sum up to no more than what they are part of."""
    cached, written = min(cached, prompt), min(written, prompt)
    usage = Usage(prompt, completion, prompt + completion, cached, 0, written)
    found = dict(bounded_units(units, usage))
    assert all(amount > 0 for amount in found.values())
    inputs = sum(n for unit, n in found.items() if unit.startswith("input"))
    outputs = sum(n for unit, n in found.items() if unit.startswith("output"))
    reads = sum(
        n for unit, n in found.items() if unit.startswith("cache_") and "read" in unit
    )
    assert inputs <= prompt
    assert outputs <= completion
    assert reads <= cached
    assert found.get("cache_write_1h_tokens", 0) <= written


def test_quantities():
    """The last quantity counts; what is none changes nothing."""
    billed = Billed()
    billed.note("audio_seconds", 3)
    billed.note("audio_seconds", "4.5")
    billed.note("audio_seconds", "x", None)
    assert dict(billed.onto(Usage()).units) == {"audio_seconds": 4.5}


def test_answers_that_state_no_tokens():
    """An answer of an endpoint without tokens costs none, whatever its body is."""
    for body in (b"", b"[1]", b'{"text":"x"}'):
        usage = read("/v1/audio/transcriptions", body)
        assert (usage.source, usage.total, usage.units) == ("none", 0, ())
