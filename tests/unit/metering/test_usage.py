"""Learned estimates, weights, and counting from texts."""

import pytest

from gateway.core.model import RequestFacts, Usage
from gateway.metering.dialects.base import CountTask
from gateway.metering.usage import (
    MODELS_MAX,
    SUBJECTS_MAX,
    TENANTS_MAX,
    CompletionExpectation,
    OutsidePrompts,
    PromptEstimator,
    count_usage,
    estimate_usage,
    generated_nothing,
    untaught_prompt,
    weigh,
    weigh_most,
)

FACTS = RequestFacts("chat.completions", prompt_bytes=4000)


def taught(tokens, *, facts=FACTS, times=50):
    """An estimator that has seen such a prompt of tenant "t" and model "m" so often."""
    estimator = PromptEstimator()
    for _ in range(times):
        estimator.learn("t", "m", facts, tokens)
    return estimator


def test_estimates_learn_their_model():
    """A model starts at 4 bytes per token and follows the provider's counts."""
    assert PromptEstimator().estimate("t", "m", FACTS) == 1001
    estimator = taught(2000)
    assert 1950 <= estimator.estimate("t", "m", FACTS) <= 2002
    assert estimator.estimate("t", "other", FACTS) == 1001


def test_tenants_do_not_teach_each_other():
    """The counts of one tenant's prompts change no estimate of another's."""
    estimator = taught(3900)
    assert estimator.estimate("t", "m", FACTS) > 3000
    assert estimator.estimate("victim", "m", FACTS) == 1001


@pytest.mark.parametrize("tokens", [0, -5, 4001, 100_000, 2**63])
def test_impossible_counts_teach_nothing(tokens):
    """No tokens, or more than the body has bytes: the prompt is elsewhere."""
    assert taught(tokens).estimate("t", "m", FACTS) == 1001


def test_prompts_with_known_tokens_or_kept_elsewhere_teach_nothing():
    """Images, token ids, and the thread of a run."""
    known = RequestFacts("chat.completions", prompt_bytes=4000, prompt_tokens_known=9)
    assert taught(3000, facts=known).estimate("t", "m", FACTS) == 1001
    run = RequestFacts("threads.runs", prompt_bytes=4000, outside=True)
    assert taught(3000, facts=run).estimate("t", "m", FACTS) == 1001


def test_one_long_prompt_counts_for_few():
    """Its weight is bounded, so that fifty others outweigh it."""
    estimator = taught(2000, times=800)
    long = RequestFacts("chat.completions", prompt_bytes=10**7)
    before = estimator.estimate("t", "m", FACTS)
    estimator.learn("t", "m", long, 10**6)
    assert before != estimator.estimate("t", "m", FACTS)
    assert 1700 <= estimator.estimate("t", "m", FACTS) <= 2002


def test_ratios_are_bounded():
    """At most 16 bytes per token, whatever is stated."""
    assert taught(10).estimate("t", "m", FACTS) == 251


def test_the_longest_prompts_from_outside():
    """Of each subject, forgotten slowly, and for a bounded number of subjects."""
    prompts = OutsidePrompts()
    assert prompts.most("a", 100) == 100
    prompts.learn("a", 1000)
    assert (prompts.most("a", 100), prompts.most("b", 100)) == (1000, 100)
    prompts.learn("a", 1)
    assert prompts.most("a", 100) == 995
    for number in range(SUBJECTS_MAX):
        prompts.learn(number, 1)
    assert prompts.most("a", 100) == 100


def test_estimates_of_nothing():
    """Free requests cost nothing; an empty prompt costs one token."""
    estimator = taught(10, facts=RequestFacts("x"))
    assert estimator.estimate("t", "m", RequestFacts("x", billable=False)) == 0
    assert estimator.estimate("t", "m", RequestFacts("x")) == 1
    assert estimator.estimate("t", "m", FACTS) == 1001


def test_estimators_are_bounded():
    """The model of a tenant, and the tenant, that were first are dropped."""
    estimator = taught(2000)
    for number in range(MODELS_MAX):
        estimator.learn("t", str(number), FACTS, 2000)
    assert estimator.estimate("t", "m", FACTS) == 1001
    assert estimator.estimate("t", "0", FACTS) != 1001
    for number in range(TENANTS_MAX):
        estimator.learn(str(number), "m", FACTS, 2000)
    assert estimator.estimate("t", "0", FACTS) == 1001
    assert estimator.estimate("0", "m", FACTS) != 1001


def test_expectation_learns():
    """The expectation follows a subject's answers, and never exceeds its cap."""
    expectation = CompletionExpectation()
    for _ in range(60):
        expectation.learn("s", 100)
    facts = RequestFacts("chat.completions")
    assert expectation.bounds("s", facts, 4096) == (4096, 101, False)
    facts.max_tokens = 7
    assert expectation.bounds("s", facts, 4096) == (7, 7, True)


@pytest.mark.parametrize(
    ("facts", "bounds"),
    [
        (RequestFacts("chat.completions", max_tokens=30_000), (30_000, 2, True)),
        (RequestFacts("chat.completions", max_tokens=9, n=3), (27, 2, True)),
        (RequestFacts("chat.completions", max_tokens=1), (1, 1, True)),
        (RequestFacts("chat.completions"), (4096, 2, False)),
        (RequestFacts("chat.completions", max_tokens=0), (4096, 2, False)),
        (RequestFacts("chat.completions", max_tokens=-1), (4096, 2, False)),
        (RequestFacts("chat.completions", n=10**9), (128 * 4096, 2, False)),
        (RequestFacts("embeddings"), (0, 0, True)),
    ],
)
def test_short_answers_never_lower_what_is_reserved(facts, bounds):
    """A client that trains with one-token answers still reserves its caps."""
    expectation = CompletionExpectation()
    for _ in range(25):
        expectation.learn("s", 1)
    assert expectation.bounds("s", facts, 4096) == bounds


def test_a_long_answer_raises_what_calls_without_a_cap_reserve():
    """The longest recent answer counts where it exceeds the assumed cap."""
    expectation = CompletionExpectation()
    facts = RequestFacts("chat.completions")
    assert expectation.bounds("s", facts, 4096) == (4096, 1, False)
    expectation.learn("s", 9000)
    expectation.learn("s", 1)
    most, _, capped = expectation.bounds("s", facts, 4096)
    assert (most, capped) == (8955, False)


@pytest.mark.parametrize(
    ("weights", "tokens"),
    [
        ({}, 30),
        ({"reasoning": 1.5}, 40),
        ({"cached": 0.1, "prompt": 0.5}, 25),
        ({"cache_write": 1.25}, 33),
    ],
)
def test_reserved_tokens_have_the_highest_weight(weights, tokens):
    """10 prompt and 20 completion tokens, of whatever kind they turn out to be."""
    assert weigh_most(10, 20, weights) == tokens


def test_a_taught_ratio_does_not_lower_the_reserved_prompt():
    """Prompts with many bytes per token teach the estimate, not the reservation."""
    few, reserved = taught(250).bounds("t", "m", FACTS)
    assert few < 300
    assert reserved == 1001
    many, reserved = taught(3900, times=200).bounds("t", "m", FACTS)
    assert reserved == many > 3000
    assert untaught_prompt(FACTS) == 1001


def test_expectations_are_bounded():
    """The subject that was updated longest ago is dropped."""
    expectation = CompletionExpectation()
    for number in range(SUBJECTS_MAX + 1):
        expectation.learn(number, 1)
    facts = RequestFacts("chat.completions")
    assert expectation.bounds(0, facts, 9)[1] == 1
    assert expectation.bounds(1, facts, 9)[1] == 2


@pytest.mark.parametrize(
    ("usage", "weights", "tokens"),
    [
        (Usage(100, 50, 150, 40, 10), {}, 150),
        (Usage(100, 50, 150, 40, 10), {"cached": 0.1}, 114),
        (Usage(100, 50, 150, 40, 10), {"prompt": 0}, 50),
        (Usage(100, 50, 150, 40, 10), {"prompt": 0, "cached": 1}, 90),
        (Usage(100, 50, 150, 40, 10), {"completion": 2}, 200),
        (Usage(100, 50, 150, 40, 10), {"reasoning": 0}, 140),
        (Usage(100, 50, 150, 0, 0, 20), {"cache_write": 1.25}, 155),
        (Usage(35, 12, 109, 0, 62), {"reasoning": 0}, 47),
        (Usage(35, 12, 120, 0, 62), {"reasoning": 0}, 58),
        (Usage(100, 50, 120), {"cached": 0}, 120),
        (Usage(25, 0, 25, 25), {"cached": 0.1}, 3),
        (Usage(5, 5, 0), {"prompt": 0}, 0),
    ],
)
def test_weights(usage, weights, tokens):
    """Each kind has its own weight, rounded half up; without weights the provider's
    total counts.
    """
    assert weigh(usage, weights) == tokens


def words(text: str) -> int:
    return len(text.split())


def test_counting_texts():
    """Prompt and completion are counted from the exchange's own texts."""
    task = CountTask(
        "chat.completions",
        framing="sse",
        answer=[b'data: {"choices":[{"delta":{"content":" b c"}}]}\n\n'],
        text=[b"a"],
        body=b'{"messages":[{"role":"user","content":"x y"}],"max_tokens":5}',
    )
    assert count_usage(task, words, exact=True) == Usage(9, 3, 12, source="counted")
    assert count_usage(task, words, exact=False).source == "estimated"


def test_counting_without_a_body():
    """Without a body the prompt is an estimate, and so is the usage."""
    task = CountTask("chat.completions", prompt_bytes=40, prompt_tokens_known=2)
    assert count_usage(task, words, exact=True) == Usage(13, 0, 13, source="estimated")
    task.prompt_estimate = 7
    assert count_usage(task, words, exact=True).prompt == 7
    task.body = b"junk"
    assert count_usage(task, words, exact=True).prompt == 7
    task.body = b'{"input":["a b"]}'
    assert count_usage(task, words, exact=True).prompt == 4
    tokens = CountTask("embeddings", prompt_tokens_known=3, body=b'{"input":[1,2,3]}')
    assert count_usage(tokens, words, exact=True) == Usage(3, 0, 3, source="counted")


def test_counting_dropped_bytes():
    """Bytes not kept are estimated by the token share of the kept ones."""
    answer = [b'data: {"choices":[{"delta":{"content":"a b c d"}}]}\n\n']
    task = CountTask("chat.completions", framing="sse", answer=answer, lost_bytes=5300)
    usage = count_usage(task, words, exact=True)
    assert 380 < usage.completion < 420
    assert usage.source == "estimated"
    task.answer, task.text = [], [b"a b"]
    assert count_usage(task, words, exact=True).completion == 2 + 265 + 1


def test_counting_keeps_what_was_stated():
    """A stated prompt is kept; the completion is the larger of stated and counted."""
    stated = Usage(10, 1, 11, 4, 0, 2, "upstream")
    task = CountTask("messages", framing="json", stated=stated)
    task.answer = [b'{"content":[{"text":"a b c"}]}']
    assert count_usage(task, words, exact=True) == Usage(10, 3, 13, 4, 0, 2, "counted")
    assert estimate_usage(task).prompt == 10


def test_estimates_without_counting():
    """The estimate from sizes alone is never zero."""
    task = CountTask("chat.completions", framing="sse", prompt_bytes=400)
    task.answer, task.text = [b"x" * 1600], [b"y" * 40]
    assert estimate_usage(task) == Usage(101, 20, 121, source="estimated")
    task.framing = "opaque"
    assert estimate_usage(task).completion == 0
    task.endpoint, task.framing = "embeddings", "json"
    assert estimate_usage(task).total == 101


def test_an_answer_that_generated_nothing():
    """An answer has nothing to bill without text, lost bytes and stated usage."""
    assert generated_nothing(CountTask("x", answer=[b'{"error":{}}']))
    assert not generated_nothing(CountTask("x", lost_bytes=1))
    assert not generated_nothing(CountTask("x", stated=Usage(1)))
    said = b'{"choices":[{"message":{"content":"hi"}}]}'
    assert not generated_nothing(CountTask("x", answer=[said]))
