"""Bodies are read as leniently as by servers, or refused with a DialectError."""

import msgspec
import pytest
from msgspec import Raw

from gateway.metering.dialects.base import DialectError
from gateway.metering.dialects.requests import (
    COUNT_MAX,
    EMPTY,
    LENIENT_BYTES,
    SAMPLED_ABOVE_BYTES,
    BodyReader,
    Count,
    count_items,
    member,
    refuse_costly,
    size,
)


class Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    count: Count = None
    rest: Raw = EMPTY


read = BodyReader(Body).read
fold = BodyReader(Body, fold_case=True).read


@pytest.mark.parametrize(
    ("json", "value"),
    [
        (b"true", True),
        (b"false", False),
        (b"null", None),
        (b"1", True),
        (b"0.0", False),
        (b'"true"', True),
        (b'"YES"', True),
        (b'"off"', False),
    ],
)
def test_flags(json, value):
    """Booleans are read in every spelling that pydantic accepts."""
    assert read(b'{"stream":%b}' % json).stream is value


@pytest.mark.parametrize(
    ("json", "value"),
    [
        (b"10", 10),
        (b"10.0", 10),
        (b'"10"', 10),
        (b'"1e1"', 10),
        (b"null", None),
        (b"-1", -1),
        (b"-99", -1),
        (b"true", 1),
        (b"1" * 30, COUNT_MAX),
    ],
)
def test_counts(json, value):
    """Whole numbers are read in every spelling that pydantic accepts; no cap is -1 or
    huge.
    """
    assert read(b'{"count":%b}' % json).count == value


@pytest.mark.parametrize(
    ("json", "value"), [(b'"m"', "m"), (b"7", "7"), (b"null", None)]
)
def test_texts(json, value):
    """A model id may be written as a number."""
    assert read(b'{"stream":1,"model":%b}' % json).model == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"3",
        b"{",
        b'{"a":}',
        b'{"model":[]}',
        b'{"model":true,"stream":1}',
        b'{"stream":"maybe"}',
        b'{"stream":2}',
        b'{"count":1.5}',
        b'{"count":"ten"}',
        b'{"count":"' + b"1" * 100 + b'"}',
        b'{"count":[1]}',
        b'{"count":NaN}',
        b'{"count":Infinity}',
        b'{"count":1e999}',
        b'{"count":' + b"9" * 5000 + b"}",
        b'{"model":"\xff"}',
        b"[" * 100_000,
        b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"stream":1,"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"a":NaN,"b":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"a":NaN,"rest":"' + b"x" * LENIENT_BYTES + b'"}',
        b'\xef\xbb\xbf{"a":[' + b"[" * 100_000,
    ],
    ids=range(24),
)
def test_refused(body):
    """A body that no server accepts raises a DialectError, never another exception."""
    with pytest.raises(DialectError):
        read(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","t":NaN}',
        b'{"model":"m","t":[-Infinity]}',
        b'{"model":"m","t":"\\ud800"}',
        b'\xef\xbb\xbf{"model":"m"}',
        b'{"mod\\u0065l":"m"}',
        '{"model":"m"}'.encode("utf-16"),
    ],
)
def test_lenient(body):
    """NaN, lone surrogates, a byte order mark, and escaped names are read."""
    assert read(body).model == "m"


def test_deep_nesting_beside_nan_is_refused():
    """Deep nesting is refused on the slow path too."""
    body = b'{"stream":"yes","a":NaN,"rest":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    with pytest.raises(DialectError, match="deep"):
        read(body)


def test_cut_emoji_in_long_bodies():
    """A long body with lone surrogates is read; one with other errors is not."""
    long = b"x" * LENIENT_BYTES
    body = b'{"model":"m","rest":"\\ud83d","a":"%b"}' % long
    assert read(body).model == "m"
    with pytest.raises(DialectError):
        read(body[:-1])
    with pytest.raises(DialectError):
        read(b'{"a":NaN,"b":"%b"}' % long)


def test_raw_members_keep_their_size():
    """Members of unknown shape keep their size on the slow path too."""
    assert size(read(b'{"rest":[1, 2]}').rest) == 6
    assert size(read(b'{"t":NaN,"rest":[1,2]}').rest) == 6
    assert size(read(b'{"rest":null}').rest) == 0
    assert read(b'{"stream":"yes","count":null,"model":null}').count is None
    assert size(EMPTY) == 0


def test_names_in_any_case():
    """Go servers match names in any case; two spellings at once are refused."""
    given = fold(b'{"MODEL":"m","Stream":true,"x":1}')
    assert (given.model, given.stream) == ("m", True)
    with pytest.raises(DialectError, match="twice"):
        fold(b'{"model":"a","Model":"b"}')


@pytest.mark.parametrize(
    "body",
    [
        b'{"MODEL":"m"}',
        b'{"model":"m","Stream":true}',
        b'{"model":"m","\xc5\xbftream":true}',
        b'{"Count":NaN}',
        '{"MODEL":"m"}'.encode("utf-16"),
        b'{"mod\\u0045l":"m"}',
        b'{"model":"x","model":"m"}',
        b'{"model":"m", "count":1, "count":2}',
        b'{"model":"m","count":1,"count":1}',
        b'{"count":1,"model":"m","count":NaN}',
        b'{"model":"m","mod\\u0065l":"m"}',
        b'{\n  "model": "m",\n  "count": 9,\n  "rest": [],\n  "count": 9\n}',
        b'{"model":"\\ud800","model":"m"}',
        b'{"model":"m","rest":"\\ud83d","count":1,"count":2,"a":"%b"}'
        % (b"x" * LENIENT_BYTES),
    ],
)
def test_ambiguous_names_are_refused(body):
    """Known names in another case, and equal names, are read differently by servers."""
    with pytest.raises(DialectError, match=r"twice|must be written"):
        read(body)


def test_nested_members():
    """A member of a nested object is found by any of its names."""
    raw = Raw(b'{"b":null,"c":3}')
    assert member(raw, "a", "b", "c") == 3
    assert member(raw, "a") is None
    assert member(EMPTY, "a") is None
    assert member(Raw(b"[1]"), "a") is None
    assert member(Raw(b'{"a":NaN,"b":2}'), "b") == 2
    for text in (
        b'{"a":"\xff"}',
        b'{"a":NaN,"a":1}',
        b'{"a":1,"a":1}',
        b'{"A":1}',
        b'{"a":tru}',
    ):
        with pytest.raises(DialectError):
            member(Raw(text), "a")
    assert member(Raw(b'{"A":1}'), "a", free=True) is None


def test_costly_bodies_are_refused_by_sample():
    """Megabytes of brackets are refused; megabytes of text or base64 are not."""
    size_bytes = SAMPLED_ABOVE_BYTES + 1
    refuse_costly(b'{"a":"' + b"some words of text " * (size_bytes // 19) + b'"}')
    junk = b'{"a":[' + b"[]," * (4 * size_bytes)
    with pytest.raises(DialectError, match="structure"):
        read(junk)
    names = b",".join(b'"%d":1' % n for n in range(60_000))
    with pytest.raises(DialectError, match="structure"):
        fold(b"{" + names + b"}")


@pytest.mark.parametrize(
    "raw", [b'"a"', b"[1,2]", b"[ -1]", b"[]", b"", b"null", b"{}"]
)
def test_one_prompt(raw):
    """A text and a list of tokens are one prompt."""
    assert count_items(Raw(raw)) == 1


@pytest.mark.parametrize("raw", [b'["a","b"]', b"[[1,2],[3]]", b' [ {"x":1}, "b"] '])
def test_list_of_prompts(raw):
    """Each item of another list is a prompt."""
    assert count_items(Raw(raw)) == 2


def test_list_that_cannot_be_read():
    """A broken list is refused."""
    with pytest.raises(DialectError):
        count_items(Raw(b'["a",'))
