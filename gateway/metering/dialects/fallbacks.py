"""Models beside ``model`` that may answer a request: lists of fallbacks of routers.

OpenRouter and Vercel take ``models`` (Vercel also in ``providerOptions.gateway``),
LiteLLM ``fallbacks`` and two more lists. The router chooses; the answer says which it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from gateway.core.model import RequestFacts
from gateway.metering.dialects.base import DialectError
from gateway.metering.dialects.names import UniqueMembers
from gateway.metering.dialects.requests import EMPTY

# Models of one request, at most: each is checked against lists, caps and limits.
MODELS_MAX = 16
# Longest member that is read, with the messages of LiteLLM's fallbacks.
LISTS_BYTES = 256 * 1024
# The variant with which OpenRouter searches the web for every answer.
ONLINE = ":online"
# A preset of OpenRouter: the provider keeps the name of its model.
PRESET = "@preset/"
_SEARCH = (("web_searches", 1.0),)
_LISTS = (
    "models",
    "fallbacks",
    "context_window_fallbacks",
    "content_policy_fallbacks",
)


class Routed(msgspec.Struct):
    """Members that name models beside ``model``."""

    models: Raw = EMPTY
    fallbacks: Raw = EMPTY
    context_window_fallbacks: Raw = EMPTY
    content_policy_fallbacks: Raw = EMPTY
    providerOptions: Raw = EMPTY  # noqa: N815
    preset: Raw = EMPTY


def add_models(facts: RequestFacts, given: Routed) -> RequestFacts:
    """Add the models of a request's lists to its facts. Without ``model`` the first is
    the request's model. Raises DialectError for lists that cannot be read.
    """
    if not (
        given.models is EMPTY
        and given.fallbacks is EMPTY
        and given.preset is EMPTY
        and given.providerOptions is EMPTY
        and given.context_window_fallbacks is EMPTY
        and given.content_policy_fallbacks is EMPTY
    ):
        _add_listed(facts, given)
    if ":" in facts.model or facts.models:
        searched = any(ONLINE in name.lower() for name in facts.named_models)
        if searched and not facts.units:
            facts.units = _SEARCH
    return facts


def _add_listed(facts: RequestFacts, given: Routed) -> None:
    found: dict[str, None] = {}
    if facts.model.strip():
        found[facts.model] = None
    for name in _LISTS:
        _collect(facts, _read(getattr(given, name), name), name, found)
    options = _read(given.providerOptions, "providerOptions")
    gateway = options.get("gateway") if isinstance(options, dict) else None
    if isinstance(gateway, dict):
        _unique(gateway, "providerOptions")
        name = "providerOptions.gateway.models"
        _collect(facts, gateway.get("models"), name, found)
    if not found:
        preset = _read(given.preset, "preset")
        if isinstance(preset, str):
            found[PRESET + preset] = None
    if len(found) > MODELS_MAX:
        raise DialectError(f"a request may name {MODELS_MAX} models here", "models")
    if found:
        facts.model, *others = found
        facts.models = tuple(others)


def _collect(
    facts: RequestFacts, listed: Any, name: str, found: dict[str, None]
) -> None:
    if listed is None:
        return
    if not isinstance(listed, list):
        raise DialectError(f"'{name}' must be a list", name)
    for model, messages in _entries(listed, name):
        if model.strip():
            found[model] = None
        facts.prompt_bytes = max(facts.prompt_bytes, messages)


def _entries(
    listed: list[Any], name: str, *, nested: bool = False
) -> Iterator[tuple[str, int]]:
    """Models of a list, and the bytes of the messages that LiteLLM sends some instead."""
    for entry in listed:
        if isinstance(entry, str):
            yield entry, 0
        elif not isinstance(entry, dict):
            raise DialectError(f"'{name}' must hold names of models", name)
        elif isinstance(entry.get("model"), str):
            _unique(entry, name)
            if entry.keys() - {"model", "messages"}:
                # Caps, addresses and keys of its own would hold instead.
                raise DialectError(f"'{name}' may name models only", name)
            messages = entry.get("messages")
            yield entry["model"], len(json.dumps(messages)) if messages else 0
        else:  # from a model to its fallbacks
            _unique(entry, name)
            for fallbacks in entry.values():
                if nested or not isinstance(fallbacks, list):
                    raise DialectError(f"'{name}' must hold names of models", name)
                yield from _entries(fallbacks, name, nested=True)


def _unique(members: dict[str, Any], name: str) -> None:
    if isinstance(members, UniqueMembers) and members.repeated is not None:
        raise DialectError(f"a name in '{name}' is given twice", name)


def _read(raw: Raw, name: str) -> Any:
    if raw is EMPTY:
        return None
    text = bytes(raw)
    if len(text) > LISTS_BYTES:
        raise DialectError(f"'{name}' is too long", name)
    try:
        value = json.loads(text, object_pairs_hook=UniqueMembers)
    except (ValueError, RecursionError):
        raise DialectError(f"'{name}' cannot be read", name) from None
    if isinstance(value, dict):
        _unique(value, name)
    return value
