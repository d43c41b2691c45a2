"""Token estimates before the answer; weighting and counting of usage after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from gateway.core.model import RequestFacts, Usage, UsageSource
from gateway.metering.dialects.base import OPAQUE, CountTask
from gateway.metering.dialects.texts import answer_texts, kept_texts, prompt_texts

# Bytes of JSON per token before anything is learned: English text in messages has about
# 4.5, code and other scripts fewer. A low value overestimates, which is the safe side.
BYTES_PER_TOKEN = 4.0
# A token has at least one byte of text: a prompt of more tokens is not in the body.
RATIO_MIN, RATIO_MAX = 1.0, 16.0
# Decay per exchange of the learned ratio: about the last 50 exchanges count.
_DECAY = 0.98
# Tokens that one exchange counts for, at most: a long prompt does not outweigh 50 others.
_TOKENS_MOST = 2048
# Ratios that are learned for each tenant, and tenants that have some.
MODELS_MAX = 256
TENANTS_MAX = 4096
SUBJECTS_MAX = 50_000
# Decay of a subject's longest answer per later answer: half after 138 answers.
_PEAK_DECAY = 0.995
# Upper bound of ``n`` in the expectation: OpenAI's own bound.
_ANSWERS_MAX = 128
# Weight of the newest answer in a subject's mean completion.
_ALPHA = 0.1
# Endpoints whose answers hold no generated tokens.
TEXTLESS = frozenset(
    {
        "embeddings",
        "embed",
        "embed_content",
        "rerank",
        "classify",
        "moderations",
        "count_tokens",
        "batch_embed_content",
        "predict_long_running",
        "videos",
        "fine_tuning.jobs",
        "batches",
        "models",
        "other",
    }
)
# Tokens that OpenAI's chat format adds per message, and once per prompt.
_MESSAGE_TOKENS, _REPLY_TOKENS = 3, 3


class PromptEstimator:
    """Estimates prompt tokens from bytes, by a ratio learned per tenant and model.

    Tenants do not teach each other: a client chooses the prompts that teach a ratio.
    """

    __slots__ = ("_tenants",)

    def __init__(self) -> None:
        # tenant -> model -> [bytes per token, decayed sum of bytes, of tokens]
        self._tenants: dict[str, dict[str, list[float]]] = {}

    def estimate(self, tenant: str, model: str, facts: RequestFacts) -> int:
        """Expected prompt tokens; at least 1 if the request is billable."""
        return self.bounds(tenant, model, facts)[0]

    def bounds(self, tenant: str, model: str, facts: RequestFacts) -> tuple[int, int]:
        """The expected prompt tokens, and those to reserve: never fewer than one per
        BYTES_PER_TOKEN, because the client chooses the prompts that teach the ratio.
        """
        if not facts.billable:
            return 0, 0
        models = self._tenants.get(tenant)
        known = None if models is None else models.get(model)
        size, stated = facts.prompt_bytes, facts.prompt_tokens_known
        most = stated + int(size / BYTES_PER_TOKEN + 1)
        if known is None:
            return most, most
        expected = stated + int(size / known[0] + 1)
        return expected, max(expected, most)

    def learn(
        self,
        tenant: str,
        model: str,
        facts: RequestFacts,
        prompt_tokens: int,
    ) -> None:
        """Update the ratio with the provider's token count of a prompt.

        A prompt that is not whole in its body teaches nothing, nor does one with images
        or token ids.
        """
        size = facts.prompt_bytes
        if not 0 < prompt_tokens <= size or facts.prompt_tokens_known or facts.outside:
            return
        known = self._known(tenant, model)
        many = prompt_tokens > _TOKENS_MOST
        share = _TOKENS_MOST / prompt_tokens if many else 1.0
        known[1] = known[1] * _DECAY + size * share
        known[2] = known[2] * _DECAY + prompt_tokens * share
        ratio = known[1] / known[2]
        if not RATIO_MIN <= ratio <= RATIO_MAX:
            ratio = min(RATIO_MAX, max(RATIO_MIN, ratio))
        known[0] = ratio

    def _known(self, tenant: str, model: str) -> list[float]:
        models = self._tenants.get(tenant)
        if models is None:
            if len(self._tenants) >= TENANTS_MAX:
                del self._tenants[next(iter(self._tenants))]
            models = self._tenants[tenant] = {}
        known = models.pop(model, None)
        if known is None:
            if len(models) >= MODELS_MAX:
                del models[next(iter(models))]
            # The default counts as 64 tokens, so that one short prompt changes little.
            known = [BYTES_PER_TOKEN, 64 * BYTES_PER_TOKEN, 64.0]
        models[model] = known
        return known


def untaught_prompt(facts: RequestFacts) -> int:
    """Prompt tokens by BYTES_PER_TOKEN, whatever was learned."""
    return facts.prompt_tokens_known + int(facts.prompt_bytes / BYTES_PER_TOKEN + 1)


class CompletionExpectation:
    """Expects completion tokens of a subject's next answer from its earlier ones.

    A client controls its answers, so an expectation never lowers what it reserves.
    """

    __slots__ = ("_subjects",)

    def __init__(self) -> None:
        # key -> [exponentially weighted mean, decaying longest answer]
        self._subjects: dict[object, list[float]] = {}

    def bounds(
        self, key: object, facts: RequestFacts, assumed: int
    ) -> tuple[int, int, bool]:
        """The most and the expected completion tokens of a subject's next answer, and
        whether the request caps it.

        Without a cap the most is ``assumed``, or the subject's longest recent answer if
        that is larger.
        """
        if not facts.billable or facts.endpoint in TEXTLESS:
            return 0, 0, True
        seen = self._subjects.get(key)
        # Unknown: 1, so that a limit of 0 refuses.
        expected = 1 if seen is None else int(seen[0]) + 1
        max_tokens = facts.max_tokens
        if max_tokens is not None and max_tokens > 0:
            most = max_tokens if facts.n <= 1 else max_tokens * facts.n
            return most, min(most, expected), True
        most = assumed * min(max(1, facts.n), _ANSWERS_MAX)
        if seen is not None and seen[1] > most:
            most = int(seen[1])
        return most, min(most, expected), False

    def learn(self, key: object, completion: int) -> None:
        """Update a subject's mean and longest answer with one answer."""
        subjects = self._subjects
        seen = subjects.pop(key, None)
        if seen is None:
            if len(subjects) >= SUBJECTS_MAX:
                del subjects[next(iter(subjects))]
            seen = [float(completion), float(completion)]
        else:
            seen[1] = max(completion, seen[1] * _PEAK_DECAY)
            seen[0] += _ALPHA * (completion - seen[0])
        subjects[key] = seen


class OutsidePrompts:
    """The longest prompts of each subject lately that were not whole in their body."""

    __slots__ = ("_longest",)

    def __init__(self) -> None:
        self._longest: dict[object, float] = {}

    def most(self, key: object, assumed: int) -> int:
        """The most tokens of a subject's next one: ``assumed``, or what it had."""
        return max(assumed, int(self._longest.get(key, 0)))

    def learn(self, key: object, prompt: int) -> None:
        """Note the tokens of one."""
        known = self._longest.pop(key, 0.0)
        if len(self._longest) >= SUBJECTS_MAX:
            del self._longest[next(iter(self._longest))]
        self._longest[key] = max(prompt, known * _PEAK_DECAY)


def weigh(usage: Usage, weights: Mapping[str, float]) -> int:
    """The cost of an exchange on the ``tokens`` meter, in whole tokens, half up.

    ``weights``: what one token of a kind counts (prompt, completion, cached,
    cache_write, reasoning). A kind contained in another has its weight by default.
    """
    if not weights:
        return usage.total
    prompt = weights.get("prompt", 1.0)
    completion = weights.get("completion", 1.0)
    inside = max(0, usage.prompt + usage.completion - usage.total)
    rest = max(0, usage.total - usage.prompt - usage.completion)
    # Reasoning that the completion excludes is part of the rest of the total.
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
    # The first rounding removes binary fractions: 0.1 * 25 has to be 2.5.
    return max(0, math.floor(round(weighed, 6) + 0.5))


def weigh_most(prompt: int, completion: int, weights: Mapping[str, float]) -> int:
    """The most that these tokens can cost on the ``tokens`` meter, whatever their kind."""
    if not weights:
        return prompt + completion
    of_prompt = weights.get("prompt", 1.0)
    of_completion = weights.get("completion", 1.0)
    of_prompt = max(
        of_prompt,
        weights.get("cached", of_prompt),
        weights.get("cache_write", of_prompt),
    )
    of_completion = max(of_completion, weights.get("reasoning", of_completion))
    return math.ceil(round(prompt * of_prompt + completion * of_completion, 6))


def count_usage(task: CountTask, count: Callable[[str], int], *, exact: bool) -> Usage:
    """Usage counted from an exchange's texts; slow, so it runs in the child process.

    ``exact``: ``count`` is the model's own tokenizer. Otherwise, or if some bytes had to
    be estimated, the source is "estimated".
    """
    texts = [*kept_texts(task.text), *answer_texts(task.framing, task.answer)]
    completion = count("".join(texts)) if texts else 0
    if task.lost_bytes:
        # Text is about 1/5 of a stream's bytes, and a token has about 4 bytes: 1/20.
        kept = sum(map(len, task.answer)) or 1
        share = completion / kept if completion and not task.text else 1 / 20
        completion += int(task.lost_bytes * share) + 1
        exact = False
    stated = task.stated
    if stated is not None and stated.prompt:
        return _complete(stated, completion, "counted" if exact else "estimated")
    prompt, from_text = _count_prompt(task, count)
    source: UsageSource = "counted" if exact and from_text else "estimated"
    return _complete(stated or task.beside or Usage(), completion, source, prompt)


def generated_nothing(task: CountTask) -> bool:
    """Whether an answer has no text and states no usage."""
    if task.stated is not None or task.text or task.lost_bytes:
        return False
    return not any(answer_texts(task.framing, task.answer))


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
    """Prompt tokens without the text: the learned estimate, or by BYTES_PER_TOKEN."""
    if task.prompt_estimate:
        return task.prompt_estimate
    by_bytes = int(task.prompt_bytes / BYTES_PER_TOKEN + 1)
    return task.prompt_tokens_known + by_bytes


def estimate_usage(task: CountTask) -> Usage:
    """Usage from sizes alone, where counting is not possible.

    A record of a stream has about 180 bytes per token, a JSON answer about 5.
    """
    size = sum(map(len, task.answer)) + task.lost_bytes
    chars = sum(map(len, task.text))
    per_token = {"sse": 160, "ndjson": 90, "frames": 100, OPAQUE: 0}.get(
        task.framing, 6
    )
    completion = 0
    if task.endpoint not in TEXTLESS and per_token:
        completion = -(-size // per_token) + -(-chars // 4)
    stated = task.stated or task.beside or Usage()
    # A prompt is never empty: 0 is not a statement.
    prompt = stated.prompt or estimated_prompt(task)
    return _complete(stated, completion, "estimated", prompt)


def _complete(
    stated: Usage, completion: int, source: UsageSource, prompt: int = 0
) -> Usage:
    """Usage stated in part, with at least ``completion`` tokens of answer and ``prompt``
    tokens of prompt.
    """
    completion = max(completion, stated.completion)
    prompt = max(prompt, stated.prompt)
    total = prompt + completion
    return replace(
        stated, prompt=prompt, completion=completion, total=total, source=source
    )
