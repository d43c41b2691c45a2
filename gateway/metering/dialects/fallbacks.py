"""Models beside ``model``: lists of fallbacks of routers, and models inside tools.

OpenRouter and Vercel take ``models`` (Vercel also in ``providerOptions.gateway``),
LiteLLM ``fallbacks`` and two more lists. The router chooses; the answer says which it was.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Raw

from gateway.core.model import RequestFacts
from gateway.metering.dialects.base import DialectError
from gateway.metering.dialects.billed import PICTURE_MODEL, PICTURES
from gateway.metering.dialects.names import NameChecker
from gateway.metering.dialects.requests import EMPTY, size

# Models of one request, at most: each is checked against lists, caps and limits.
MODELS_MAX = 8
# The variant with which OpenRouter searches the web for every answer.
ONLINE = ":online"
# A preset of OpenRouter: the provider keeps the name of its model.
PRESET = "@preset/"
# What the text of a tool with a model contains; an escape may hide it.
_TOOL_MARKS = (b'"model"', b'"image_generation"', b"\\u00")
# Tools that the client runs itself.
_OWN_TOOLS = frozenset({"function", "custom"})
_SEARCH = (("web_searches", 1.0),)
_LISTS = (
    "models",
    "fallbacks",
    "context_window_fallbacks",
    "content_policy_fallbacks",
)
# Members that metering reads, which would come twice.
_METERED = frozenset(
    {
        *_LISTS,
        "model",
        "provideroptions",
        "preset",
        "extra_body",
        "plugins",
        "messages",
        "input",
        "prompt",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "max_new_tokens",
        "n_predict",
        "n",
        "best_of",
        "stream",
        "stream_options",
        "background",
        "service_tier",
    }
)
_items = msgspec.json.Decoder(list[Raw]).decode
_members = msgspec.json.Decoder(dict[str, Raw]).decode
_string = msgspec.json.Decoder(str).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Routed(msgspec.Struct):
    """Members that name models beside ``model``."""

    models: Raw = EMPTY
    fallbacks: Raw = EMPTY
    context_window_fallbacks: Raw = EMPTY
    content_policy_fallbacks: Raw = EMPTY
    providerOptions: Raw = EMPTY  # noqa: N815
    preset: Raw = EMPTY
    extra_body: Raw = EMPTY  # LiteLLM adds its members to the request
    plugins: Raw = EMPTY


def add_models(facts: RequestFacts, given: Routed, named: str | None) -> RequestFacts:
    """Add the models of a request's lists to its facts. Without ``model`` the first is
    the request's model. Raises DialectError for lists that cannot be read.

    ``named``: the body's model. Where the path names another one, that one answers.
    """
    if named and named != facts.model:
        facts.body_model = named
    if not (
        given.models is EMPTY
        and given.fallbacks is EMPTY
        and given.preset is EMPTY
        and given.providerOptions is EMPTY
        and given.context_window_fallbacks is EMPTY
        and given.content_policy_fallbacks is EMPTY
        and given.extra_body is EMPTY
        and given.plugins is EMPTY
    ):
        _add_listed(facts, given)
    model = facts.model
    if (
        "," in model
        or ">" in model
        or any("," in one for one in facts.models)
        or (facts.body_model and not _names_one(facts.body_model))
    ):
        # LiteLLM asks all of "a,b" and answers with the first; Unify reads "a->b".
        raise DialectError("'model' must be the name of one model", "model")
    if ":" in model or facts.models:
        searched = any(ONLINE in name.lower() for name in facts.named_models)
        if searched:
            facts.outside = True
            facts.units = facts.units or _SEARCH
    return facts


def tool_models(tools: Raw) -> tuple[str, ...]:
    """The models that server tools run: Anthropic's advisor, OpenAI's pictures.

    Raises DialectError for tools that cannot be read, and for several models of pictures,
    as the answer does not say which has made which.
    """
    text = bytes(tools)
    if not any(mark in text for mark in _TOOL_MARKS) or not text.startswith(b"["):
        return ()
    try:
        entries = _items(text)
    except _UNREADABLE:
        raise DialectError("'tools' cannot be read", "tools") from None
    found: dict[str, None] = {}
    pictures = set()
    for entry in entries:
        if not any(mark in bytes(entry) for mark in _TOOL_MARKS):
            continue
        kind, model = _tool_model(_object(entry, "tools"))
        if model:
            found[model] = None
            if kind == PICTURES:
                pictures.add(model)
    if len(found) > MODELS_MAX or len(pictures) > 1:
        raise DialectError("'tools' name too many models", "tools")
    return tuple(found)


def _tool_model(tool: dict[str, Raw]) -> tuple[str, str]:
    """A tool's type and its model; "" where it has none."""
    kind = _text(tool.get("type", EMPTY), "tools") or ""
    if kind in _OWN_TOOLS:
        return kind, ""
    parameters = _object(tool.get("parameters", EMPTY), "tools")  # OpenRouter
    model = _text(tool.get("model", EMPTY), "tools")
    model = model or _text(parameters.get("model", EMPTY), "tools") or ""
    return kind, model or (PICTURE_MODEL if kind == PICTURES else "")


def _names_one(model: str) -> bool:
    return "," not in model and ">" not in model


def _add_listed(facts: RequestFacts, given: Routed) -> None:
    for name in _object(given.extra_body, "extra_body"):
        if name.casefold() in _METERED:
            raise DialectError(f"'extra_body' may not hold '{name}'", "extra_body")
        facts.outside = True  # it may hold any other member
    for plugin in _list(given.plugins, "plugins"):
        facts.outside = True
        if _text(_object(plugin, "plugins").get("id", EMPTY), "plugins") == "web":
            facts.units = facts.units or _SEARCH
    found: dict[str, None] = {}
    if facts.model.strip():
        found[facts.model] = None
    for name in _LISTS:
        _collect(facts, getattr(given, name), name, found)
    gateway = _object(given.providerOptions, "providerOptions").get("gateway", EMPTY)
    name = "providerOptions.gateway"
    _collect(facts, _object(gateway, name).get("models", EMPTY), name, found)
    if not found:
        preset = _text(given.preset, "preset")
        if preset:
            found[PRESET + preset] = None
    facts.outside = facts.outside or given.preset is not EMPTY
    if len(found) > MODELS_MAX:
        raise DialectError(f"a request may name {MODELS_MAX} models here", "models")
    if found:
        facts.model, *others = found
        facts.models = tuple(others)


def _collect(facts: RequestFacts, raw: Raw, name: str, found: dict[str, None]) -> None:
    for model, messages in _entries(raw, name):
        if model.strip():
            found[model] = None
        facts.prompt_bytes = max(facts.prompt_bytes, messages)


def _entries(raw: Raw, name: str, *, nested: bool = False) -> Iterator[tuple[str, int]]:
    """Models of a list, and the bytes of the messages that LiteLLM sends some instead."""
    for entry in _list(raw, name):
        members = _object(entry, name)
        if "model" in members:
            if members.keys() - {"model", "messages"}:
                # Caps, addresses and keys of its own would hold instead.
                raise DialectError(f"'{name}' may name models only", name)
            model = _text(members["model"], name)
            if model is None:
                raise DialectError(f"'{name}' must hold names of models", name)
            yield model, size(members.get("messages", EMPTY))
        elif members and not nested:  # from a model to its fallbacks
            for fallbacks in members.values():
                yield from _entries(fallbacks, name, nested=True)
        else:
            model = _text(entry, name)
            if model is None:
                raise DialectError(f"'{name}' must hold names of models", name)
            yield model, 0


def _list(raw: Raw, name: str) -> list[Raw]:
    """The entries of a list, not read; none if it is absent or null."""
    if size(raw) == 0:
        return []
    try:
        found = _items(raw)
    except _UNREADABLE:
        raise DialectError(f"'{name}' must be a list", name) from None
    if len(found) > MODELS_MAX:
        raise DialectError(f"'{name}' may have {MODELS_MAX} entries here", name)
    return found


def _object(raw: Raw, name: str) -> dict[str, Raw]:
    """The members of an object, not read; none of anything else. Raises DialectError for
    names that are given twice, as servers differ in which they use.
    """
    text = bytes(raw)
    if not text.startswith(b"{"):
        return {}
    try:
        found = _members(text)
        return NameChecker(found).members(text)
    except _UNREADABLE:
        raise DialectError(f"'{name}' cannot be read", name) from None


def _text(raw: Raw, name: str) -> str | None:
    """A text; None for anything else."""
    if not bytes(raw).startswith(b'"'):
        return None
    try:
        return _string(raw)
    except _UNREADABLE:
        raise DialectError(f"'{name}' cannot be read", name) from None
