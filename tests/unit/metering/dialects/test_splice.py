"""Single members are edited; every other byte stays."""

import pytest

from gateway.metering.dialects.base import DialectError
from gateway.metering.dialects.splice import capped, members, with_usage_asked

ASKED = b'"stream_options":{"include_usage":true}'


@pytest.mark.parametrize(
    ("body", "spliced"),
    [
        (b' {"a": 1}', b" {" + ASKED + b',"a": 1}'),
        (b"{ }", b"{" + ASKED + b" }"),
    ],
)
def test_asking_where_nothing_is_given(body, spliced):
    """The member is inserted first."""
    assert with_usage_asked(body, present=False) == spliced


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (b"null", b'{"include_usage":true}'),
        (b"{}", b'{"include_usage":true}'),
        (b'{ "x":1 }', b'{"include_usage":true, "x":1 }'),
        (b'{"include_usage": false}', b'{"include_usage": true}'),
        (b'{"include_usage":null,"x":[2]}', b'{"include_usage":true,"x":[2]}'),
    ],
)
def test_asking_inside_what_is_given(given, wanted):
    """Only include_usage changes, in every copy of the member."""
    body = b'{"a":[{"stream_options":{}}], "stream_options":%b,"stream_options" :%b}'
    assert with_usage_asked(body % (given, given), present=True) == body % (
        wanted,
        wanted,
    )


@pytest.mark.parametrize("body", [b"[]", b'{"a":1}', b"{"])
def test_asking_in_vain(body):
    """Without the member, or in incomplete JSON, the body is not edited."""
    assert with_usage_asked(body, present=True) is None


def test_members():
    """Names and positions of values are found, escaped names decoded."""
    body = b'{"a\\n": "x\\"}" , "b":[{"c":[]}],"d":-1e3,"e":{}}'
    found = [(m.name, body[m.start : m.end]) for m in members(body)]
    assert found == [
        ("a\n", b'"x\\"}"'),
        ("b", b'[{"c":[]}]'),
        ("d", b"-1e3"),
        ("e", b"{}"),
    ]
    assert [m.name for m in members(b'{"\\x":1}')] == ['"\\x"']


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b"{",
        b"{1:2}",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1 "b":2}',
        b'{"a":[1',
        b'{"a":' + b"[" * 60_000,
    ],
    ids=range(9),
)
def test_incomplete_bodies(body):
    """Incomplete JSON, and too much structure, raises a DialectError."""
    with pytest.raises(DialectError):
        list(members(body))


CAPS = ((("max_tokens",), 100), (("options", "num"), 5), (("options", "n"), 1))


@pytest.mark.parametrize(
    ("body", "clamped"),
    [
        (b'{"max_tokens": 500, "x":500}', b'{"max_tokens": 100, "x":500}'),
        (b'{"max_tokens":"500"}', b'{"max_tokens":100}'),
        (b'{"max_tokens":-1}', b'{"max_tokens":100}'),
        (b'{"max_tokens":NaN}', b'{"max_tokens":100}'),
        (b'{"max_tokens":100}', b'{"max_tokens":100}'),
        (b'{"max_tokens":null}', b'{"max_tokens":null}'),
        (b'{"max_tokens":5,"max_tokens":500}', b'{"max_tokens":5,"max_tokens":100}'),
        (b'{"options":{"num":9,"n":[2]}}', b'{"options":{"num":5,"n":[2]}}'),
        (b'{"options":[9]}', b'{"options":[9]}'),
        (b'{"messages":[{"max_tokens":500}]}', b'{"messages":[{"max_tokens":500}]}'),
    ],
)
def test_caps(body, clamped):
    """Numbers over a cap are lowered in place, at their path only."""
    assert capped(body, CAPS, fold_case=False) == clamped


def test_caps_in_any_case():
    """Names of Go servers match in any case."""
    body = b'{"Max_Tokens":900,"OPTIONS":{"NUM":9}}'
    assert capped(body, CAPS, fold_case=True) == (
        b'{"Max_Tokens":100,"OPTIONS":{"NUM":5}}'
    )
