"""Names of models: the spellings in which clients write one model, and patterns of them.

Limits, caps, lists, prices and counters all match these spellings, so that a client's
choice of case, prefix or date does not choose its limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import translate
from functools import lru_cache

# Longer names are not searched for suffixes.
_NAME_CHARS = 200
_CACHED_NAMES = 4096
# Suffixes are looked for in the last characters, and so many spellings are made: names
# of models have up to five. Others would cost more than they are worth.
_SUFFIX_CHARS = 32
_MOST_SPELLINGS = 10
# Lists of patterns that stay prepared: a configuration has fewer.
_CACHED_PATTERNS = 8192
# Path-like prefixes that patterns may name (``openrouter/openai/gpt-5``).
_SEGMENTS = 8

_REGION = re.compile(r"^(?:us|eu|apac|jp|au|ca|global|us-gov)\.")
_VENDOR = re.compile(
    r"^(?:anthropic|amazon|meta|cohere|mistral|ai21|deepseek|openai|qwen|google|xai"
    r"|moonshotai|zai|minimax|nvidia|azure|vertex_ai|bedrock|gemini)[.:]"
)
# Removed from the right, one at a time, until the name is known.
_SUFFIX = re.compile(
    r"(?:-v\d+)?:\d+(?::\d+k)?$"  # Bedrock: -v1:0, :0, :0:200k
    r"|-v\d+$"
    r"|:(?:free|thinking|nitro|floor|online|extended|beta|exacto)$"  # OpenRouter
    r"|[-_@]\d{4}-?\d{2}-?\d{2}$"  # 2024-08-06, 20250514, @20250514
    r"|-(?:preview-)?\d{2}-\d{2,4}$"  # preview-05-06, 08-2024
    r"|[-:](?:latest|default|exp|preview)$|@(?:latest|default|\d{3})$"
    r"|-\d{3,4}$"  # -001, -0613, -2407
)


_PRESET = "@preset/"
# OpenAI's and Gemini's reasoning models.
_HIDDEN = re.compile(r"o\d|gpt-[5-9]|codex|gemini-(?:2\.5|[3-9])")


@lru_cache(_CACHED_NAMES)
def spellings(model: str) -> tuple[str, ...]:
    """A name in lower case without path-like prefixes; then without region and vendor;
    then with its suffixes (date, version, variant) removed one by one.
    """
    name = _last_segment(model)
    found = [name]
    if len(name) > _NAME_CHARS:
        return (name,)
    name = _without_prefixes(name)
    found.append(name)
    while len(found) < _MOST_SPELLINGS:
        suffix = _SUFFIX.search(name, max(0, len(name) - _SUFFIX_CHARS))
        if suffix is None or not suffix.start():
            break
        name = name[: suffix.start()]
        found.append(name)
    return tuple(dict.fromkeys(found))


@lru_cache(_CACHED_NAMES)
def matching_names(model: str) -> tuple[str, ...]:
    """Every spelling that a policy's pattern may match: the whole name in lower case,
    without one path-like prefix after the other, and ``spellings``; of a fine-tuned model
    also those of its base.
    """
    names, whole = spellings(model), _whole(model)
    found = [model.strip().lower(), whole]
    if "/" in whole:
        parts = whole.split("/")[-_SEGMENTS:]
        found += ["/".join(parts[start:]) for start in range(len(parts))]
    found += names
    if names[0].startswith("ft:"):
        found += spellings(names[0].split(":")[1])
    return tuple(dict.fromkeys(found))


@lru_cache(_CACHED_PATTERNS)
def _prepared(patterns: tuple[str, ...]) -> Callable[[str], object]:
    return re.compile("|".join(translate(p.strip().lower()) for p in patterns)).match


def prepare_patterns(patterns: tuple[str, ...]) -> None:
    """Compile patterns now, when a configuration is read, and not at their first use."""
    _prepared(patterns)


def matches_model(patterns: tuple[str, ...], names: Iterable[str]) -> bool:
    """Whether one of ``patterns`` (globs, in any case) matches one of the spellings.

    Of no patterns none matches.
    """
    return bool(patterns) and any(map(_prepared(patterns), names))


def plain_name(model: str) -> str:
    """The name in lower case without prefixes, with its date and version."""
    return _without_prefixes(_last_segment(model)).removesuffix(":latest")


def _last_segment(model: str) -> str:
    return _whole(model).rstrip("/").rpartition("/")[2].strip()


def _whole(model: str) -> str:
    """The name in lower case, without a preset of OpenRouter (``gpt-5@preset/mine``). A
    preset alone names no model and has no other spelling.
    """
    name = model.strip().lower()
    if _PRESET in name:
        named = name.partition(_PRESET)[0].strip()
        return named or name.replace("/", "=")
    return name


def _without_prefixes(name: str) -> str:
    return _VENDOR.sub("", _REGION.sub("", name))


@lru_cache(_CACHED_NAMES)
def hides_reasoning(model: str) -> bool:
    """Whether streams of this model may show nothing while it reasons."""
    return any(map(_HIDDEN.match, matching_names(model)))
