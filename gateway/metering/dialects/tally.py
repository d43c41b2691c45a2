"""The usage of one answer, merged from all that its members state."""

from __future__ import annotations

import msgspec

from gateway.core.model import Usage
from gateway.metering.dialects.billed import INPUT, OUTPUT, Billed, stated_model
from gateway.metering.dialects.fields import (
    ABSENT,
    CLOSED,
    MAX_COUNT,
    OPEN,
    OPEN_IF_CUT,
    Holder,
    Invocation,
    Iteration,
    Metadata,
    Number,
    Pair,
    SglangInfo,
    Stated,
    TitanResult,
    UsageEnvelope,
    decode_sglang,
    decode_tgi,
    figure,
    whole,
)

# Answers of one stream that are told apart: more than a server generates at once.
_ANSWERS_MAX = 1024


class UsageTally:
    """Usage merged over an answer: of each field, the last value counts.

    This holds for every provider: deltas are cumulative (Anthropic, Gemini), or the same
    object is repeated (DeepSeek), or there is only one.

    ``open``: the figures may be lower than what was generated. OPEN after Anthropic's
    message_start until a message_delta, OPEN_IF_CUT while Gemini has stated no
    candidates yet.
    """

    __slots__ = (
        "answers",
        "billed",
        "cache_write",
        "cached",
        "completion",
        "extra",
        "fresh",
        "open",
        "prompt",
        "reasoning",
        "seen",
        "thoughts",
        "total",
    )

    def __init__(self) -> None:
        self.seen = False
        self.open = CLOSED
        self.billed = Billed()
        # (prompt, completion, cached) of each answer of an SGLang stream, by its id
        self.answers: dict[str, tuple[int, int, int]] | None = None
        self.prompt: int | None = None  # includes what was cached
        self.fresh: int | None = None  # excludes it (Anthropic, Bedrock)
        self.extra = 0  # Gemini's tool-use prompt
        self.completion: int | None = None
        self.thoughts = 0  # Gemini's reasoning, not in its candidates' count
        self.total: int | None = None
        self.cached = 0
        self.cache_write = 0
        self.reasoning = 0

    @property
    def plausible(self) -> bool:
        """False: some count cannot be one of an answer, so that none is believed."""
        most = max(
            self.prompt or 0,
            self.fresh or 0,
            self.extra,
            self.completion or 0,
            self.thoughts,
            self.total or 0,
            self.cached,
            self.cache_write,
        )
        return most < MAX_COUNT

    def usage(self) -> Usage:
        """The merged usage: parts never exceed the whole, and nothing counts twice."""
        prompt, completion = self.prompt, self.completion or 0
        cached, written = self.cached, self.cache_write
        total, reasoning = self.total, self.reasoning
        if prompt is None:
            prompt = (self.fresh or 0) + cached + written
        elif (
            total == prompt + completion + cached + written
            and not self.thoughts
            and reasoning != cached + written
        ):
            prompt += cached + written  # the total shows that the prompt excludes them
        if self.thoughts or self.extra:
            thoughts, extra = self._beside(prompt, completion)
            prompt += extra
            completion += thoughts
            reasoning += self.thoughts
        if total is None:
            total = prompt + completion
        elif self.prompt is None and self.fresh is None and self.completion is None:
            # Only a total (Voyage): embeddings, which are all prompt.
            prompt = total
        total = max(total, prompt + completion)
        if not reasoning:
            # Google's OpenAI endpoint: only the total includes reasoning.
            reasoning = total - prompt - completion
        cached = min(cached, prompt)
        return self.billed.onto(
            Usage(
                prompt,
                completion,
                total,
                cached,
                min(reasoning, total - prompt),
                min(written, prompt - cached),
                "upstream",
            )
        )

    def _beside(self, prompt: int, completion: int) -> tuple[int, int]:
        """Gemini's (thoughts, tool-use prompt) that ``completion`` and ``prompt`` leave
        out: some servers include them, which only the total shows.
        """
        thoughts, extra, total = self.thoughts, self.extra, self.total
        rest = thoughts + extra if total is None else total - prompt - completion
        if rest < thoughts + extra:
            if rest == thoughts and extra <= prompt:
                return thoughts, 0
            if thoughts <= completion:
                return 0, min(extra, max(rest, 0))
        return thoughts, extra

    def take(self, env: UsageEnvelope) -> None:
        """Merge the usage of one answer or event."""
        self.billed.note_envelope(env)
        if env.usage is not None:
            self.take_stated(env.usage)
        if env.usage_metadata is not None:
            self._take_metadata(env.usage_metadata)
        if env.x_groq is not None:
            self._take_holder(env.x_groq)
        if type(env.message) is Holder and env.message.usage is not None:
            self._take_holder(env.message)
            if env.usage is None:
                self.open = OPEN  # message_start: output_tokens is preliminary
        if type(env.response) is Holder:
            self._take_holder(env.response)
        if type(env.delta) is Holder:
            self._take_holder(env.delta)
        if type(env.interaction) is Holder:
            self._take_holder(env.interaction)
        if env.meta is not None:
            self.take_stated(env.meta)
        self._take_native(env)

    def _take_holder(self, holder: Holder) -> None:
        self.billed.note_holder(holder)
        if holder.usage is not None:
            self.take_stated(holder.usage)
        if holder.meta is not None:
            self.take_stated(holder.meta)

    def take_stated(self, stated: Stated) -> None:
        """Merge a ``usage`` object."""
        self.billed.note_stated(stated)
        prompt = figure(stated.prompt_tokens)
        completion = figure(stated.completion_tokens)
        total = figure(stated.total_tokens)
        if prompt is None and completion is None:
            if not self._take_other(stated, total):
                return
        else:
            self.completion = completion if completion is not None else self.completion
            self.prompt = prompt if prompt is not None else self.prompt
            if stated.input_tokens is not None and prompt is None:
                self.prompt = figure(stated.input_tokens)
            cached = whole(stated.cache_read_input_tokens)
            self.cached = self.cached if cached is None else cached
            self.cache_write = (
                whole(stated.cache_creation_input_tokens) or self.cache_write
            )
        if total is not None:
            self.total = total
        self.seen = True
        self.open = CLOSED
        self._take_kinds(stated)

    def _take_other(self, stated: Stated, total: int | None) -> bool:
        """``input_tokens`` in its different meanings; False: nothing was stated."""
        if stated.inputTokens is not None or stated.outputTokens is not None:
            self._take_converse(stated)
            return True
        if (
            stated.total_input_tokens is not None
            or stated.total_output_tokens is not None
        ):
            self._take_interaction(stated)
            return True
        pair = stated.tokens if type(stated.tokens) is Pair else stated.billed_units
        if pair is not None and (
            pair.input_tokens is not None or pair.output_tokens is not None
        ):
            self.prompt = (figure(pair.input_tokens) or 0) + (
                figure(pair.image_tokens) or 0
            )
            self.completion = figure(pair.output_tokens) or 0
            return True
        fresh = figure(stated.input_tokens)
        output = figure(stated.output_tokens)
        if fresh is None and output is None:
            return total is not None
        read = whole(stated.cache_read_input_tokens)
        write = whole(stated.cache_creation_input_tokens)
        self.cached = self.cached if read is None else read
        self.cache_write = self.cache_write if write is None else write
        self.completion = self.completion if output is None else output
        if total is not None and fresh is not None and total == fresh + (output or 0):
            self.prompt = fresh  # the total shows that it includes cached tokens
        elif stated.input_tokens_details or stated.input_token_details:
            self.prompt = fresh if fresh is not None else self.prompt
        else:
            self.fresh = fresh if fresh is not None else self.fresh
            if stated.iterations:
                self._take_iterations(stated.iterations)
        return True

    def _take_iterations(self, iterations: list[Iteration]) -> None:
        """Anthropic's compaction and fallback: the other counts leave compaction out.

        After a fallback the plain ``message`` entries are the attempts of models that
        declined, which are not billed.
        """
        fallback = any(one.type == "fallback_message" for one in iterations)
        billed = [one for one in iterations if not (fallback and one.type == "message")]
        self.fresh = _most(self.fresh, [one.input_tokens for one in billed])
        self.completion = _most(self.completion, [one.output_tokens for one in billed])
        read = [one.cache_read_input_tokens for one in billed]
        self.cached = _most(self.cached, read)
        written = [one.cache_creation_input_tokens for one in billed]
        self.cache_write = _most(self.cache_write, written)
        # Of an advisor, at the price of its own model.
        self.billed.advised = [_advised(one) for one in billed if one.model]

    def _take_converse(self, stated: Stated) -> None:
        """Bedrock: inputTokens excludes cached tokens, totalTokens includes them."""
        self.fresh = figure(stated.inputTokens) or 0
        self.completion = figure(stated.outputTokens) or 0
        total = figure(stated.totalTokens)
        self.total = self.total if total is None else total
        self.cached = max(
            whole(stated.cacheReadInputTokens) or 0,
            whole(stated.cacheReadInputTokenCount) or 0,
        )
        self.cache_write = max(
            whole(stated.cacheWriteInputTokens) or 0,
            whole(stated.cacheWriteInputTokenCount) or 0,
        )

    def _take_interaction(self, stated: Stated) -> None:
        """Gemini's Interactions, which leave thoughts and tools out of both counts."""
        self.prompt = figure(stated.total_input_tokens) or 0
        self.completion = figure(stated.total_output_tokens) or 0
        self.thoughts = figure(stated.total_thought_tokens) or 0
        self.extra = figure(stated.total_tool_use_tokens) or 0
        self.cached = whole(stated.total_cached_tokens) or 0
        self.billed.note_interaction(stated)

    def _take_kinds(self, stated: Stated) -> None:
        """Cached, written and reasoning tokens of the OpenAI family and Cohere."""
        details = (
            stated.prompt_tokens_details
            or stated.input_tokens_details
            or stated.input_token_details
        )
        if details is not None:
            cached = whole(details.cached_tokens)
            self.cached = cached or self.cached
            self.cache_write = whole(details.cache_write_tokens) or self.cache_write
            self.billed.note_details(details, INPUT)
        for value in (stated.prompt_cache_hit_tokens, stated.cached_tokens):
            if value is not None:
                self.cached = whole(value) or self.cached
        details = (
            stated.completion_tokens_details
            or stated.output_tokens_details
            or stated.output_token_details
        )
        if details is not None:
            self.billed.note_details(details, OUTPUT)
        if details is not None and details.reasoning_tokens is not None:
            self.reasoning = whole(details.reasoning_tokens) or 0
        elif stated.reasoning_tokens is not None:
            self.reasoning = whole(stated.reasoning_tokens) or 0

    def _take_metadata(self, meta: Metadata) -> None:
        self.billed.note_metadata(meta)
        prompt = figure(meta.prompt_token_count)
        total = figure(meta.total_token_count)
        candidates = figure(meta.candidates_token_count)
        if candidates is None:
            candidates = figure(meta.response_token_count)
        thoughts = figure(meta.thoughts_token_count)
        extra = figure(meta.tool_use_prompt_token_count)
        cached = whole(meta.cached_content_token_count)
        self.prompt = self.prompt if prompt is None else prompt
        self.total = self.total if total is None else total
        self.completion = self.completion if candidates is None else candidates
        self.thoughts = self.thoughts if thoughts is None else thoughts
        self.extra = self.extra if extra is None else extra
        self.cached = self.cached if cached is None else cached
        if prompt is not None or total is not None or candidates is not None:
            self.seen = True
            self.open = OPEN_IF_CUT if self.completion is None else CLOSED

    def _take_native(self, env: UsageEnvelope) -> None:
        """Counts at the top level: Ollama, Llama and Titan on Bedrock, llama.cpp."""
        if env.metrics is not None:
            self._take_metrics(env.metrics)
            return
        for prompt, completion in (
            (env.prompt_eval_count, env.eval_count),
            (env.prompt_token_count, env.generation_token_count),
            (env.input_text_token_count, None),
            (env.tokens_evaluated, env.tokens_predicted),
        ):
            if prompt is not None or completion is not None:
                self.prompt = self.prompt if prompt is None else figure(prompt)
                if completion is not None:
                    self.completion = figure(completion)
                self.seen = True
        if env.results:
            self._take_results(env.results)
        if env.details is not ABSENT or env.meta_info is not ABSENT:
            try:
                self._take_server(env)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return  # of another API

    def _take_server(self, env: UsageEnvelope) -> None:
        """TGI's and SGLang's counts."""
        if env.meta_info is not ABSENT:
            info = decode_sglang(env.meta_info)
            if info.completion_tokens is not None:
                self._take_sglang(info)
            return
        details = decode_tgi(env.details)
        if details.generated_tokens is None:
            return
        others = [one.generated_tokens for one in details.best_of_sequences or ()]
        counts = [figure(one) or 0 for one in (details.generated_tokens, *others)]
        self.completion = sum(counts)
        self.seen = True
        if details.input_length is not None:
            self.prompt = figure(details.input_length)
        elif details.prefill:
            self.prompt = len(details.prefill)
        else:
            self.open = OPEN  # the prompt has to be counted

    def _take_sglang(self, info: SglangInfo) -> None:
        """Each answer of a stream repeats its own counts."""
        answers = self.answers = self.answers or {}
        name = info.id if isinstance(info.id, str) else ""
        if name in answers or len(answers) < _ANSWERS_MAX:
            answers[name] = (
                figure(info.prompt_tokens) or 0,
                figure(info.completion_tokens) or 0,
                whole(info.cached_tokens) or 0,
            )
        counts = zip(*answers.values(), strict=True)
        self.prompt, self.completion, self.cached = map(sum, counts)
        self.seen = True

    def add(self, other: UsageTally) -> None:
        """Add the usage of another answer in the same body."""
        if not other.seen:
            self.open = OPEN
            return
        if other.prompt is None and other.fresh is None:
            self.open = OPEN
        self.prompt = (self.prompt or 0) + (other.prompt or 0)
        self.completion = (self.completion or 0) + (other.completion or 0)
        self.cached += other.cached
        self.seen = True

    def _take_results(self, results: list[TitanResult]) -> None:
        generated = [r.tokenCount or r.generated_token_count for r in results]
        if any(count is not None for count in generated):
            self.completion = sum(figure(count) or 0 for count in generated)
            self.seen = True
        if results[0].input_token_count is not None:
            self.prompt = figure(results[0].input_token_count)

    def _take_metrics(self, metrics: Invocation) -> None:
        self.prompt = None
        self.fresh = figure(metrics.input_token_count) or 0
        self.completion = figure(metrics.output_token_count) or 0
        self.cached = whole(metrics.cache_read_input_token_count) or self.cached
        self.cache_write = (
            whole(metrics.cache_write_input_token_count) or self.cache_write
        )
        self.seen = True
        self.open = CLOSED


def _advised(one: Iteration) -> Usage:
    """The usage of one step, with its model."""
    cached = whole(one.cache_read_input_tokens) or 0
    written = whole(one.cache_creation_input_tokens) or 0
    prompt = (whole(one.input_tokens) or 0) + cached + written
    completion = whole(one.output_tokens) or 0
    usage = Usage(prompt, completion, prompt + completion, cached, 0, written)
    usage.source, usage.model = "upstream", stated_model(one.model)
    kept = one.cache_creation
    hours = 0 if kept is None else whole(kept.ephemeral_1h_input_tokens) or 0
    if hours:
        usage.units = (("cache_write_1h_tokens", min(hours, written)),)
    return usage


def _most(stated: int | None, parts: list[Number]) -> int:
    """The sum of the parts, or the count stated beside them if it is larger."""
    return max(stated or 0, sum(figure(part) or 0 for part in parts))
