"""Lenient reading of usage: unexpected types, truncated or huge answers."""

import pytest

from gateway.metering.dialects.fields import Stated, UsageEnvelope
from gateway.metering.dialects.loose import (
    envelope_in_head,
    envelope_in_tail,
    loose_envelope,
    loosely,
)
from gateway.metering.dialects.tally import UsageTally


def total(envelope: UsageEnvelope | None) -> int:
    assert envelope is not None
    tally = UsageTally()
    tally.take(envelope)
    return tally.usage().total


def test_fields_of_odd_types():
    """Numbers as strings are read; an unusable field does not affect the others."""
    text = b'{"usage":{"prompt_tokens":"5","completion_tokens":2,"total_tokens":[1],'
    text += b'"prompt_tokens_details":"none","completion_tokens_details":{"x":1}},'
    text += b'"results":3}'
    assert total(loose_envelope(text)) == 7


@pytest.mark.parametrize("text", [b"", b"[]", b"3", b'{"a"', b"[" * 100_000])
def test_no_object(text):
    """Text that is not a JSON object gives None."""
    assert loose_envelope(text) is None


def test_nested_structs_are_read_field_by_field():
    """A struct that cannot be converted as a whole keeps its usable members."""
    stated = loosely(
        {"prompt_tokens_details": {"cached_tokens": 4, "reasoning_tokens": "x"}}, Stated
    )
    assert stated.prompt_tokens_details is not None
    assert stated.prompt_tokens_details.cached_tokens == 4


def test_tail_takes_only_the_top_level():
    """Usage inside tool input does not count; the answer's own does."""
    tail = b'"x":[{"input":{"usage":{"total_tokens":999}}}],"usage":{"total_tokens":7}}'
    assert total(envelope_in_tail(tail)) == 7
    turned = b'"usage":{"total_tokens":7},"x":[{"usage":{"total_tokens":999}}]}\n'
    assert total(envelope_in_tail(turned)) == 7


def test_tail_that_begins_inside_a_string():
    """Brackets inside text do not count, even if the window begins inside a string."""
    tail = b'some } text","x":{"usage":{"total_tokens":1}},"usage":{"total_tokens":7}}'
    assert total(envelope_in_tail(tail)) == 7


def test_truncated_tail_takes_the_last_of_any_depth():
    """In a truncated answer the last usage of any depth counts."""
    torn = b'[{"usageMetadata":{"totalTokenCount":3}},{"usageMetadata":{"totalTokenCo'
    assert total(envelope_in_tail(torn)) == 3
    assert envelope_in_tail(b"nothing") is None


def test_head_takes_only_the_top_level():
    """In the head of a huge answer nested members do not count."""
    head = b'{"a":{"usage":{"total_tokens":99}},"usage":{"total_tokens":5},"data":[[0'
    assert total(envelope_in_head(head)) == 5
    assert envelope_in_head(b'{"data":[{"usage":{"total_tokens":99}},') is None
    assert total(envelope_in_head(b'{"prompt_eval_count":5,"eval')) == 5


def test_members_that_are_read_later():
    """A member whose reading is put off keeps its JSON text."""
    envelope = loose_envelope(b'{"output":[1],"usage":{"total_tokens":"x"}}')
    assert envelope is not None
    assert bytes(envelope.output) == b"[1]"


def test_members_that_cannot_be_read_are_left_out():
    """A truncated member is skipped."""
    assert envelope_in_tail(b'"usage":{"total_tokens":') is None


REAL = b'"usage":{"input_tokens":9,"total_tokens":9}'
ECHO = b'"tools":[{"parameters":{"usage":{"input_tokens":1,"total_tokens":1}}}]'


@pytest.mark.parametrize("begin", [b'"a":"', b'x","a":"', b""])
def test_echoes_of_the_request_are_no_usage(begin):
    """A deeper member of that name is the client's, before or after the real one."""
    for members in (REAL + b"," + ECHO, ECHO + b"," + REAL):
        for end in (b"}", b"}}"):
            text = begin + b'x",' + members + end if begin else members + end
            found = envelope_in_tail(text)
            assert found is not None
            assert found.usage is not None
            assert found.usage.total_tokens == 9
    assert envelope_in_tail(begin + b'x",' + ECHO + b"}") is None
