"""One request to each endpoint of the providers, with an answer as the provider gives it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tests.awsevents import encode_message
from tests.unit.metering.test_audio import wav

FORM = "multipart/form-data; boundary=XX"
SSE = "text/event-stream"


class Call(NamedTuple):
    """A request and its answer; ``fields``: header fields of the answer."""

    provider: str
    call: str  # method and path
    body: bytes = b""
    answer: bytes = b"{}"
    kind: str = "application/json"
    fields: str = ""

    @property
    def content_type(self) -> str:
        """Of the request."""
        return FORM if self.body.startswith(b"--XX") else "application/json"


def form(**fields: Any) -> bytes:
    """A form of these fields; ``file`` and ``image`` are uploads."""
    body = b""
    for name, value in fields.items():
        upload = '; filename="a.wav"' if name in ("file", "image") else ""
        head = f'--XX\r\nContent-Disposition: form-data; name="{name}"{upload}\r\n\r\n'
        data = value if isinstance(value, bytes) else str(value).encode()
        body += head.encode() + data + b"\r\n"
    return body + b"--XX--\r\n"


def events(*values: Any) -> bytes:
    """Server-sent events."""
    return b"".join(b"data: " + encode(value) + b"\n\n" for value in values)


def encode(value: Any) -> bytes:
    """A body: bytes as they are, all else as JSON."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def post(
    provider: str,
    path: str,
    body: Any,
    answer: Any,
    kind: str = "application/json",
    fields: str = "",
) -> Call:
    """A POST."""
    return Call(provider, f"POST {path}", encode(body), encode(answer), kind, fields)


def other(provider: str, *calls: str) -> list[Call]:
    """Calls whose bodies say nothing about a cost."""
    return [
        Call(provider, call, b"{}" if call.startswith("POST") else b"", b'{"id":"x"}')
        for call in calls
    ]


HELLO = [{"role": "user", "content": "Hello"}]
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
TOKENS = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}
ANTHROPIC_USAGE = {"input_tokens": 9, "output_tokens": 3}
META = {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12}


def chat(model: str, **more: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": model, "messages": HELLO, **more}


def chatted(model: str, **more: Any) -> dict[str, Any]:
    """The answer to it."""
    message = {"role": "assistant", "content": "Hi"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"model": model, "choices": [choice], "usage": {**USAGE, **more}}


def embedded(model: str) -> dict[str, Any]:
    """An answer with an embedding."""
    return {
        "model": model,
        "data": [{"embedding": [0.1]}],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }


CLAUDE = "claude-sonnet-4-5"
SAID = {"type": "text", "text": "Hi"}
CONTENTS = {"contents": [{"parts": [{"text": "Hello"}]}]}
GEMINI = "gemini-2.5-flash"
CANDIDATES = {
    "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
    "usageMetadata": META,
    "modelVersion": GEMINI,
}
MESSAGE = {
    "model": CLAUDE,
    "type": "message",
    "content": [SAID],
    "usage": ANTHROPIC_USAGE,
}
CONVERSED = {
    "output": {"message": {"content": [{"text": "Hi"}]}},
    "usage": {"inputTokens": 9, "outputTokens": 3, "totalTokens": 12},
}
CONVERSE = {"messages": [{"role": "user", "content": [{"text": "Hello"}]}]}
IMAGE = {"model": "dall-e-3", "prompt": "a cat", "size": "1024x1792", "quality": "hd"}
GPT = "gpt-4.1"
NOVA = "amazon.nova-lite-v1:0"
BATCH = {
    "requests": [
        {"custom_id": "1", "params": {**chat(CLAUDE), "max_tokens": 100}},
        {"custom_id": "2", "params": {**chat(CLAUDE), "max_tokens": 100}},
    ]
}

OPENAI = [
    post("OpenAI", "/v1/chat/completions", chat(GPT), chatted(GPT)),
    post(
        "OpenAI",
        "/v1/completions",
        {"model": "gpt-3.5-turbo-instruct", "prompt": "x"},
        {"model": "gpt-3.5-turbo-instruct", "choices": [{"text": "y"}], "usage": USAGE},
    ),
    post(
        "OpenAI",
        "/v1/responses",
        {"model": GPT, "input": "Hello"},
        {
            "model": GPT,
            "output": [{"type": "web_search_call", "action": {"type": "search"}}],
            "usage": TOKENS,
        },
    ),
    post(
        "OpenAI",
        "/v1/responses/compact",
        {"model": GPT, "input": "Hello"},
        {"model": GPT, "output": [], "usage": TOKENS},
    ),
    post(
        "OpenAI",
        "/v1/responses/input_tokens",
        {"model": GPT, "input": "Hello"},
        {"object": "response.input_tokens", "input_tokens": 9},
    ),
    post(
        "OpenAI",
        "/v1/embeddings",
        {"model": "text-embedding-3-small", "input": "Hello"},
        embedded("text-embedding-3-small"),
    ),
    post("OpenAI", "/v1/images/generations", IMAGE, {"data": [{"url": "https://x"}]}),
    post(
        "OpenAI",
        "/v1/images/edits",
        form(model="gpt-image-1", prompt="x", image=b"png"),
        {
            "data": [{"b64_json": "x"}],
            "usage": {**TOKENS, "input_tokens_details": {"image_tokens": 5}},
        },
    ),
    post(
        "OpenAI",
        "/v1/images/variations",
        form(model="dall-e-2", n=2, image=b"png"),
        {"data": [{"url": "x"}, {"url": "y"}]},
    ),
    post(
        "OpenAI",
        "/v1/audio/speech",
        {"model": "tts-1", "input": "Hello", "voice": "alloy"},
        b"ID3\4",
        "audio/mpeg",
    ),
    post(
        "OpenAI",
        "/v1/audio/transcriptions",
        form(model="whisper-1", file=wav(3)),
        {"text": "Hi", "usage": {"type": "duration", "seconds": 3}},
    ),
    post(
        "OpenAI",
        "/v1/audio/translations",
        form(model="whisper-1", file=wav(3)),
        {"text": "Hi"},
    ),
    post(
        "OpenAI",
        "/v1/moderations",
        {"model": "omni-moderation-latest", "input": "Hello"},
        {"results": [{"flagged": False}]},
    ),
    post(
        "OpenAI",
        "/v1/videos",
        {"model": "sora-2", "prompt": "x", "seconds": "8"},
        {"id": "video_1", "status": "queued", "seconds": "8", "size": "720x1280"},
    ),
    post(
        "OpenAI",
        "/v1/videos/video_1/remix",
        {"prompt": "x"},
        {"id": "video_2", "model": "sora-2", "status": "queued", "seconds": "8"},
    ),
    post(
        "OpenAI",
        "/v1/threads/thread_1/runs",
        {"assistant_id": "asst_1", "model": GPT},
        {"id": "run_1", "status": "queued", "model": GPT, "usage": None},
    ),
    post(
        "OpenAI",
        "/v1/batches",
        {"input_file_id": "file-1", "endpoint": "/v1/x"},
        {"id": "batch_1", "status": "validating"},
    ),
    post(
        "OpenAI",
        "/v1/fine_tuning/jobs",
        {"model": GPT, "training_file": "file-1"},
        {"id": "ftjob-1", "status": "queued"},
    ),
    *other(
        "OpenAI",
        "GET /v1/models",
        "GET /v1/models/gpt-4.1",
        "GET /v1/responses/resp_1",
        "POST /v1/responses/resp_1/cancel",
        "DELETE /v1/responses/resp_1",
        "GET /v1/chat/completions",
        "DELETE /v1/models/ft:x",
        "GET /v1/files",
        "POST /v1/files",
        "GET /v1/files/file-1/content",
        "DELETE /v1/files/file-1",
        "POST /v1/uploads",
        "GET /v1/batches/batch_1",
        "POST /v1/assistants",
        "POST /v1/threads",
        "POST /v1/threads/thread_1/messages",
        "POST /v1/vector_stores",
        "POST /v1/vector_stores/vs_1/search",
        "POST /v1/containers",
        "POST /v1/evals",
        "POST /v1/conversations",
        "GET /v1/videos/video_1/content",
        "POST /v1/realtime/client_secrets",
        "POST /v1/realtime/sessions",
        "POST /v1/realtime/calls",
        "GET /v1/organization/costs",
        "POST /v1/organization/admin_api_keys",
    ),
]

AZURE = [
    post(
        "Azure",
        "/openai/deployments/mine/chat/completions",
        {"messages": HELLO},
        chatted("gpt-4.1-2025-04-14"),
    ),
    post(
        "Azure",
        "/openai/v1/chat/completions",
        chat("mine"),
        chatted("gpt-4.1-2025-04-14"),
    ),
    post(
        "Azure",
        "/openai/v1/responses",
        {"model": "mine", "input": "x"},
        {"model": GPT, "output": [], "usage": TOKENS},
    ),
    post(
        "Azure",
        "/openai/deployments/mine/embeddings",
        {"input": "x"},
        embedded("text-embedding-3-small"),
    ),
    post(
        "Azure",
        "/openai/deployments/dall-e-3/images/generations",
        {"prompt": "x"},
        {"data": [{"url": "x"}]},
    ),
    post(
        "Azure",
        "/openai/deployments/whisper-1/audio/transcriptions",
        form(file=wav(3)),
        {"text": "Hi"},
    ),
    post(
        "Azure",
        "/openai/deployments/tts-1/audio/speech",
        {"input": "Hello"},
        b"ID3\4",
        "audio/mpeg",
    ),
    post("Azure", "/openai/batches", {"input_file_id": "file-1"}, {"id": "batch_1"}),
    *other("Azure", "GET /openai/v1/models", "GET /openai/files", "POST /openai/files"),
]

ANTHROPIC = [
    post(
        "Anthropic",
        "/v1/messages",
        {**chat(CLAUDE), "max_tokens": 10},
        {
            **MESSAGE,
            "usage": {**ANTHROPIC_USAGE, "server_tool_use": {"web_search_requests": 1}},
        },
    ),
    post("Anthropic", "/v1/messages/count_tokens", chat(CLAUDE), {"input_tokens": 9}),
    post(
        "Anthropic",
        "/v1/messages/batches",
        BATCH,
        {"id": "msgbatch_1", "processing_status": "in_progress"},
    ),
    post(
        "Anthropic",
        "/v1/complete",
        {"model": "claude-2.1", "prompt": "Hello", "max_tokens_to_sample": 10},
        {"model": "claude-2.1", "completion": "Hi"},
    ),
    *other(
        "Anthropic",
        "GET /v1/messages/batches",
        "GET /v1/messages/batches/msgbatch_1",
        "GET /v1/messages/batches/msgbatch_1/results",
        "POST /v1/skills",
        "GET /v1/organizations/usage_report/messages",
    ),
]

GOOGLE = [
    post("Gemini", f"/v1beta/models/{GEMINI}:generateContent", CONTENTS, CANDIDATES),
    post(
        "Gemini",
        f"/v1beta/models/{GEMINI}:streamGenerateContent?alt=sse",
        CONTENTS,
        events(CANDIDATES),
        SSE,
    ),
    post(
        "Gemini",
        "/v1beta/models/gemini-embedding-001:embedContent",
        {"content": {"parts": [{"text": "Hello"}]}},
        {"embedding": {"values": [0.1]}},
    ),
    post(
        "Gemini",
        "/v1beta/models/gemini-embedding-001:batchEmbedContents",
        {"requests": [{"content": {"parts": [{"text": "Hello"}]}}]},
        {"embeddings": []},
    ),
    post(
        "Gemini", f"/v1beta/models/{GEMINI}:countTokens", CONTENTS, {"totalTokens": 9}
    ),
    post(
        "Gemini",
        "/v1beta/interactions",
        {"model": GEMINI, "input": "Hello"},
        {
            "model": GEMINI,
            "steps": [],
            "usage": {
                "total_input_tokens": 9,
                "total_output_tokens": 3,
                "total_tokens": 12,
            },
        },
    ),
    post(
        "Gemini",
        "/v1beta/models/imagen-4.0-generate-001:predict",
        {"instances": [{"prompt": "x"}], "parameters": {"sampleCount": 2}},
        {"predictions": [{"bytesBase64Encoded": "x"}] * 2},
    ),
    post(
        "Gemini",
        "/v1beta/models/veo-3.0-generate-001:predictLongRunning",
        {"instances": [{"prompt": "x"}], "parameters": {"durationSeconds": 8}},
        {"name": "operations/1"},
    ),
    post(
        "Gemini",
        f"/v1beta/models/{GEMINI}:batchGenerateContent",
        {"batch": {"inputConfig": {"requests": {"requests": [{"request": CONTENTS}]}}}},
        {"name": "batches/1"},
    ),
    post("Gemini", "/v1beta/openai/chat/completions", chat(GEMINI), chatted(GEMINI)),
    *other(
        "Gemini",
        "GET /v1beta/models",
        "POST /v1beta/cachedContents",
        "POST /upload/v1beta/files",
        "GET /v1beta/files",
        "POST /v1beta/corpora",
        "GET /v1beta/batches/1",
    ),
]
_PROJECT = "/v1/projects/p/locations/l"
VERTEX = [
    post(
        "Vertex",
        f"{_PROJECT}/publishers/google/models/{GEMINI}:generateContent",
        CONTENTS,
        {**CANDIDATES, "usageMetadata": {**META, "trafficType": "ON_DEMAND"}},
    ),
    post(
        "Vertex",
        f"{_PROJECT}/publishers/google/models/{GEMINI}:streamGenerateContent",
        CONTENTS,
        [CANDIDATES],
    ),
    post(
        "Vertex",
        f"{_PROJECT}/publishers/google/models/gemini-embedding-001:predict",
        {"instances": [{"content": "Hello"}]},
        {"predictions": [{"embeddings": {"statistics": {"token_count": 9}}}]},
    ),
    post(
        "Vertex",
        f"{_PROJECT}/publishers/google/models/imagen-4.0-generate-001:predict",
        {"instances": [{"prompt": "x"}]},
        {"predictions": [{}]},
    ),
    post(
        "Vertex",
        f"{_PROJECT}/publishers/google/models/veo-3.0-generate-001:predictLongRunning",
        {"instances": [{"prompt": "x"}]},
        {"name": "operations/1"},
    ),
    post(
        "Vertex",
        f"{_PROJECT}/publishers/anthropic/models/{CLAUDE}@20250929:rawPredict",
        {"messages": HELLO, "max_tokens": 10},
        MESSAGE,
    ),
    post(
        "Vertex",
        f"{_PROJECT}/publishers/anthropic/models/{CLAUDE}@20250929:streamRawPredict",
        {"messages": HELLO, "max_tokens": 10, "stream": True},
        events(
            {"type": "message_start", "message": {**MESSAGE, "content": []}},
            {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 3}},
            {"type": "message_stop"},
        ),
        SSE,
    ),
    post(
        "Vertex",
        f"{_PROJECT}/publishers/mistralai/models/mistral-large-2411:rawPredict",
        chat("mistral-large-2411"),
        chatted("mistral-large-2411"),
    ),
    post(
        "Vertex",
        f"{_PROJECT}/endpoints/openapi/chat/completions",
        chat(f"google/{GEMINI}"),
        chatted(f"google/{GEMINI}"),
    ),
    post(
        "Vertex",
        f"{_PROJECT}/publishers/google/models/{GEMINI}:countTokens",
        CONTENTS,
        {"totalTokens": 9},
    ),
    *other(
        "Vertex",
        f"POST {_PROJECT}/batchPredictionJobs",
        f"POST {_PROJECT}/cachedContents",
        f"POST {_PROJECT}/tuningJobs",
    ),
]

OLLAMA_COUNTS = {
    "model": "llama3.2",
    "done": True,
    "prompt_eval_count": 9,
    "eval_count": 3,
}
OLLAMA = [
    post(
        "Ollama",
        "/api/chat",
        {"model": "llama3.2", "messages": HELLO, "stream": False},
        {**OLLAMA_COUNTS, "message": {"content": "Hi"}},
    ),
    post(
        "Ollama",
        "/api/generate",
        {"model": "llama3.2", "prompt": "x"},
        encode({**OLLAMA_COUNTS, "response": "Hi"}) + b"\n",
        "application/x-ndjson",
    ),
    post(
        "Ollama",
        "/api/embed",
        {"model": "nomic-embed-text", "input": "x"},
        {"embeddings": [[0.1]], "prompt_eval_count": 9},
    ),
    post(
        "Ollama",
        "/api/embeddings",
        {"model": "nomic-embed-text", "prompt": "x"},
        {"embedding": [0.1]},
    ),
    *other(
        "Ollama",
        "GET /api/tags",
        "POST /api/show",
        "POST /api/pull",
        "DELETE /api/delete",
    ),
]

COHERE_USAGE = {"billed_units": {"input_tokens": 9, "output_tokens": 3}}
COHERE = [
    post(
        "Cohere",
        "/v2/chat",
        chat("command-r-08-2024"),
        {"message": {"content": [SAID]}, "usage": COHERE_USAGE},
    ),
    post(
        "Cohere",
        "/v1/chat",
        {"model": "command-r-08-2024", "message": "Hello"},
        {"text": "Hi", "meta": COHERE_USAGE},
    ),
    post(
        "Cohere",
        "/v2/embed",
        {"model": "embed-english-v3.0", "texts": ["Hello"]},
        {"embeddings": {}, "meta": {"billed_units": {"input_tokens": 9}}},
    ),
    post(
        "Cohere",
        "/v2/rerank",
        {"model": "rerank-v3.5", "query": "x", "documents": ["y"]},
        {"results": [], "meta": {"billed_units": {"search_units": 1}}},
    ),
    post(
        "Cohere",
        "/v1/classify",
        {"model": "embed-english-v3.0", "inputs": ["x"]},
        {"classifications": [], "meta": {"billed_units": {"classifications": 1}}},
    ),
    post(
        "Cohere",
        "/v1/tokenize",
        {"model": "command-r-08-2024", "text": "x"},
        {"tokens": [1]},
    ),
    post(
        "Cohere",
        "/v1/embed-jobs",
        {"model": "embed-english-v3.0", "dataset_id": "x"},
        {"job_id": "1"},
    ),
    *other(
        "Cohere",
        "GET /v1/models",
        "POST /v1/datasets",
        "POST /v1/finetuning/finetuned-models",
    ),
]

_NOVA = f"/model/{NOVA}"
BEDROCK = [
    post("Bedrock", f"{_NOVA}/converse", CONVERSE, CONVERSED),
    post(
        "Bedrock",
        f"{_NOVA}/converse-stream",
        CONVERSE,
        encode_message("metadata", encode({"usage": CONVERSED["usage"]})),
        "application/vnd.amazon.eventstream",
    ),
    post(
        "Bedrock",
        f"/model/anthropic.{CLAUDE}-20250929-v1:0/invoke",
        {"messages": HELLO, "max_tokens": 10},
        MESSAGE,
        fields="x-amzn-bedrock-input-token-count: 9\r\n"
        "x-amzn-bedrock-output-token-count: 3\r\n",
    ),
    post(
        "Bedrock",
        f"{_NOVA}/count-tokens",
        {"input": {"converse": CONVERSE}},
        {"inputTokens": 9},
    ),
    *other(
        "Bedrock",
        "POST /guardrail/g1/version/1/apply",
        "POST /async-invoke",
        "POST /model-invocation-job",
        "POST /agents/a/agentAliases/b/sessions/c/text",
    ),
]

SERVERS = [
    post("vLLM", "/v1/chat/completions", chat("my-model"), chatted("my-model")),
    post(
        "vLLM",
        "/v1/rerank",
        {"model": "my-model", "query": "x", "documents": ["y"]},
        {"results": [], "usage": {"total_tokens": 9}},
    ),
    post(
        "vLLM",
        "/v1/score",
        {"model": "my-model", "text_1": "x", "text_2": "y"},
        {"data": [], "usage": {"prompt_tokens": 9, "total_tokens": 9}},
    ),
    post("vLLM", "/pooling", {"model": "my-model", "input": "x"}, embedded("my-model")),
    post(
        "vLLM",
        "/classify",
        {"model": "my-model", "input": "x"},
        {"data": [], "usage": {"prompt_tokens": 9, "total_tokens": 9}},
    ),
    post("vLLM", "/tokenize", {"model": "my-model", "prompt": "x"}, {"tokens": [1]}),
    post(
        "TGI",
        "/generate",
        {"inputs": "x", "parameters": {"details": True}},
        {
            "generated_text": "Hi",
            "details": {
                "generated_tokens": 3,
                "prefill": [{"id": n} for n in range(9)],
            },
        },
    ),
    post(
        "TGI",
        "/generate_stream",
        {"inputs": "x"},
        events(
            {"token": {"text": "Hi"}, "generated_text": None},
            {"token": {}, "details": {"generated_tokens": 3, "input_length": 9}},
        ),
        SSE,
    ),
    post(
        "SGLang",
        "/generate",
        {"text": "x", "sampling_params": {"max_new_tokens": 5}},
        {"text": "Hi", "meta_info": {"prompt_tokens": 9, "completion_tokens": 3}},
    ),
    post(
        "llama.cpp",
        "/completion",
        {"prompt": "x", "n_predict": 5},
        {"content": "Hi", "tokens_evaluated": 9, "tokens_predicted": 3},
    ),
    post(
        "llama.cpp",
        "/infill",
        {"input_prefix": "x", "input_suffix": "y"},
        {"content": "Hi", "tokens_evaluated": 9, "tokens_predicted": 3},
    ),
    post(
        "llama.cpp",
        "/embedding",
        {"content": "Hello there"},
        [{"index": 0, "embedding": [[0.1]]}],
    ),
    post("TEI", "/embed", {"inputs": "Hello there"}, [[0.1]]),
]

COMPATIBLE = [
    post(
        "Groq",
        "/openai/v1/chat/completions",
        chat("llama-3.1-8b-instant"),
        {**chatted("llama-3.1-8b-instant"), "service_tier": "on_demand"},
    ),
    post(
        "Groq",
        "/openai/v1/audio/transcriptions",
        form(model="whisper-large-v3", file=wav(3)),
        {"text": "Hi", "x_groq": {"id": "r"}},
    ),
    post(
        "DeepSeek",
        "/chat/completions",
        chat("deepseek-chat"),
        chatted("deepseek-chat", prompt_cache_hit_tokens=4, prompt_cache_miss_tokens=5),
    ),
    post(
        "DeepSeek",
        "/beta/completions",
        {"model": "deepseek-chat", "prompt": "x"},
        {"model": "deepseek-chat", "choices": [{"text": "y"}], "usage": USAGE},
    ),
    post(
        "OpenRouter",
        "/api/v1/chat/completions",
        chat("openrouter/auto"),
        chatted("openai/gpt-4.1", cost=0.0001),
    ),
    post("OpenRouter", "/api/v1/messages", {**chat(CLAUDE), "max_tokens": 9}, MESSAGE),
    *other("OpenRouter", "GET /api/v1/models", "GET /api/v1/credits"),
    post(
        "Mistral",
        "/v1/fim/completions",
        {"model": "codestral-latest", "prompt": "x"},
        chatted("codestral-latest"),
    ),
    post(
        "Mistral",
        "/v1/agents/completions",
        {"agent_id": "a", "messages": HELLO},
        chatted("mistral-large-latest"),
    ),
    post(
        "Mistral",
        "/v1/ocr",
        {"model": "mistral-ocr-latest", "document": {}},
        {
            "model": "mistral-ocr-latest",
            "pages": [],
            "usage_info": {"pages_processed": 2},
        },
    ),
    post("Mistral", "/v1/batch/jobs", {"model": "mistral-large-latest"}, {"id": "1"}),
    post(
        "Perplexity",
        "/chat/completions",
        chat("sonar"),
        chatted("sonar", num_search_queries=2, cost={"total_cost": 0.006}),
    ),
    post(
        "xAI",
        "/v1/chat/completions",
        chat("grok-4"),
        chatted("grok-4", num_sources_used=2, cost_in_usd_ticks=37_756_000),
    ),
    post(
        "xAI",
        "/v1/images/generations",
        {"model": "grok-2-image", "prompt": "x", "n": 2},
        {"data": [{"url": "x"}, {"url": "y"}]},
    ),
    post(
        "Voyage",
        "/v1/embeddings",
        {"model": "voyage-3.5", "input": ["x"]},
        {"data": [], "model": "voyage-3.5", "usage": {"total_tokens": 9}},
    ),
    post(
        "Voyage",
        "/v1/multimodalembeddings",
        {"model": "voyage-multimodal-3", "inputs": []},
        {
            "data": [],
            "usage": {"text_tokens": 5, "image_pixels": 99, "total_tokens": 9},
        },
    ),
    post(
        "Voyage",
        "/v1/rerank",
        {"model": "rerank-2.5", "query": "x", "documents": ["y"]},
        {"data": [], "usage": {"total_tokens": 9}},
    ),
    *other("any", "GET /v1/unknown", "POST /v1/unknown"),
]

CALLS = [
    *OPENAI,
    *AZURE,
    *ANTHROPIC,
    *GOOGLE,
    *VERTEX,
    *OLLAMA,
    *COHERE,
    *BEDROCK,
    *SERVERS,
    *COMPATIBLE,
]
