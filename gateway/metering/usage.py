"""Estimates before the answer, weights after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from gateway.core.model import RequestFacts, Usage, UsageSource
from gateway.metering.dialects.base import OPAQUE, CountTask
from gateway.metering.dialects.texts import answer_texts, kept_texts, prompt_texts

# Bytes of JSON a token stands for before anything was learned: English text in
# messages is near 4.5, code and other scripts are denser. Low is careful.
BYTES_PER_TOKEN = 4.0
RATIO_MIN, RATIO_MAX = 0.25, 16.0
# Older exchanges fade by this much with each new one: the last fifty count.
_FADE = 0.98
MODELS_MAX = 1024
SUBJECTS_MAX = 50_000
# Completion expected where neither a cap nor a history says anything.
DEFAULT_COMPLETION = 1024
# A cap alone is not believed beyond this: clients set 64,000 and get 300.
UNKNOWN_SUBJECT_MAX = 4096
# ... nor a number of answers beyond OpenAI's own bound.
_ANSWERS_MAX = 128
_ALPHA = 0.1
# Endpoints whose answers hold no generated tokens.
_NO_COMPLETION = frozenset(
    {
        "embeddings",
        "embed",
        "embed_content",
        "rerank",
        "classify",
        "moderations",
        "count_tokens",
        "models",
        "other",
    }
)
# What OpenAI's chat format adds to each message, and once to the whole prompt.
_MESSAGE_TOKENS, _REPLY_TOKENS = 3, 3


class PromptEstimator:
    """Tokens of a prompt from its bytes, by a ratio learned per model."""

    __slots__ = ("_models",)

    def __init__(self) -> None:
        # model -> [bytes per token, faded sum of bytes, faded sum of tokens]
        self._models: dict[str, list[float]] = {}

    def estimate(self, model: str, facts: RequestFacts) -> int:
        """Prompt tokens expected; at least 1 where there is any prompt."""
        if not facts.billable:
            return 0
        known = self._models.get(model)
        ratio = BYTES_PER_TOKEN if known is None else known[0]
        return facts.prompt_tokens_known + int(facts.prompt_bytes / ratio + 1)

    def learn(self, model: str, facts: RequestFacts, prompt_tokens: int) -> None:
        """Take in what the provider counted for a prompt of that size."""
        tokens = prompt_tokens - facts.prompt_tokens_known
        if tokens <= 0 or facts.prompt_bytes <= 0:
            return
        models = self._models
        known = models.pop(model, None)
        if known is None:
            if len(models) >= MODELS_MAX:
                del models[next(iter(models))]
            # One short prompt must not overthrow the default: it weighs 64 tokens.
            known = [0.0, 64 * BYTES_PER_TOKEN, 64.0]
        known[1] = known[1] * _FADE + facts.prompt_bytes
        known[2] = known[2] * _FADE + tokens
        known[0] = min(RATIO_MAX, max(RATIO_MIN, known[1] / known[2]))
        models[model] = known

    def bytes_per_token(self, model: str) -> float:
        """The ratio in use for a model."""
        known = self._models.get(model)
        return BYTES_PER_TOKEN if known is None else known[0]


class CompletionExpectation:
    """What a subject's answers usually cost, to reserve for the next one."""

    __slots__ = ("_subjects",)

    def __init__(self) -> None:
        # key -> [mean, mean absolute deviation], exponentially faded
        self._subjects: dict[object, list[float]] = {}

    def expect(self, key: object, facts: RequestFacts) -> int:
        """Completion tokens to reserve: the cap, or less if this subject gets less."""
        if not facts.billable or facts.endpoint in _NO_COMPLETION:
            return 0
        cap = None if facts.max_tokens is None else facts.max_tokens * facts.n
        seen = self._subjects.get(key)
        if seen is not None:
            usual = int(seen[0] + 2 * seen[1]) + 1
            return usual if cap is None else min(cap, usual)
        if cap is None:
            return DEFAULT_COMPLETION * min(facts.n, _ANSWERS_MAX)
        return min(cap, UNKNOWN_SUBJECT_MAX)

    def learn(self, key: object, completion: int) -> None:
        """Take in what one answer really was."""
        subjects = self._subjects
        seen = subjects.pop(key, None)
        if seen is None:
            if len(subjects) >= SUBJECTS_MAX:
                del subjects[next(iter(subjects))]
            seen = [float(completion), completion / 2]
        else:
            off = completion - seen[0]
            seen[0] += _ALPHA * off
            seen[1] += _ALPHA * (abs(off) - seen[1])
        subjects[key] = seen


def weigh(usage: Usage, weights: Mapping[str, float]) -> int:
    """What an exchange costs on the ``tokens`` meter, in whole tokens, half up.

    ``weights``: share of a token of each kind (prompt, completion, cached,
    cache_write, reasoning). Kinds inside another take its weight unless they have one.
    """
    if not weights:
        return usage.total
    prompt = weights.get("prompt", 1.0)
    completion = weights.get("completion", 1.0)
    inside = max(0, usage.prompt + usage.completion - usage.total)
    rest = max(0, usage.total - usage.prompt - usage.completion)
    # Reasoning that the completion leaves out stands in the rest of the total.
    outside = min(rest, usage.reasoning)
    reasoning = weights.get("reasoning", completion)
    within = min(usage.reasoning - outside, usage.completion)
    plain = max(0, usage.prompt - usage.cached - usage.cache_write)
    weighed = (
        plain * prompt
        + usage.cached * weights.get("cached", prompt)
        + usage.cache_write * weights.get("cache_write", prompt)
        + (usage.completion - within) * completion
        + (within + outside) * reasoning
        + (rest - outside)
        - inside
    )
    # Rounding first hides what binary fractions add: 0.1 * 25 is 2.5.
    return max(0, math.floor(round(weighed, 6) + 0.5))


def count_usage(task: CountTask, count: Callable[[str], int], *, exact: bool) -> Usage:
    """Usage counted from an exchange's texts. Runs where it may take long.

    ``exact``: ``count`` is the model's own tokenizer; otherwise, and wherever bytes
    had to be estimated, the source is "estimated". Never zero where there was text.
    """
    texts = [*kept_texts(task.text), *answer_texts(task.framing, task.answer)]
    completion = count("".join(texts)) if texts else 0
    if task.lost_bytes:
        # Text is about a fifth of a stream's bytes; a token about four of those.
        kept = sum(map(len, task.answer)) or 1
        share = completion / kept if completion and not task.text else 1 / 20
        completion += int(task.lost_bytes * share) + 1
        exact = False
    stated = task.stated
    if stated is not None:
        completion = max(completion, stated.completion)
        kept_source: UsageSource = "counted" if exact else "estimated"
        return Usage(
            stated.prompt,
            completion,
            stated.prompt + completion,
            stated.cached,
            stated.reasoning,
            stated.cache_write,
            kept_source,
        )
    prompt, from_text = _count_prompt(task, count)
    source: UsageSource = "counted" if exact and from_text else "estimated"
    return Usage(prompt, completion, prompt + completion, source=source)


def _count_prompt(task: CountTask, count: Callable[[str], int]) -> tuple[int, bool]:
    if task.body:
        texts, messages = prompt_texts(task.body)
        if texts or (task.prompt_tokens_known and not task.prompt_bytes):
            tokens = sum(map(count, texts)) + task.prompt_tokens_known
            if messages:
                tokens += messages * _MESSAGE_TOKENS + _REPLY_TOKENS
            return tokens, True
    return estimated_prompt(task), False


def estimated_prompt(task: CountTask) -> int:
    """Prompt tokens without text: the learned estimate, or bytes by the default."""
    if task.prompt_estimate:
        return task.prompt_estimate
    by_bytes = int(task.prompt_bytes / BYTES_PER_TOKEN + 1)
    return task.prompt_tokens_known + by_bytes


def estimate_usage(task: CountTask) -> Usage:
    """Usage from sizes alone, at once: for when counting is not possible.

    A stream's record of one token has some 180 bytes, a JSON answer some 5 a token.
    """
    size = sum(map(len, task.answer)) + task.lost_bytes
    chars = sum(map(len, task.text))
    per_token = {"sse": 160, "ndjson": 90, "frames": 100, OPAQUE: 0}.get(
        task.framing, 6
    )
    completion = 0
    if task.endpoint not in _NO_COMPLETION and per_token:
        completion = -(-size // per_token) + -(-chars // 4)
    stated = task.stated
    if stated is None:
        prompt = estimated_prompt(task)
        return Usage(prompt, completion, prompt + completion, source="estimated")
    completion = max(completion, stated.completion)
    return Usage(
        stated.prompt,
        completion,
        stated.prompt + completion,
        stated.cached,
        stated.reasoning,
        stated.cache_write,
        "estimated",
    )
