"""Usage objects of all providers give the same figures."""

import pytest

from gateway.metering.dialects.fields import (
    CLOSED,
    OPEN,
    OPEN_IF_CUT,
    decode_envelope,
)
from gateway.metering.dialects.tally import UsageTally

CASES = {
    "openai": (
        b'{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,'
        b'"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":2},'
        b'"completion_tokens_details":{"reasoning_tokens":3}}}',
        (10, 5, 15, 4, 3, 2),
    ),
    "null details": (
        b'{"usage":{"prompt_tokens":10,"completion_tokens":5,'
        b'"prompt_tokens_details":null}}',
        (10, 5, 15, 0, 0, 0),
    ),
    "google's openai: reasoning only in the total": (
        b'{"usage":{"completion_tokens":12,"prompt_tokens":35,"total_tokens":109}}',
        (35, 12, 109, 0, 62, 0),
    ),
    "voyage": (b'{"usage":{"total_tokens":12}}', (12, 0, 12, 0, 0, 0)),
    "prompt only": (b'{"usage":{"prompt_tokens":4}}', (4, 0, 4, 0, 0, 0)),
    "completion beside input": (
        b'{"usage":{"completion_tokens":4,"input_tokens":6}}',
        (6, 4, 10, 0, 0, 0),
    ),
    "groq": (
        b'{"choices":[],"x_groq":{"usage":{"prompt_tokens":1,"completion_tokens":2}}}',
        (1, 2, 3, 0, 0, 0),
    ),
    "deepseek": (
        b'{"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10,'
        b'"prompt_cache_hit_tokens":8}}',
        (9, 1, 10, 8, 0, 0),
    ),
    "litellm with caches": (
        b'{"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10,'
        b'"cache_read_input_tokens":5,"cache_creation_input_tokens":2}}',
        (9, 1, 10, 5, 0, 2),
    ),
    "perplexity": (
        b'{"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13,'
        b'"reasoning_tokens":2}}',
        (9, 4, 13, 0, 2, 0),
    ),
    "anthropic": (
        b'{"usage":{"input_tokens":18,"cache_creation_input_tokens":1031,'
        b'"cache_read_input_tokens":7,"output_tokens":100}}',
        (1056, 100, 1156, 7, 0, 1031),
    ),
    "anthropic through a gateway that adds a total": (
        b'{"usage":{"input_tokens":18,"cache_read_input_tokens":7,'
        b'"output_tokens":2,"total_tokens":20}}',
        (18, 2, 20, 7, 0, 0),
    ),
    "responses": (
        b'{"response":{"usage":{"input_tokens":366,"output_tokens":63,'
        b'"input_tokens_details":{"cached_tokens":256},'
        b'"output_tokens_details":{"reasoning_tokens":18},"total_tokens":430}}}',
        (366, 63, 430, 256, 18, 0),
    ),
    "message and usage at once": (
        b'{"message":{"usage":{"input_tokens":1}},"usage":{"output_tokens":3}}',
        (1, 3, 4, 0, 0, 0),
    ),
    "output only": (b'{"usage":{"output_tokens":3}}', (0, 3, 3, 0, 0, 0)),
    "cohere v1": (
        b'{"response":{"meta":{"billed_units":{"input_tokens":7.0,"output_tokens":1},'
        b'"tokens":{"input_tokens":69.0,"output_tokens":116}}}}',
        (69, 116, 185, 0, 0, 0),
    ),
    "cohere embed": (
        b'{"meta":{"billed_units":{"input_tokens":7}}}',
        (7, 0, 7, 0, 0, 0),
    ),
    "cohere v2": (
        b'{"delta":{"usage":{"billed_units":{"input_tokens":12,"output_tokens":36},'
        b'"tokens":{"input_tokens":212,"output_tokens":36},"cached_tokens":208}}}',
        (212, 36, 248, 208, 0, 0),
    ),
    "gemini": (
        b'{"usageMetadata":{"promptTokenCount":17,"candidatesTokenCount":241,'
        b'"totalTokenCount":772,"toolUsePromptTokenCount":102,'
        b'"thoughtsTokenCount":412,"cachedContentTokenCount":5}}',
        (119, 653, 772, 5, 412, 0),
    ),
    "gemini, candidates that include thoughts": (
        b'{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":100,'
        b'"thoughtsTokenCount":60,"totalTokenCount":110}}',
        (10, 100, 110, 0, 60, 0),
    ),
    "gemini, candidates without thoughts": (
        b'{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":40,'
        b'"thoughtsTokenCount":60,"totalTokenCount":110}}',
        (10, 100, 110, 0, 60, 0),
    ),
    "gemini, no total": (
        b'{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":40,'
        b'"thoughtsTokenCount":60}}',
        (10, 100, 110, 0, 60, 0),
    ),
    "gemini, prompt that includes tools": (
        b'{"usageMetadata":{"promptTokenCount":30,"candidatesTokenCount":40,'
        b'"thoughtsTokenCount":60,"toolUsePromptTokenCount":20,"totalTokenCount":130}}',
        (30, 100, 130, 0, 60, 0),
    ),
    "gemini, both included": (
        b'{"usageMetadata":{"promptTokenCount":30,"candidatesTokenCount":100,'
        b'"thoughtsTokenCount":60,"toolUsePromptTokenCount":20,"totalTokenCount":130}}',
        (30, 100, 130, 0, 60, 0),
    ),
    "gemini, inclusive candidates and tools beside": (
        b'{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":100,'
        b'"thoughtsTokenCount":60,"toolUsePromptTokenCount":20,"totalTokenCount":130}}',
        (30, 100, 130, 0, 60, 0),
    ),
    "gemini, more thoughts than its total holds": (
        b'{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":5,'
        b'"thoughtsTokenCount":60,"totalTokenCount":20}}',
        (10, 65, 75, 0, 60, 0),
    ),
    "total below its parts": (
        b'{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":3}}',
        (10, 5, 15, 0, 0, 0),
    ),
    "cached beside the prompt, as the total shows": (
        b'{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":115,'
        b'"cache_read_input_tokens":90,"cache_creation_input_tokens":10}}',
        (110, 5, 115, 90, 0, 10),
    ),
    "more cached than prompt": (
        b'{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,'
        b'"prompt_tokens_details":{"cached_tokens":90,"cache_write_tokens":9}}}',
        (10, 5, 15, 10, 0, 0),
    ),
    "more reasoning than completion": (
        b'{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,'
        b'"completion_tokens_details":{"reasoning_tokens":99}}}',
        (10, 5, 15, 0, 5, 0),
    ),
    "anthropic compaction": (
        b'{"usage":{"input_tokens":10,"output_tokens":20,"iterations":['
        b'{"type":"compaction","input_tokens":1000,"output_tokens":500,'
        b'"cache_read_input_tokens":7},'
        b'{"type":"message","input_tokens":10,"output_tokens":20,'
        b'"cache_creation_input_tokens":3}]}}',
        (1020, 520, 1540, 7, 0, 3),
    ),
    "anthropic fallback": (
        b'{"usage":{"input_tokens":10,"output_tokens":20,"iterations":['
        b'{"type":"message","input_tokens":900,"output_tokens":1},'
        b'{"type":"fallback_message","input_tokens":10,"output_tokens":20}]}}',
        (10, 20, 30, 0, 0, 0),
    ),
    "anthropic iterations below the sum": (
        b'{"usage":{"input_tokens":10,"output_tokens":20,"iterations":['
        b'{"input_tokens":null,"output_tokens":3}]}}',
        (10, 20, 30, 0, 0, 0),
    ),
    "gemini live": (
        b'{"usageMetadata":{"promptTokenCount":2,"responseTokenCount":3}}',
        (2, 3, 5, 0, 0, 0),
    ),
    "ollama": (b'{"prompt_eval_count":17,"eval_count":66}', (17, 66, 83, 0, 0, 0)),
    "ollama, cached prompt": (b'{"eval_count":58}', (0, 58, 58, 0, 0, 0)),
    "converse": (
        b'{"usage":{"inputTokens":3,"outputTokens":8,"totalTokens":41,'
        b'"cacheReadInputTokens":20,"cacheReadInputTokenCount":20,'
        b'"cacheWriteInputTokens":10}}',
        (33, 8, 41, 20, 0, 10),
    ),
    "nova": (b'{"usage":{"inputTokens":3}}', (3, 0, 3, 0, 0, 0)),
    "invoke metrics": (
        b'{"amazon-bedrock-invocationMetrics":{"inputTokenCount":3,'
        b'"outputTokenCount":2,"cacheReadInputTokenCount":4,'
        b'"cacheWriteInputTokenCount":5}}',
        (12, 2, 14, 4, 0, 5),
    ),
    "llama": (
        b'{"prompt_token_count":5,"generation_token_count":6}',
        (5, 6, 11, 0, 0, 0),
    ),
    "titan": (
        b'{"inputTextTokenCount":5,"results":[{"tokenCount":2},{"tokenCount":3}]}',
        (5, 5, 10, 0, 0, 0),
    ),
    "watsonx": (
        b'{"results":[{"generated_token_count":3,"input_token_count":7}]}',
        (7, 3, 10, 0, 0, 0),
    ),
    "llama.cpp": (b'{"tokens_evaluated":4,"tokens_predicted":1}', (4, 1, 5, 0, 0, 0)),
}


@pytest.mark.parametrize(("answer", "figures"), CASES.values(), ids=CASES)
def test_shapes(answer, figures):
    """Prompt, completion, total, cached, reasoning and cache writes are read from each
    provider's shape.
    """
    tally = UsageTally()
    tally.take(decode_envelope(answer))
    usage = tally.usage()
    assert tally.seen
    assert figures == (
        usage.prompt,
        usage.completion,
        usage.total,
        usage.cached,
        usage.reasoning,
        usage.cache_write,
    )


@pytest.mark.parametrize(
    "answer",
    [
        b'{"usage":{}}',
        b'{"usage":{"tokens":5}}',
        b'{"usage":{"tokens":{}}}',
        b'{"usageMetadata":{"trafficType":"ON_DEMAND"}}',
        b'{"x_groq":{"id":"x"},"message":"text","delta":"d","response":"r"}',
        b'{"response":{},"delta":{},"message":{},"results":[{}]}',
    ],
)
def test_nothing_stated(answer):
    """Objects without a count state no usage."""
    tally = UsageTally()
    tally.take(decode_envelope(answer))
    assert not tally.seen


def test_last_field_wins():
    """Anthropic's deltas replace fields of message_start one by one."""
    tally = UsageTally()
    start = b'{"message":{"usage":{"input_tokens":18,"output_tokens":1}}}'
    tally.take(decode_envelope(start))
    assert tally.open == OPEN
    tally.take(decode_envelope(b'{"delta":{},"usage":{"output_tokens":100}}'))
    assert tally.open == CLOSED
    assert tally.usage().total == 118


def test_gemini_is_open_until_it_states_candidates():
    """A Gemini stream that is cut before its candidates has incomplete usage."""
    tally = UsageTally()
    tally.take(decode_envelope(b'{"usageMetadata":{"promptTokenCount":8}}'))
    assert tally.open == OPEN_IF_CUT
    tally.take(decode_envelope(b'{"usageMetadata":{"candidatesTokenCount":2}}'))
    assert tally.open == CLOSED


def test_answers_of_a_stream_are_bounded():
    """A server that never repeats an id does not fill the memory."""
    tally = UsageTally()
    for name in range(1100):
        info = b'{"id":"%d","prompt_tokens":1,"completion_tokens":1}' % name
        tally.take(decode_envelope(b'{"meta_info":%b}' % info))
    assert tally.usage().completion == 1024
