"""Lists of models that may answer instead."""

from __future__ import annotations

import json

import pytest

from gateway.metering.dialects import DialectError
from gateway.metering.dialects.anthropic import Anthropic
from gateway.metering.dialects.base import PathMatch
from gateway.metering.dialects.batches import ANTHROPIC_BATCHES
from gateway.metering.dialects.cohere import Cohere
from gateway.metering.dialects.dialect import NAME_CHARS
from gateway.metering.dialects.fallbacks import MODELS_MAX
from gateway.metering.dialects.media import Media
from gateway.metering.dialects.openai import OpenAI

CHAT = PathMatch("chat.completions", metered=True)


def read(body, match=CHAT, dialect=None):
    """The facts of a request with this body."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (dialect or OpenAI()).read_request(match, text, "", "application/json")


@pytest.mark.parametrize(
    ("members", "models"),
    [
        ({"model": "a"}, ("a",)),
        ({"model": "a", "models": None, "fallbacks": []}, ("a",)),
        ({"model": "a", "models": ["b", "a", "b", " "]}, ("a", "b")),
        ({"model": "a", "models": ["b"], "route": "fallback"}, ("a", "b")),
        ({"models": ["b", "c"]}, ("b", "c")),
        ({"model": " ", "models": ["b"]}, ("b",)),
        ({"model": "a", "fallbacks": ["b", {"model": "c"}]}, ("a", "b", "c")),
        ({"model": "a", "fallbacks": [{"a": ["b", {"model": "c"}]}]}, ("a", "b", "c")),
        ({"model": "a", "context_window_fallbacks": [{"a": ["b"]}]}, ("a", "b")),
        ({"model": "a", "content_policy_fallbacks": [{"a": ["b"]}]}, ("a", "b")),
        ({"model": "a", "models": ["b"], "fallbacks": ["c"]}, ("a", "b", "c")),
        (
            {"model": "a", "providerOptions": {"gateway": {"models": ["b"]}}},
            ("a", "b"),
        ),
        ({"model": "a", "providerOptions": {"gateway": {"order": ["x"]}}}, ("a",)),
        ({"model": "a", "providerOptions": {"openai": {}}}, ("a",)),
        ({"model": "a", "providerOptions": "x"}, ("a",)),
        ({"preset": "mine"}, ("@preset/mine",)),
        ({"model": "a", "preset": "mine"}, ("a",)),
        ({"preset": None}, ("",)),
    ],
)
def test_every_model_that_may_answer_is_read(members, models):
    """Of OpenRouter, Vercel and LiteLLM; without ``model`` the first is the request's."""
    facts = read({"messages": [], **members})
    assert facts.named_models == models


@pytest.mark.parametrize(
    "members",
    [
        {"models": "b"},
        {"models": {"b": 1}},
        {"models": [1]},
        {"models": [["b"]]},
        {"models": [None]},
        {"models": ["x" * (NAME_CHARS + 1)]},
        {"models": [f"m{number}" for number in range(MODELS_MAX)]},
        {"fallbacks": [{"model": 1}]},
        {"fallbacks": [{"model": "b", "max_tokens": 10**6}]},
        {"fallbacks": [{"model": "b", "api_base": "https://elsewhere.example"}]},
        {"fallbacks": [{"a": [{"b": ["c"]}]}]},
        {"fallbacks": [{"a": "b"}]},
        {"fallbacks": [{}]},
        {"fallbacks": [{"a": []}] * (MODELS_MAX + 1)},
        {"Models": ["b"]},
        {"model": "a,b"},
        {"model": "a->b"},
        {"models": ["a, b"]},
        {"extra_body": {"models": ["b"]}},
        {"extra_body": {"Max_Tokens": 10**6}},
        {"extra_body": {"extra_body": {}}},
    ],
)
def test_lists_that_cannot_be_read_are_refused(members):
    """Nothing that a router might read passes unread."""
    with pytest.raises(DialectError):
        read({"model": "a", "messages": [], **members})


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"a","models":["b"],"models":["c"]}',
        b'{"model":"a","models":["b"],"mod\\u0065ls":["c"]}',
        b'{"model":"a","fallbacks":[{"model":"b","model":"c"}]}',
        b'{"model":"a","fallbacks":[{"a":["b"],"a":["c"]}]}',
        b'{"model":"a","providerOptions":{"gateway":{},"gateway":{"models":["b"]}}}',
        b'{"model":"a","providerOptions":{"gateway":{"models":[],"models":["b"]}}}',
        b'{"model":"a","models":["\xff"]}',
        b'{"model":"a","models":["\\ud83d"]}',
        b'{"model":"a","fallbacks":[{"model":"\\ud83d"}]}',
        b'{"model":"a","fallbacks":[{"\\ud83d":["b"]}]}',
        b'{"preset":"\\ud83d"}',
        b'{"providerOptions":{"gateway":{"\\ud83d":1}}}',
        b'{"model":"a","models":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    ],
)
def test_names_given_twice_and_broken_texts_are_refused(text):
    """Servers differ in how they read them."""
    with pytest.raises(DialectError):
        read(text)


def test_members_that_end_too_early_are_refused():
    """As msgspec takes members unread."""
    with pytest.raises(DialectError):
        read(b'{"model":"a","models":[nope]}')


def test_messages_of_a_fallback_count():
    """The longest prompt of all."""
    messages = [{"role": "user", "content": "tide " * 100}]
    plain = read({"model": "a", "messages": messages})
    longer = messages * 3
    other = {"model": "b", "messages": longer}
    facts = read({"model": "a", "messages": messages, "fallbacks": [other]})
    assert plain.prompt_bytes < facts.prompt_bytes == len(json.dumps(longer))


@pytest.mark.parametrize(
    ("members", "units"),
    [
        ({"model": "a"}, ()),
        ({"model": "a:nitro"}, ()),
        ({"model": "a:online"}, (("web_searches", 1),)),
        ({"model": "a:Online:nitro"}, (("web_searches", 1),)),
        ({"model": "a", "models": ["b:online"]}, (("web_searches", 1),)),
        ({"model": "a", "plugins": [{"id": "web"}]}, (("web_searches", 1),)),
        ({"model": "a", "plugins": [{"id": "file-parser"}, 1, {}]}, ()),
        ({"model": "a", "plugins": None, "extra_body": {"provider": {}}}, ()),
    ],
)
def test_a_model_that_searches_the_web_costs_a_search(members, units):
    """OpenRouter's variant ``:online``."""
    assert read({"messages": [], **members}).units == units


@pytest.mark.parametrize(
    ("dialect", "endpoint"),
    [
        (OpenAI(), "responses"),
        (OpenAI(), "embeddings"),
        (OpenAI(), "completions"),
        (Anthropic(), "messages"),
        (Cohere(), "rerank"),
        (Media(), "images.generations"),
    ],
)
def test_other_endpoints_have_lists_too(dialect, endpoint):
    """A router takes them wherever it takes a model."""
    match = PathMatch(endpoint, metered=True)
    facts = read({"model": "a", "models": ["b"], "prompt": "t"}, match, dialect)
    assert facts.named_models == ("a", "b")
    assert read({"models": ["b"]}, match, dialect).model == "b"


def test_batches_with_lists_are_refused():
    """Their requests are of one model."""
    match = PathMatch("messages.batches", metered=True)
    params = {"model": "a", "models": ["b"], "max_tokens": 1, "messages": []}
    with pytest.raises(DialectError):
        read({"requests": [{"params": params}]}, match, ANTHROPIC_BATCHES)


ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": "opus"}
PICTURE = {"type": "image_generation"}


@pytest.mark.parametrize(
    ("tools", "models"),
    [
        (None, ()),
        ([], ()),
        ('"model"', ()),
        ([ADVISOR], ("opus",)),
        ([ADVISOR, {**ADVISOR, "model": "sonnet"}, ADVISOR], ("opus", "sonnet")),
        ([PICTURE], ("gpt-image-1",)),
        ([{**PICTURE, "model": "gpt-image-2"}], ("gpt-image-2",)),
        ([{"type": "image", "parameters": {"model": "a/b"}}], ("a/b",)),
        ([{"type": "function", "parameters": {"model": {}}}], ()),
        ([{"type": "function", "model": "mine"}, {"type": "mcp"}], ()),
        ([{"name": "x", "input_schema": {"properties": {"model": {}}}}], ()),
    ],
)
def test_models_of_tools(tools, models):
    """Tools that the provider runs with a model of their own."""
    for dialect, endpoint in (
        (OpenAI(), "responses"),
        (OpenAI(), "chat.completions"),
        (Anthropic(), "messages"),
    ):
        match = PathMatch(endpoint, metered=True)
        facts = read({"model": "a", "tools": tools}, match, dialect)
        assert facts.tools == models
        assert facts.named_models == ("a",)
        assert facts.checked_models == ("a", *models)


@pytest.mark.parametrize(
    "tools",
    [
        b'[{"type":"x","m\\u006fdel":"opus"}]',
        b'[{"model":"opus"}, {"type":"y"}]',
    ],
)
def test_models_of_tools_by_other_spellings(tools):
    """An escaped name is the same name."""
    assert read(b'{"model":"a","tools":%b}' % tools).tools == ("opus",)


@pytest.mark.parametrize(
    "tools",
    [
        b'[{"type":"x","model":"opus","model":"cheap"}]',
        b'[{"type":"x","model":"opus","n":NaN}]',
        b'[{"type":"image_generation","model":"a"},{"type":"image_generation"}]',
        b"[%b]" % b",".join(b'{"model":"m%d"}' % n for n in range(9)),
        b'[{"model":"%b"}]' % (b"m" * (NAME_CHARS + 1)),
    ],
)
def test_tools_that_cannot_be_checked_are_refused(tools):
    """Names given twice, several models of pictures, too many models."""
    with pytest.raises(DialectError):
        read(b'{"model":"a","tools":%b}' % tools)
