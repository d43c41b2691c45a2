"""OpenAI and compatible providers: chat, responses, embeddings and the rest."""

from __future__ import annotations

import re
from typing import ClassVar

from msgspec import Raw

from gateway.core.model import RequestFacts
from gateway.metering.dialects.base import PathMatch
from gateway.metering.dialects.dialect import CapPaths, Dialect, cap_of, sum_sizes
from gateway.metering.dialects.fallbacks import Routed, add_models, tool_models
from gateway.metering.dialects.outside import add_outside
from gateway.metering.dialects.requests import (
    EMPTY,
    BodyReader,
    Count,
    asked_tier,
    count_items,
    member,
    size,
    to_flag,
)
from gateway.metering.dialects.sizes import content_size
from gateway.metering.dialects.splice import with_usage_asked

_NONE = (None, None, None, None)
_REASONS = re.compile(r"(?:o\d|gpt-[5-9]|codex)")
_CAP_PATHS = {
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "threads.runs": ("max_completion_tokens",),
}
# Endpoints whose streams state usage only if the request asks for it.
_ASKABLE = frozenset({"chat.completions", "completions"})


class ChatBody(Routed):
    """Fields of ``/chat/completions``, most frequent first."""

    model: str | None = None
    messages: Raw = EMPTY
    max_tokens: Count = None
    stream: bool | None = None
    max_completion_tokens: Count = None
    n: Count = None
    stream_options: Raw = EMPTY
    tools: Raw = EMPTY
    functions: Raw = EMPTY
    response_format: Raw = EMPTY
    user: str | None = None
    metadata: Raw = EMPTY
    safety_identifier: str | None = None
    # Names of the cap that servers take beside OpenAI's (llama.cpp, TGI).
    max_output_tokens: Count = None
    max_new_tokens: Count = None
    n_predict: Count = None
    best_of: Count = None
    service_tier: Raw = EMPTY
    # By which the provider (or LiteLLM) adds to the prompt.
    web_search_options: Raw = EMPTY
    search_parameters: Raw = EMPTY
    data_sources: Raw = EMPTY
    agent_id: Raw = EMPTY
    prompt_id: Raw = EMPTY
    vector_store_ids: Raw = EMPTY


class OtherBody(Routed):
    """Fields of all other endpoints together."""

    model: str | None = None
    input: Raw = EMPTY
    prompt: Raw = EMPTY
    instructions: Raw = EMPTY
    stream: bool | None = None
    max_tokens: Count = None
    max_output_tokens: Count = None
    max_completion_tokens: Count = None
    max_new_tokens: Count = None
    n_predict: Count = None
    n: Count = None
    best_of: Count = None
    stream_options: Raw = EMPTY
    tools: Raw = EMPTY
    text: Raw = EMPTY
    suffix: Raw = EMPTY
    query: Raw = EMPTY
    documents: Raw = EMPTY
    inputs: Raw = EMPTY
    messages: Raw = EMPTY
    additional_instructions: Raw = EMPTY
    additional_messages: Raw = EMPTY
    user: str | None = None
    metadata: Raw = EMPTY
    safety_identifier: str | None = None
    background: bool | None = None
    service_tier: Raw = EMPTY
    previous_response_id: Raw = EMPTY
    conversation: Raw = EMPTY
    web_search_options: Raw = EMPTY
    agent_id: Raw = EMPTY
    prompt_id: Raw = EMPTY
    vector_store_ids: Raw = EMPTY


_chat = BodyReader(ChatBody, longest="messages").read
_other = BodyReader(OtherBody, longest="input").read


def named_user(
    user: str | None, metadata: Raw, safety_identifier: str | None
) -> str | None:
    """The end user: ``user``, else ``metadata.user_id``, else ``safety_identifier``."""
    if user:
        return user
    given = member(metadata, "user_id", free=True)
    return given if isinstance(given, str) and given else safety_identifier or None


class OpenAI(Dialect):
    """Answers with ``choices`` and ``usage``."""

    name = "openai"
    cap_paths: ClassVar[CapPaths] = (
        ("max_tokens",),
        ("max_completion_tokens",),
        ("max_output_tokens",),
        ("max_new_tokens",),
        ("n_predict",),
    )
    n_paths: ClassVar[CapPaths] = (("n",), ("best_of",))

    def _read_body(self, match: PathMatch, body: bytes) -> RequestFacts:
        if match.endpoint == "chat.completions":
            return self._read_chat(match, _chat(body))
        return self._read_other(match, _other(body))

    def _read_chat(self, match: PathMatch, chat: ChatBody) -> RequestFacts:
        prompt_bytes, known, outside = content_size(chat.messages)
        for raw in (chat.tools, chat.functions, chat.response_format):
            if raw is not EMPTY:
                prompt_bytes += size(raw)
        stream = bool(chat.stream)
        user = chat.user
        if user is None and (chat.safety_identifier or chat.metadata is not EMPTY):
            user = named_user(user, chat.metadata, chat.safety_identifier)
        cap = chat.max_tokens
        others = (
            chat.max_completion_tokens,
            chat.max_output_tokens,
            chat.max_new_tokens,
            chat.n_predict,
        )
        if others != _NONE:  # rare: most requests state one cap at most
            cap = cap_of(cap, *others)
        n = 1
        if chat.n is not None or chat.best_of is not None:
            n = max(1, chat.n or 1, chat.best_of or 1)
        facts = RequestFacts(
            "chat.completions",
            match.model or chat.model or "",
            stream,
            cap,
            n,
            user,
            prompt_bytes,
            known,
            match.billable,
            not stream or asks_usage(chat.stream_options),
            chat.stream_options is not EMPTY,
            tier="" if chat.service_tier is EMPTY else asked_tier(chat.service_tier),
            outside=outside,
        )
        if chat.tools is not EMPTY or not (
            chat.web_search_options is EMPTY
            and chat.search_parameters is EMPTY
            and chat.data_sources is EMPTY
            and chat.agent_id is EMPTY
            and chat.prompt_id is EMPTY
            and chat.vector_store_ids is EMPTY
        ):
            add_outside(
                facts,
                chat.tools,
                chat.web_search_options,
                chat.search_parameters,
                chat.data_sources,
                chat.agent_id,
                chat.prompt_id,
                chat.vector_store_ids,
            )
        if chat.tools is not EMPTY:
            facts.tools = tool_models(chat.tools)
        return add_models(facts, chat, chat.model)

    def _read_other(self, match: PathMatch, given: OtherBody) -> RequestFacts:
        prompt_bytes, known, outside = sum_sizes(
            given.prompt,
            given.instructions,
            given.tools,
            given.text,
            given.suffix,
            given.query,
            given.documents,
            given.additional_instructions,
            content=(given.messages, given.additional_messages),
            items=(given.input, given.inputs),
        )
        # A stored prompt, with its variables.
        outside = (
            outside
            or bytes(given.prompt)[:1] == b"{"
            or (match.work == "run" and not match.polled)
        )
        stream = bool(given.stream)
        prompts = count_items(given.prompt) if match.endpoint == "completions" else 1
        askable = stream and match.endpoint in _ASKABLE
        facts = RequestFacts(
            match.endpoint,
            match.model or given.model or "",
            stream,
            cap_of(
                given.max_tokens,
                given.max_output_tokens,
                given.max_completion_tokens,
                given.max_new_tokens,
                given.n_predict,
            ),
            max(1, given.n or 1, given.best_of or 1) * prompts,
            named_user(given.user, given.metadata, given.safety_identifier),
            prompt_bytes,
            known,
            match.billable,
            not askable or asks_usage(given.stream_options),
            given.stream_options is not EMPTY,
            prompts=prompts,
            background=bool(given.background) or match.work == "run",
            tier=asked_tier(given.service_tier),
            outside=outside,
        )
        add_outside(
            facts,
            given.tools,
            given.previous_response_id,
            given.conversation,
            given.web_search_options,
            given.agent_id,
            given.prompt_id,
            given.vector_store_ids,
        )
        if given.tools is not EMPTY:
            facts.tools = tool_models(given.tools)
        return add_models(facts, given, given.model)

    def cap_path(self, facts: RequestFacts) -> tuple[str, ...] | None:
        """By endpoint; OpenAI's reasoning models refuse ``max_tokens``."""
        if facts.cap_name:
            return (facts.cap_name,)
        if facts.endpoint == "chat.completions":
            reasons = _REASONS.match(facts.model.strip().lower().rpartition("/")[2])
            return ("max_completion_tokens",) if reasons else ("max_tokens",)
        return _CAP_PATHS.get(facts.endpoint)

    def other_cap_name(self, facts: RequestFacts) -> str:
        """Of chat: a deployment may have any name."""
        if facts.endpoint != "chat.completions":
            return ""
        usual = self.cap_path(facts) == ("max_tokens",)
        return "max_completion_tokens" if usual else "max_tokens"

    def ask_usage(self, body: bytes, facts: RequestFacts) -> bytes | None:
        """Insert ``stream_options.include_usage`` unless the client has set it."""
        if facts.usage_asked or facts.endpoint not in _ASKABLE:
            return None
        return with_usage_asked(body, present=facts.options_given)


def asks_usage(options: Raw) -> bool:
    """Whether ``stream_options`` asks for the usage chunk."""
    if options is EMPTY:
        return False
    asked = member(options, "include_usage")
    return asked is not None and bool(to_flag(asked, "stream_options.include_usage"))
