"""Paths and their endpoints."""

from typing import get_args

import pytest

from gateway.config.structs import DialectName
from gateway.metering.dialects import DIALECTS, find_endpoint

METERED = {
    "/v1/chat/completions": ("openai", "chat.completions", ""),
    "/chat/completions": ("openai", "chat.completions", ""),
    "/openai/v1/chat/completions/": ("openai", "chat.completions", ""),
    "/api/v2/cortex/v1/chat/completions": ("openai", "chat.completions", ""),
    "/api/v2/cortex/inference:complete": ("openai", "chat.completions", ""),
    "/openai/deployments/a%20b/chat/completions": ("openai", "chat.completions", "a b"),
    "/serving-endpoints/e/invocations": ("openai", "chat.completions", "e"),
    "/v1/agents/completions": ("openai", "chat.completions", ""),
    "/v1/completions": ("openai", "completions", ""),
    "/v1/fim/completions": ("openai", "completions", ""),
    "/v1/engines/davinci/completions": ("openai", "completions", "davinci"),
    "/responses": ("openai", "responses", ""),
    "/v1/embeddings": ("openai", "embeddings", ""),
    "/v1/threads/t/runs": ("openai", "threads.runs", ""),
    "/v1/threads/runs": ("openai", "threads.runs", ""),
    "/v1/threads/t/runs/r/submit_tool_outputs": ("openai", "threads.runs", ""),
    "/v1/images/generations": ("openai", "images.generations", ""),
    "/v1/audio/speech": ("openai", "audio.speech", ""),
    "/v1/moderations": ("openai", "moderations", ""),
    "/v1/messages": ("anthropic", "messages", ""),
    "/anthropic/v1/messages": ("anthropic", "messages", ""),
    "/messages": ("anthropic", "messages", ""),
    "/v1/complete": ("anthropic", "complete", ""),
    "/v1beta/models/g:generateContent": ("gemini", "generate_content", "g"),
    "/v1beta/models/g%3AgenerateContent": ("gemini", "generate_content", "g"),
    "/v1beta/tunedModels/x:streamGenerateContent": ("gemini", "generate_content", "x"),
    "/v1beta/models/e:batchEmbedContents": ("gemini", "embed_content", "e"),
    "/v1/projects/p/publishers/google/models/e:predict": ("gemini", "predict", "e"),
    "/v1/projects/p/publishers/anthropic/models/c@1:rawPredict": (
        "anthropic",
        "messages",
        "c@1",
    ),
    "/v1/projects/p/publishers/mistralai/models/m:rawPredict": (
        "openai",
        "chat.completions",
        "m",
    ),
    "/api/chat": ("ollama", "chat", ""),
    "/api/embeddings": ("ollama", "embeddings", ""),
    "/v1/chat": ("cohere", "chat", ""),
    "/v2/embed": ("cohere", "embed", ""),
    "/v1/rerank": ("cohere", "rerank", ""),
    "/model/a.b-v1%3A0/converse": ("bedrock", "converse", "a.b-v1:0"),
    "/model/arn%3Aaws%3Ax%2Fy/invoke": ("bedrock", "invoke", "arn:aws:x/y"),
}


@pytest.mark.parametrize(("path", "wanted"), METERED.items(), ids=METERED)
def test_metered(path, wanted):
    """The ending decides, for any prefix; models are percent-decoded."""
    match = find_endpoint("POST", path)
    assert (match.dialect.name, match.endpoint, match.model) == wanted
    assert match.metered


@pytest.mark.parametrize(
    ("path", "dialect", "endpoint", "model"),
    [
        ("/v1/messages/batches", "anthropic", "messages.batches", ""),
        (
            "/v1beta/models/g:batchGenerateContent",
            "gemini",
            "batch_generate_content",
            "g",
        ),
        (
            "/v1beta/models/g:asyncBatchEmbedContent",
            "gemini",
            "batch_embed_content",
            "g",
        ),
        ("/v1beta/models/v:predictLongRunning", "gemini", "predict_long_running", "v"),
        ("/v1/videos", "openai", "videos", ""),
        ("/v1/fine_tuning/jobs", "openai", "fine_tuning.jobs", ""),
        ("/v1/batches", "openai", "batches", ""),
        ("/v1/batch/jobs", "openai", "batches", ""),
    ],
)
def test_paid_later(path, dialect, endpoint, model):
    """Work that is paid later is read for its model, and counts what it states."""
    match = find_endpoint("POST", path)
    assert (match.dialect.name, match.endpoint, match.model) == (
        dialect,
        endpoint,
        model,
    )
    assert (match.metered, match.billable, match.counted) == (True, True, False)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages/count_tokens",
        "/v1beta/models/g:countTokens",
        "/model/m/count-tokens",
        "/v1/responses/input_tokens",
        "/tokenize",
        "/v1/projects/p/publishers/anthropic/models/count-tokens:rawPredict",
    ],
)
def test_counting(path):
    """Token-counting endpoints are neither billed nor read."""
    match = find_endpoint("POST", path)
    assert (match.endpoint, match.billable, match.metered) == (
        "count_tokens",
        False,
        False,
    )


@pytest.mark.parametrize(
    ("method", "path", "dialect", "endpoint"),
    [
        ("GET", "/v1/responses/r", "openai", "responses.retrieve"),
        ("GET", "/v1/responses/r/input_items", "passthrough", "other"),
        ("DELETE", "/v1/chat/completions", "passthrough", "other"),
        ("GET", "/v1/models", "passthrough", "models"),
        ("GET", "/v1/models/gpt-4o", "passthrough", "models"),
        ("GET", "/v1beta/models/g", "gemini", "models"),
        ("GET", "/v1/realtime", "passthrough", "realtime"),
        ("GET", "/", "passthrough", "other"),
        ("GET", "nothing", "passthrough", "other"),
        ("POST", "/model/m/apply", "bedrock", "other"),
        ("POST", "/v1/threads/t/messages", "passthrough", "other"),
        ("GET", "/v1/messages/batches", "passthrough", "batches"),
        ("GET", "/v1/files", "passthrough", "files"),
        (
            "POST",
            "/v1/realtime/client_secrets",
            "passthrough",
            "realtime.client_secrets",
        ),
        ("POST", "/v1/realtime/sessions", "passthrough", "realtime.sessions"),
        ("POST", "/v1/realtime/calls", "passthrough", "realtime.calls"),
        ("POST", "/v1/responses/r/cancel", "openai", "responses.cancel"),
        ("POST", "/invocations", "passthrough", "other"),
    ],
)
def test_unmetered(method, path, dialect, endpoint):
    """All other paths pass unmetered."""
    match = find_endpoint(method, path)
    assert (match.dialect.name, match.endpoint) == (dialect, endpoint)
    assert not match.metered


@pytest.mark.parametrize(
    ("path", "forced", "dialect", "endpoint", "metered"),
    [
        ("/v1/chat/completions", "passthrough", "passthrough", "other", False),
        ("/v1/chat/completions", "openai", "openai", "chat.completions", True),
        ("/v1/chat", "openai", "openai", "chat.completions", True),
        ("/x/chat", "ollama", "ollama", "chat", True),
        ("/x/chat", "cohere", "cohere", "chat", True),
        ("/v1/chat/completions", "anthropic", "openai", "chat.completions", True),
        ("/v1beta/models/g:countTokens", "openai", "openai", "count_tokens", False),
        ("/x", "gemini", "gemini", "other", False),
    ],
)
def test_forced(path, forced, dialect, endpoint, metered):
    """The configured dialect decides what the path leaves open."""
    match = find_endpoint("POST", path, forced)
    assert (match.dialect.name, match.endpoint, match.metered) == (
        dialect,
        endpoint,
        metered,
    )


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("/v1beta/models/g:streamGenerateContent", True),
        ("/v1beta/models/g:generateContent", None),
        ("/model/m/converse", False),
        ("/model/m/converse-stream", True),
        ("/v1/chat/completions", None),
    ],
)
def test_streams(path, stream):
    """Some paths determine whether the answer streams."""
    assert find_endpoint("POST", path).stream is stream


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/openai/deployments/gpt-5/chat/completions", "gpt-5"),
        ("/v1/engines/gpt-5/completions", "gpt-5"),
        ("/serving-endpoints/mine/invocations", "mine"),
        ("/serving-endpoints/chat/invocations", "chat"),
        # The body names the model: Databricks, Docker's model runner.
        ("/serving-endpoints/chat/completions", ""),
        ("/engines/v1/chat/completions", ""),
        ("/engines/llama.cpp/v1/chat/completions", ""),
    ],
)
def test_models_in_paths(path, model):
    """Deployments and engines; other segments after these words name no model."""
    assert find_endpoint("POST", path).model == model


def test_every_dialect_can_be_configured():
    """``upstream.dialect`` takes every dialect; ``azure`` is read as ``openai``."""
    assert set(get_args(DialectName)) == {*DIALECTS, "auto", "azure"}


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/v1/videos/video_1/remix", "videos"),
        ("/v1beta1/projects/p/locations/global/interactions", "interactions"),
        ("/v1/interactions", "interactions"),
        ("/generate", "generate"),
        ("/score", "rerank"),
        ("/pooling", "embeddings"),
    ],
)
def test_paths_of_later_apis(path, endpoint):
    """Paths that name something in their middle, and those of inference servers."""
    match = find_endpoint("POST", path)
    assert match.endpoint == endpoint
    assert match.metered


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate", "/v1/messages"])
@pytest.mark.parametrize(
    ("method", "metered"),
    [
        ("POST", True),
        ("PUT", True),
        ("PATCH", True),
        ("QUERY", True),
        ("GET", False),
        ("HEAD", False),
        ("DELETE", False),
        ("OPTIONS", False),
    ],
)
def test_every_method_that_may_work_is_metered(path, method, metered):
    """SGLang takes PUT for /generate; stored completions are listed by GET."""
    assert find_endpoint(method, path).metered is metered
    assert not find_endpoint(method, "/v1/files").metered
