"""Dialect and endpoint by method and path.

Paths are matched from their end, because prefixes differ from host to host
(``/openai/v1``, ``/api/v1``, ``/nebius/v1``, ``/serving-endpoints/x``).
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from gateway.metering.dialects.anthropic import Anthropic
from gateway.metering.dialects.batches import ANTHROPIC_BATCHES, GEMINI_BATCHES
from gateway.metering.dialects.bedrock import Bedrock
from gateway.metering.dialects.cohere import Cohere
from gateway.metering.dialects.dialect import Dialect
from gateway.metering.dialects.gemini import Gemini
from gateway.metering.dialects.interactions import INTERACTIONS
from gateway.metering.dialects.match import Match
from gateway.metering.dialects.media import MEDIA
from gateway.metering.dialects.native import NATIVE
from gateway.metering.dialects.ollama import Ollama
from gateway.metering.dialects.openai import OpenAI
from gateway.metering.dialects.passthrough import Passthrough
from gateway.metering.dialects.works import WORK_OF, continued_work, find_poll

OPENAI = OpenAI()
ANTHROPIC = Anthropic()
GEMINI = Gemini()
OLLAMA = Ollama()
COHERE = Cohere()
BEDROCK = Bedrock()
PASSTHROUGH = Passthrough()
DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (OPENAI, ANTHROPIC, GEMINI, OLLAMA, COHERE, BEDROCK, PASSTHROUGH)
}

# How an endpoint is metered. METERED: by the stated usage, else by counting tokens.
# STATED: by the stated usage only. FREE: costs nothing, but the body is read for its
# model. COUNTING: costs nothing, and the body is not read.
METERED, STATED, FREE, COUNTING, OTHER = (
    "metered",
    "stated",
    "free",
    "counting",
    "other",
)

# By the last two segments or the last one, longest first: (dialect, endpoint, metering).
_ENDINGS: dict[str, tuple[Dialect, str, str]] = {
    "chat/completions": (OPENAI, "chat.completions", METERED),
    "agents/completions": (OPENAI, "chat.completions", METERED),
    "inference:complete": (OPENAI, "chat.completions", METERED),
    "fim/completions": (OPENAI, "completions", METERED),
    "completions": (OPENAI, "completions", METERED),
    "responses": (OPENAI, "responses", METERED),
    "responses/compact": (OPENAI, "responses", METERED),
    "responses/input_tokens": (OPENAI, "count_tokens", COUNTING),
    "embeddings": (OPENAI, "embeddings", METERED),
    "contextualizedembeddings": (OPENAI, "embeddings", METERED),
    "multimodalembeddings": (OPENAI, "embeddings", METERED),
    "threads/runs": (OPENAI, "threads.runs", METERED),
    "images/generations": (MEDIA, "images.generations", STATED),
    "images/edits": (MEDIA, "images.edits", STATED),
    "images/variations": (MEDIA, "images.variations", STATED),
    "audio/speech": (MEDIA, "audio.speech", STATED),
    "audio/transcriptions": (MEDIA, "audio.transcriptions", STATED),
    "audio/translations": (MEDIA, "audio.translations", STATED),
    "v1/ocr": (MEDIA, "ocr", STATED),
    "v1/videos": (MEDIA, "videos", STATED),
    "v2/videos": (MEDIA, "videos", STATED),
    "videos/generations": (MEDIA, "videos", STATED),
    "videos/edits": (MEDIA, "videos", STATED),
    "videos/extensions": (MEDIA, "videos", STATED),
    "fine_tuning/jobs": (OPENAI, "fine_tuning.jobs", STATED),
    "v1/fine-tunes": (OPENAI, "fine_tuning.jobs", STATED),
    "v1/batches": (OPENAI, "batches", STATED),
    "openai/batches": (OPENAI, "batches", STATED),
    "batch/jobs": (OPENAI, "batches", STATED),
    "v1/embed-jobs": (COHERE, "batches", STATED),
    "messages/batches": (ANTHROPIC_BATCHES, "messages.batches", STATED),
    "v1beta/interactions": (INTERACTIONS, "interactions", METERED),
    "v1/interactions": (INTERACTIONS, "interactions", METERED),
    "/generate": (NATIVE, "generate", METERED),
    "generate_stream": (NATIVE, "generate", METERED),
    "/completion": (NATIVE, "completion", METERED),
    "infill": (NATIVE, "infill", METERED),
    "/embed": (NATIVE, "embed", METERED),
    "/embedding": (NATIVE, "embed", METERED),
    "pooling": (OPENAI, "embeddings", METERED),
    "v1/score": (OPENAI, "rerank", METERED),
    "/score": (OPENAI, "rerank", METERED),
    "/classify": (OPENAI, "classify", METERED),
    "v1/moderations": (OPENAI, "moderations", FREE),
    "v1/tokenize": (OPENAI, "count_tokens", COUNTING),
    "tokenize": (OPENAI, "count_tokens", COUNTING),
    "v1/detokenize": (OPENAI, "count_tokens", COUNTING),
    "v1/messages": (ANTHROPIC, "messages", METERED),
    "anthropic/messages": (ANTHROPIC, "messages", METERED),
    "/messages": (ANTHROPIC, "messages", METERED),
    "messages/count_tokens": (ANTHROPIC, "count_tokens", COUNTING),
    "v1/complete": (ANTHROPIC, "complete", METERED),
    "/complete": (ANTHROPIC, "complete", METERED),
    "api/chat": (OLLAMA, "chat", METERED),
    "api/generate": (OLLAMA, "generate", METERED),
    "api/embed": (OLLAMA, "embed", METERED),
    "api/embeddings": (OLLAMA, "embeddings", METERED),
    "v1/chat": (COHERE, "chat", METERED),
    "v2/chat": (COHERE, "chat", METERED),
    "v1/generate": (COHERE, "generate", METERED),
    "v1/summarize": (COHERE, "generate", METERED),
    "v1/embed": (COHERE, "embed", METERED),
    "v2/embed": (COHERE, "embed", METERED),
    "v1/rerank": (COHERE, "rerank", METERED),
    "v2/rerank": (COHERE, "rerank", METERED),
    "reranking": (COHERE, "rerank", METERED),
    "/rerank": (COHERE, "rerank", METERED),
    "v1/classify": (COHERE, "classify", STATED),
}
# Endpoints whose body must name the model, by their documentation; and paths among them
# whose body names an agent instead, or nothing.
_MODEL_REQUIRED = frozenset(
    {
        ("openai", "chat.completions"),
        ("openai", "completions"),
        ("openai", "embeddings"),
        ("openai", "audio.speech"),
        ("openai", "audio.transcriptions"),
        ("openai", "audio.translations"),
        ("anthropic", "messages"),
        ("anthropic", "complete"),
        ("ollama", "chat"),
        ("ollama", "generate"),
        ("ollama", "embed"),
        ("ollama", "embeddings"),
    }
)
_MODEL_OPTIONAL = frozenset({"agents/completions", "inference:complete"})
# By the method after the colon of Google's paths, and by the last segment of Bedrock's:
# (endpoint, metering, stream).
_GOOGLE: dict[str, tuple[str, str, bool]] = {
    "generateContent": ("generate_content", METERED, False),
    "streamGenerateContent": ("generate_content", METERED, True),
    "generateAnswer": ("generate_content", METERED, False),
    "embedContent": ("embed_content", METERED, False),
    "batchEmbedContents": ("embed_content", METERED, False),
    "embedText": ("embed_content", METERED, False),
    "batchGenerateContent": ("batch_generate_content", STATED, False),
    "asyncBatchEmbedContent": ("batch_embed_content", STATED, False),
    "predictLongRunning": ("predict_long_running", STATED, False),
    "countTokens": ("count_tokens", COUNTING, False),
    "computeTokens": ("count_tokens", COUNTING, False),
    "predict": ("predict", METERED, False),
    "serverStreamingPredict": ("predict", METERED, True),
}
_BEDROCK: dict[str, tuple[str, str, bool]] = {
    "converse": ("converse", METERED, False),
    "converse-stream": ("converse", METERED, True),
    "invoke": ("invoke", METERED, False),
    "invoke-with-response-stream": ("invoke", METERED, True),
    "count-tokens": ("count_tokens", COUNTING, False),
}
# The dialect of an answer that shows work, by its kind.
_POLLED: dict[str, Dialect] = {
    "response": OPENAI,
    "run": OPENAI,
    "batch": OPENAI,
    "interaction": INTERACTIONS,
    "google_batch": GEMINI_BATCHES,
    "message_batch": ANTHROPIC_BATCHES,
}
_GOOGLE_FOLDED = {action.casefold(): found for action, found in _GOOGLE.items()}
_RUNS = re.compile(r"/threads/[^/]+/runs(?:/[^/]+/submit_tool_outputs)?$")
_THREAD = re.compile(r"/threads/[^/]+/messages$")
_REMIX = re.compile(r"/v1/videos/[^/]+/remix$")
_LOCATION = re.compile(r"/locations/[^/]+/interactions$")
# Not of Docker's ``/engines/v1/…`` and ``/engines/BACKEND/v1/…``, nor of Databricks'
# ``/serving-endpoints/chat/completions``: there the body names the model.
_NAMED = re.compile(
    r"/(?:deployments|engines(?!/(?:[^/]+/)?v\d+/)"
    r"|serving-endpoints(?!/chat/completions$))/([^/]+)/"
)
_RAW = re.compile(
    r"/publishers/([^/]+)/models/([^/:]+):(rawPredict|streamRawPredict)$", re.IGNORECASE
)
# Unmetered endpoints with a name of their own in records.
_LISTS = {
    "models": "models",
    "tags": "models",
    "realtime": "realtime",
    "files": "files",
    "batches": "batches",
    "realtime/client_secrets": "realtime.client_secrets",
    "realtime/sessions": "realtime.sessions",
    "realtime/transcription_sessions": "realtime.sessions",
    "realtime/calls": "realtime.calls",
}
# Endpoints by last segments that are ambiguous unless the dialect is configured.
_FORCED: dict[str, dict[str, str]] = {
    "openai": {"invocations": "chat.completions", "chat": "chat.completions"},
    "anthropic": {"messages": "messages", "complete": "complete"},
    "ollama": {
        "chat": "chat",
        "generate": "generate",
        "embed": "embed",
        "embeddings": "embeddings",
    },
    "cohere": {
        "chat": "chat",
        "generate": "generate",
        "embed": "embed",
        "rerank": "rerank",
    },
}


# Methods that never generate an answer at a metered path.
_READING = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE"})


def find_endpoint(method: str, path: str, forced: str | None = None) -> Match:
    """The match of ``method`` and ``path`` (without query). Callers cache the result.

    ``forced``: name of the dialect configured for the upstream (``upstream.dialect``).

    Every method that may do work at the path of a metered ``POST`` is metered as one:
    SGLang takes ``PUT`` for ``/generate``.
    """
    plain = path.rstrip("/") or "/"
    if forced == PASSTHROUGH.name:
        return Match(PASSTHROUGH, "other")
    if method != "POST":
        posted = None if method in _READING else find_endpoint("POST", path, forced)
        works = posted is not None and posted.metered
        return (works and posted) or _unmetered(method, plain, forced)
    match = _by_shape(plain) or _by_ending(plain)
    if forced is None:
        return match or _unmetered(method, plain, None)
    dialect = DIALECTS[forced]
    if match is not None and match.dialect is dialect:
        return match
    segment = plain.rpartition("/")[2]
    endpoint = _FORCED.get(forced, {}).get(segment)
    if endpoint is not None:
        return _match(dialect, endpoint, METERED)
    if match is not None and not match.metered:
        return Match(dialect, match.endpoint, billable=match.billable)
    if match is not None:
        # An endpoint of another dialect: this upstream translates. The client's body
        # follows the dialect of the path.
        return match
    return _unmetered(method, plain, forced)


def _unmetered(method: str, path: str, forced: str | None) -> Match:
    poll = find_poll(method, path)
    if poll is not None:
        return Match(_POLLED[poll.kind], poll.endpoint, work=poll.kind, polled=poll.id)
    segments = path.split("/")
    last = segments[-1]
    before = segments[-2] if len(segments) > 1 else ""
    two = f"{before}/{last}"
    endpoint = (
        _LISTS.get(two)
        or _LISTS.get(last)
        or ("models" if before == "models" else "other")
    )
    dialect = DIALECTS[forced] if forced else _guess(path)
    return Match(dialect, endpoint)


def _guess(path: str) -> Dialect:
    """The dialect in which a client of an unknown path expects errors."""
    if path.startswith("/v1beta") or "/publishers/" in path:
        return GEMINI
    if path.startswith("/model/"):
        return BEDROCK
    return PASSTHROUGH


def _match(
    dialect: Dialect,
    endpoint: str,
    how: str,
    model: str = "",
    *,
    stream: bool | None = None,
    model_required: bool = False,
    polled: str = "",
) -> Match:
    return Match(
        dialect,
        endpoint,
        metered=how in (METERED, STATED, FREE),
        billable=how not in (FREE, COUNTING),
        counted=how == METERED,
        model=model,
        stream=stream,
        model_required=model_required,
        work=WORK_OF.get(endpoint, ""),
        polled=polled,
    )


def _by_shape(path: str) -> Match | None:
    """Match paths that contain a model: Google's ``model:action``, Bedrock's
    ``/model/…``, deployments.
    """
    raw = _RAW.search(unquote(path))
    if raw is not None:
        return _raw_predict(raw[1], raw[2], stream=raw[3][0] in "sS")
    before, _, last = path.rpartition("/")
    model, colon, action = unquote(last).rpartition(":")
    if colon and action.casefold() in _GOOGLE_FOLDED:
        endpoint, how, stream = _GOOGLE_FOLDED[action.casefold()]
        dialect = GEMINI_BATCHES if endpoint.startswith("batch_") else GEMINI
        return _match(dialect, endpoint, how, model, stream=stream or None)
    if last in _BEDROCK and "/model/" in before:
        endpoint, how, stream = _BEDROCK[last]
        model = unquote(before.partition("/model/")[2])
        return _match(BEDROCK, endpoint, how, model, stream=stream)
    if last == "invocations" and _NAMED.search(path):
        return _match(OPENAI, "chat.completions", METERED, _named_model(path))
    return None


def _raw_predict(publisher: str, model: str, *, stream: bool) -> Match:
    """Match Vertex partner models, each in its publisher's dialect."""
    if publisher.casefold() != "anthropic":
        return _match(OPENAI, "chat.completions", METERED, model)
    if model.casefold() == "count-tokens":
        return _match(ANTHROPIC, "count_tokens", COUNTING)
    return _match(ANTHROPIC, "messages", METERED, model, stream=stream)


def _by_ending(path: str) -> Match | None:
    if _RUNS.search(path):
        polled = continued_work(path)
        return _match(OPENAI, "threads.runs", METERED, polled=polled)
    if _THREAD.search(path):
        return None
    if _REMIX.search(path):
        return _match(MEDIA, "videos", STATED)
    if _LOCATION.search(path):
        return _match(INTERACTIONS, "interactions", METERED)
    segments = path.rsplit("/", 2)
    two = "/".join(segments[-2:])
    found = _ENDINGS.get(two) or _ENDINGS.get(segments[-1])
    if found is None:
        return None
    dialect, endpoint, how = found
    model = _named_model(path)
    required = not model and two not in _MODEL_OPTIONAL
    required = required and (dialect.name, endpoint) in _MODEL_REQUIRED
    stream = True if segments[-1] == "generate_stream" else None
    return _match(dialect, endpoint, how, model, stream=stream, model_required=required)


def _named_model(path: str) -> str:
    named = _NAMED.search(path)
    return unquote(named[1]) if named else ""
