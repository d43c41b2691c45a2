"""One request to each endpoint of the other providers, and its answer."""

from __future__ import annotations

from tests.awsevents import encode_message
from tests.corpus.calls import (
    CANDIDATES,
    CLAUDE,
    CONTENTS,
    CONVERSE,
    CONVERSED,
    GEMINI,
    HELLO,
    MESSAGE,
    META,
    NOVA,
    SAID,
    SSE,
    USAGE,
    chat,
    chatted,
    embedded,
    encode,
    events,
    form,
    other,
    post,
)
from tests.unit.metering.test_audio import wav

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
        {"name": "batches/1", "metadata": {"state": "BATCH_STATE_PENDING"}},
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
        "GET /v1beta/interactions/1",
        "POST /v1beta/interactions/1/cancel",
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
