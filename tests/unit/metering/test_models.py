"""Spellings of one model: case, prefixes, dates, variants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering.models import (
    hides_reasoning,
    matches_model,
    matching_names,
    plain_name,
    prepare_patterns,
    spellings,
)
from gateway.metering.prices import PriceTable, packaged_prices

TABLE = PriceTable.parse(packaged_prices())
GPT_4O = [
    "gpt-4o",
    "GPT-4o",
    " gpt-4o ",
    "gpt-4o\n",
    "gpt-4o/",
    "openai/gpt-4o",
    "OpenAI/GPT-4O",
    "azure/gpt-4o",
    "models/gpt-4o",
    "a/b/gpt-4o",
    "openai:gpt-4o",
    "openai.gpt-4o",
    "x" * 300 + "/gpt-4o",
    " " * 300 + "gpt-4o",
    "gpt-4o-2024-08-06",
    "gpt-4o-2024-05-13",
    "openai/gpt-4o-2024-08-06",
    "gpt-4o-20240806",
    "gpt-4o@2024-08-06",
    "gpt-4o:online",
    "gpt-4o-latest",
]


@pytest.mark.parametrize("model", GPT_4O)
def test_one_name_for_all_spellings(model):
    """Limits count by one name, and a pattern for the plain name matches them all."""
    assert TABLE.canonical_name(model) == "gpt-4o"
    assert "gpt-4o" in matching_names(model)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("publishers/google/models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", "claude-sonnet-4"),
        ("claude-sonnet-4@20250514", "claude-sonnet-4"),
        ("My-Model-002", "my-model-002"),
        ("llama9:latest", "llama9"),
        ("x" * 500, "x" * 500),
        ("", ""),
    ],
)
def test_canonical_names(model, name):
    """Names that the price table does not know keep their version."""
    assert TABLE.canonical_name(model) == name


def test_models_that_differ():
    """Other models of a family have names of their own."""
    names = ["gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-5-mini", "o3", "my-1", "my-2"]
    assert len({TABLE.canonical_name(name) for name in names}) == len(names)


def test_fine_tuned_models_match_their_base():
    """A limit of the base model holds for its fine-tuned ones."""
    model = "openai/ft:gpt-4o-mini-2024-07-18:org::id"
    assert {"gpt-4o-mini", "gpt-4o-mini-2024-07-18"} <= set(matching_names(model))
    assert model in matching_names(model)


@given(st.text(max_size=30))
def test_any_name(model):
    """Any text has a plain name, which is the same for its other spellings."""
    assert spellings(model)
    name = model.strip().rstrip("/") or "x"
    assert plain_name("openai/" + name) == plain_name(name)
    matching_names(model)
    matching_names("ft:" + model)


@pytest.mark.parametrize(
    ("model", "hidden"),
    [
        ("gpt-4o", False),
        ("o3-mini", True),
        ("openai/GPT-5-mini", True),
        ("ft:gpt-5:acme::x", True),
        ("gemini-2.5-pro", True),
        ("models/gemini-1.5-flash", False),
        ("claude-sonnet-4", False),
        ("", False),
    ],
)
def test_models_whose_streams_hide_their_reasoning(model, hidden):
    """By name, in every spelling."""
    assert hides_reasoning(model) is hidden


@pytest.mark.parametrize(
    ("pattern", "model", "matched"),
    [
        ("gpt-5*", "GPT-5-mini", True),
        ("GPT-5-Mini", "openai/gpt-5-mini-2025-08-07", True),
        (" gpt-5 ", "gpt-5:online", True),
        ("*:online", "openai/gpt-5:online", True),
        ("openai/gpt-5", "openrouter/OpenAI/gpt-5", True),
        ("openrouter/*", "openrouter/openai/gpt-5", True),
        ("openai/*", "gpt-5", False),
        ("gpt-5", "gpt-5-mini", False),
        ("gpt-[45]", "gpt-4", True),
        ("gpt-?", "gpt-55", False),
        ("gpt-4o-mini", "ft:gpt-4o-mini:org::id", True),
        ("", "gpt-5", False),
        ("*", "", True),
    ],
)
def test_patterns_match_every_spelling(pattern, model, matched):
    """Patterns hold in any case, for prefixes, dates and variants."""
    prepare_patterns((pattern,))
    assert matches_model((pattern,), matching_names(model)) is matched
    assert matches_model(("x", pattern, "y"), matching_names(model)) is matched


def test_no_pattern_matches_nothing():
    """An empty list names no model."""
    assert not matches_model((), matching_names("gpt-5"))


def test_names_of_many_segments_have_few_spellings():
    """The last eight prefixes are tried."""
    assert len(matching_names("a/" * 200 + "b")) < 12


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("openai/GPT-5@preset/mine", "gpt-5"),
        ("@preset/mine", "@preset=mine"),
    ],
)
def test_presets(model, name):
    """A preset is no part of a model's name; alone, it names no model."""
    assert plain_name(model) == name
