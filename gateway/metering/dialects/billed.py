"""What an answer states beside its token counts: model, service tier, price, other units.

Units in tokens (``core.model.UNITS``) are parts of the prompt or the completion.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Any

import msgspec
from msgspec import Raw

from gateway.core.model import Usage
from gateway.metering.dialects.fields import (
    ABSENT,
    MAX_COUNT,
    Details,
    Holder,
    Metadata,
    Modality,
    Number,
    Pair,
    Stated,
    ToolCalls,
    UsageEnvelope,
    whole,
)

MODEL_CHARS = 200
# OpenAI's tool for pictures, and its model where neither request nor answer names one.
PICTURES, PICTURE_MODEL = "image_generation", "gpt-image-1"
_TIER_CHARS = 40
# xAI states prices in 1e-10 dollars.
_TICKS_PER_USD = 1e10
# No answer costs so much: a larger price is not believed.
_MOST_USD = 1e6
INPUT = {
    "audio": "input_audio_tokens",
    "image": "input_image_tokens",
    "video": "input_video_tokens",
}
OUTPUT = {
    "audio": "output_audio_tokens",
    "image": "output_image_tokens",
    "video": "output_video_tokens",
}
_CACHED = {"audio": "cache_audio_read_tokens", "image": "cache_image_read_tokens"}
_MODALITIES = {"prompt": INPUT, "completion": OUTPUT, "cached": _CACHED, "tools": INPUT}
_PART_OF = {
    **dict.fromkeys(INPUT.values(), "input"),
    **dict.fromkeys(OUTPUT.values(), "output"),
    **dict.fromkeys(_CACHED.values(), "cache_read"),
    "cache_write_1h_tokens": "cache_write",
}
# Perplexity's models that state their searches, but are billed by request.
_NAMES_SEARCHES = re.compile(r"^sonar(?!-deep)")
_QUALIFIER = re.compile(r"[a-z0-9][a-z0-9._-]{0,19}")
_PLAIN = frozenset({"auto", "standard", "default"})
# Models of OpenAI's chat endpoint that search the web for every answer.
_SEARCHING = ("search-preview", "search-api")


class _Item(msgspec.Struct):
    type: Any = None
    action: Any = None
    arguments: Any = None
    container_id: Any = None
    status: Any = None
    size: Any = None
    quality: Any = None


class _Source(msgspec.Struct):
    maps: Any = None


class _Grounding(msgspec.Struct, rename="camel"):
    web_search_queries: list[Any] | None = None
    image_search_queries: list[Any] | None = None
    grounding_chunks: list[_Source] | None = None


class _Grounded(msgspec.Struct, rename="camel"):
    grounding_metadata: _Grounding | None = None


class _Tokens(msgspec.Struct):
    input_tokens: Number = None
    output_tokens: Number = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None


class _Requests(msgspec.Struct):
    num_requests: Number = None


class _Tools(msgspec.Struct):
    image_gen: _Tokens | None = None
    web_search: _Requests | None = None


class _Tool(msgspec.Struct):
    type: Any = None
    count: Number = None
    model: Any = None
    size: Any = None
    quality: Any = None


_items = msgspec.json.Decoder(list[_Item]).decode
_candidates = msgspec.json.Decoder(list[_Grounded]).decode
_tools = msgspec.json.Decoder(_Tools).decode
_tool_counts = msgspec.json.Decoder(list[_Tool]).decode
_modalities = msgspec.json.Decoder(list[Modality]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def stated_model(value: Any) -> str:
    """A model's name as an answer states it; "" for anything else."""
    return value[:MODEL_CHARS] if isinstance(value, str) else ""


def stated_tier(value: Any) -> str:
    """A service tier in lower case; "" for anything else."""
    if isinstance(value, dict):  # Bedrock
        value = value.get("type")
    return value[:_TIER_CHARS].lower() if isinstance(value, str) else ""


def dollars(value: Any) -> float | None:
    """A price as a number, text, or Perplexity's object; None if it is none."""
    if isinstance(value, dict):
        value = value.get("total_cost")
    amount = _number(value)
    return amount if amount is not None and amount <= _MOST_USD else None


def quantity(value: Any) -> float | None:
    """A number of seconds, images and the like; None for any other value."""
    number = _number(value)
    return None if number is None else min(number, MAX_COUNT)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) and number >= 0 else None


def name_answer(usage: Usage, model: Any, tier: Any) -> Usage:
    """Complete the usage of an answer by its top level; the common case, and fast."""
    if type(model) is str:
        usage.model = model if len(model) <= MODEL_CHARS else model[:MODEL_CHARS]
        if "-search-" in model:
            usage.units = _with_searches(usage.units, model)
    if tier is not None:
        usage.tier = stated_tier(tier)
    return usage


def _with_searches(
    units: tuple[tuple[str, float], ...], model: str
) -> tuple[tuple[str, float], ...]:
    """The units with the search that every answer of some models makes."""
    if not any(word in model for word in _SEARCHING) or dict(units).get("web_searches"):
        return units
    return (*units, ("web_searches", 1))


_NO_TOOLS = Raw(b"[]")


class Billed:
    """Collects over an answer what it states beside tokens: the last of each counts."""

    __slots__ = ("advised", "cost", "model", "raws", "tier", "tools", "units")

    def __init__(self) -> None:
        self.model = ""
        self.tier = ""
        self.cost: float | None = None
        self.units: dict[str, float] = {}
        # Steps that name their model, which may be another than the answer's.
        self.advised: list[Usage] = []
        # Members that are read at the end only, because streams repeat them.
        self.raws: dict[str, Raw] = {}
        self.tools = _NO_TOOLS  # of the request, as an answer repeats them

    # -- members ------------------------------------------------------------------

    def note_envelope(self, env: UsageEnvelope) -> None:
        """Model, tier and lists at the top level of an answer or event."""
        self.note_names(
            env.model or env.model_version, env.service_tier or env.converse_tier
        )
        if env.candidates is not ABSENT and b'"groundingM' in bytes(env.candidates):
            self.raws["candidates"] = env.candidates
        if env.output is not ABSENT or env.tool_usage is not ABSENT:
            self.note_tools(env.output, env.tool_usage, env.tools)
        if env.steps is not ABSENT:
            self.raws["output"] = env.steps

    def note_names(self, model: Any, tier: Any) -> None:
        """The model that answered, and its service tier."""
        if model is not None:
            self.model = stated_model(model) or self.model
        if tier is not None:
            self.tier = stated_tier(tier) or self.tier

    def note_holder(self, holder: Holder) -> None:
        """The same for the answer inside an event."""
        self.note_names(holder.model, holder.service_tier)
        self.note_tools(holder.output, holder.tool_usage, holder.tools)

    def note_tools(self, output: Raw, tool_usage: Raw, tools: Raw) -> None:
        """OpenAI Responses: calls of server tools, which are items of the answer."""
        if tools is not ABSENT:
            self.tools = tools
        if output is not ABSENT:
            self.raws["output"] = output
        if tool_usage is not ABSENT:
            self.raws["tool_usage"] = tool_usage

    def note_stated(self, stated: Stated) -> None:
        """Members of a ``usage`` object."""
        if stated.cost is not None:
            self.cost = dollars(stated.cost)
        elif stated.cost_in_usd_ticks is not None:
            self.cost = dollars(
                (_number(stated.cost_in_usd_ticks) or 0) / _TICKS_PER_USD
            )
        elif stated.estimated_cost is not None:
            self.cost = dollars(stated.estimated_cost)
        if stated.service_tier is not None:
            self.tier = stated_tier(stated.service_tier) or self.tier
        if stated.speed == "fast":
            self.tier = "fast"
        if stated.cache_creation is not None:
            written = stated.cache_creation.ephemeral_1h_input_tokens
            self.note("cache_write_1h_tokens", written)
        if stated.cacheDetails is not None:
            hour = [one.inputTokens for one in stated.cacheDetails if one.ttl == "1h"]
            self.note("cache_write_1h_tokens", *hour)
        if stated.server_tool_use is not None:
            self._note_calls(stated.server_tool_use)
        if stated.server_side_tool_usage_details is not None:
            self._note_calls(stated.server_side_tool_usage_details)
        if type(stated.billed_units) is Pair:
            self.note("search_units", stated.billed_units.search_units)
            self.note("classifications", stated.billed_units.classifications)
            self.note("input_image_tokens", stated.billed_units.image_tokens)
        self._note_quantities(stated)

    def _note_quantities(self, stated: Stated) -> None:
        if stated.num_search_queries:
            self.note("web_searches", stated.num_search_queries)
        if stated.num_sources_used:
            self.note("web_searches", stated.num_sources_used)
        if stated.type == "duration":
            self.note("audio_seconds", stated.seconds)
        if stated.prompt_audio_seconds:
            self.note("audio_seconds", stated.prompt_audio_seconds)

    def _note_calls(self, calls: ToolCalls) -> None:
        self.note(
            "web_searches",
            calls.web_search_requests,
            calls.web_search_calls,
            calls.x_search_calls,
        )
        self.note("file_searches", calls.file_search_calls, calls.document_search_calls)

    def note_details(self, details: Details, units: dict[str, str]) -> None:
        """Tokens by modality, in the OpenAI family."""
        if details.audio_tokens:
            self.note(units["audio"], details.audio_tokens)
        if details.image_tokens:
            self.note(units["image"], details.image_tokens)
        if details.video_tokens:
            self.note(units["video"], details.video_tokens)
        cached = details.cached_tokens_details
        if cached is not None:
            self.note(_CACHED["audio"], cached.audio_tokens)
            self.note(_CACHED["image"], cached.image_tokens)

    def note_metadata(self, meta: Metadata) -> None:
        """Members of Gemini's ``usageMetadata``."""
        self._keep(
            ("prompt", meta.prompt_tokens_details),
            ("completion", meta.candidates_tokens_details),
            ("completion", meta.response_tokens_details),
            ("cached", meta.cache_tokens_details),
            ("tools", meta.tool_use_prompt_tokens_details),
        )
        for tier in (meta.traffic_type, meta.service_tier):
            if tier is not None:
                self.tier = stated_tier(tier) or self.tier

    def note_interaction(self, stated: Stated) -> None:
        """Tokens by modality, of Gemini's Interactions."""
        self._keep(
            ("prompt", stated.input_tokens_by_modality),
            ("completion", stated.output_tokens_by_modality),
            ("cached", stated.cached_tokens_by_modality),
            ("grounding", stated.grounding_tool_count),
        )

    def _keep(self, *members: tuple[str, Raw]) -> None:
        """Keep the members that are there, to be read at the end."""
        for name, raw in members:
            if raw is not ABSENT:
                self.raws[name] = raw

    def note(self, unit: str, *values: Any) -> None:
        """The sum of quantities, in place of an earlier one; without any, no change."""
        total = sum(quantity(value) or 0 for value in values)
        if total:
            self.units[unit] = total

    # -- the end ------------------------------------------------------------------

    def onto(self, usage: Usage) -> Usage:
        """Complete a usage by what was stated beside it."""
        usage.model, usage.tier, usage.cost_usd = self.model, self.tier, self.cost
        if self.raws:
            self._read_raws(usage)
        if _NAMES_SEARCHES.search(usage.model):
            self.units.pop("web_searches", None)
        if self.advised:
            others = (one for one in self.advised if one.model != self.model)
            usage.tools = (*usage.tools, *others)
        if self.units:
            usage.units = bounded_units(self.units, usage)
        if "-search-" in usage.model:
            usage.units = _with_searches(usage.units, usage.model)
        return usage

    def _read_raws(self, usage: Usage) -> None:
        for name, raw in self.raws.items():
            try:
                if name in _MODALITIES:
                    self._read_modalities(raw, _MODALITIES[name])
                elif name == "output":
                    self._read_items(raw, usage)
                elif name == "tool_usage":
                    self._read_tools(raw, usage)
                elif name == "candidates":
                    self._read_grounding(raw)
                else:
                    self._read_grounded(raw)
            except _UNREADABLE:
                continue

    def _read_modalities(self, raw: Raw, units: dict[str, str]) -> None:
        for one in _modalities(raw):
            kind = one.modality.lower() if isinstance(one.modality, str) else ""
            unit = units.get(kind)
            count = whole(one.tokens if one.tokenCount is None else one.tokenCount)
            if unit is not None and count:
                # Gemini's tool-use prompt is a second part of the prompt.
                self.units[unit] = self.units.get(unit, 0) + count

    def _read_items(self, raw: Raw, usage: Usage) -> None:
        if b"_call" not in bytes(raw):
            return
        searches = files = 0
        pictures: dict[str, float] = {}
        containers = set()
        for item in _items(raw):
            if item.type == "file_search_call":
                files += 1
            elif item.type == "image_generation_call" and item.status != "failed":
                unit = self._picture_unit(item)
                pictures[unit] = pictures.get(unit, 0) + 1
            elif item.type == "web_search_call":
                # Opening a page that a search has found is not billed.
                action = (
                    item.action.get("type") if isinstance(item.action, dict) else None
                )
                searches += action in (None, "search")
            elif item.type == "code_interpreter_call":
                containers.add(str(item.container_id))
            elif item.type == "google_search_call" and isinstance(item.arguments, dict):
                queries = item.arguments.get("queries")
                searches += len(queries) if isinstance(queries, list) else 1
        self._at_least("web_searches", searches)
        self._at_least("file_searches", files)
        self._at_least("code_sessions", len(containers))
        if pictures and not _states_pictures(self.raws.get("tool_usage", ABSENT)):
            made = Usage(source="upstream", units=tuple(pictures.items()))
            made.model = self._picture_tool().model
            usage.tools = (*usage.tools, made)

    def _picture_unit(self, item: _Item) -> str:
        """One picture, by size and quality: its own, or those that the tool names."""
        tool = self._picture_tool()
        return qualified("images", item.size or tool.size, item.quality or tool.quality)

    def _picture_tool(self) -> _Tool:
        """The tool for pictures, as the answer repeats it."""
        found = _Tool()
        try:
            for tool in _tool_counts(self.tools):
                if tool.type == PICTURES:
                    found = tool
        except _UNREADABLE:
            pass
        found.model = stated_model(found.model)
        return found

    def _read_tools(self, raw: Raw, usage: Usage) -> None:
        tools = _tools(raw)
        if tools.web_search is not None:
            self._at_least("web_searches", whole(tools.web_search.num_requests) or 0)
        made = tools.image_gen
        if made is None:
            return
        prompt = whole(made.input_tokens) or 0
        completion = whole(made.output_tokens) or 0
        if not prompt + completion:
            return
        usage.prompt += prompt
        usage.completion += completion
        usage.total += prompt + completion
        given = made.input_tokens_details
        images = 0 if given is None else whole(given.image_tokens) or 0
        part = Usage(prompt, completion, prompt + completion, source="upstream")
        units: dict[str, float] = {
            "input_image_tokens": images,
            "output_image_tokens": completion,
        }
        part.units = bounded_units(units, part)
        part.model = self._picture_tool().model
        usage.tools = (*usage.tools, part)

    def _read_grounding(self, raw: Raw) -> None:
        """Google Search: billed by query from Gemini 3 on, before by answer."""
        queries = 0
        for one in _candidates(raw):
            found = one.grounding_metadata
            if found is None:
                continue
            queries += len(found.web_search_queries or ())
            queries += len(found.image_search_queries or ())
            queries += any(chunk.maps for chunk in found.grounding_chunks or ())
        if re.match(r"(?:models/)?gemini-[12]", self.model):
            queries = min(queries, 1)
        self._at_least("web_searches", queries)

    def _read_grounded(self, raw: Raw) -> None:
        searches = [tool for tool in _tool_counts(raw) if tool.type != "retrieval"]
        self._at_least("web_searches", sum(whole(one.count) or 0 for one in searches))

    def _at_least(self, unit: str, count: int) -> None:
        if count > self.units.get(unit, 0):
            self.units[unit] = count


def _states_pictures(tool_usage: Raw) -> bool:
    """Whether ``tool_usage`` has the tokens of pictures."""
    if tool_usage is ABSENT:
        return False
    try:
        made = _tools(tool_usage).image_gen
    except _UNREADABLE:
        return False
    return made is not None and bool(whole(made.output_tokens))


def name_tools(usage: Usage, tools: tuple[str, ...]) -> None:
    """Name the model of pictures where the answer does not: the request's, or the one
    that OpenAI chooses.
    """
    for part in usage.tools:
        if not part.model:
            part.model = tools[0] if tools else PICTURE_MODEL


def qualified(unit: str, size: Any, quality: Any) -> str:
    """A unit with the size and quality on which its price depends (``UNITS``)."""
    for value in (size, quality):
        text = str(value).strip().lower().replace("*", "x") if value else ""
        if text not in _PLAIN and _QUALIFIER.fullmatch(text):
            unit += f":{text}"
    return unit


def bounded_units(
    units: dict[str, float], usage: Usage
) -> tuple[tuple[str, float], ...]:
    """The units without zeros; those in tokens never exceed what they are part of."""
    rest = {
        "input": usage.prompt,
        "output": max(usage.completion, usage.total - usage.prompt),
        "cache_write": usage.cache_write,
        "cache_read": usage.cached,
    }
    found = []
    for unit, amount in units.items():
        if unit.endswith("_tokens"):
            whole_of = _PART_OF[unit]
            part: float = min(int(amount), rest[whole_of])
            rest[whole_of] -= int(part)
        else:
            part = amount
        if part:
            found.append((unit, part))
    return tuple(found)
