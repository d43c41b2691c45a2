"""Ambiguous member names: repeated, or known ones in another case."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from gateway.metering.dialects.base import DialectError
from gateway.metering.dialects.names import (
    _SHAPES_MAX,
    MEMBERS_MAX,
    NameChecker,
    UniqueMembers,
)

NAMES = ("model", "n", "max_tokens", "maxTokens")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
styles = st.sampled_from(
    [
        (None, (",", ":")),
        (None, (", ", ": ")),
        (2, (",", ": ")),
        (None, (" ,\t", " :\n")),
    ]
)


def written(pairs, style, *, ascii_only):
    """The members as JSON text, equal names too."""
    _, (comma, colon) = style
    members = comma.join(
        json.dumps(name, ensure_ascii=ascii_only)
        + colon
        + json.dumps(value, separators=style[1], ensure_ascii=ascii_only)
        for name, value in pairs
    )
    return f" {{{members}}}\n".encode("utf-8", "replace")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["model", "n", "x", "é", "a\0b", '"', "\\", ""])
            | st.text(st.characters(codec="utf-8"), max_size=4),
            values,
        ),
        max_size=6,
    ),
    styles,
    st.booleans(),
)
def test_equal_names_never_pass(pairs, style, ascii_only):
    """An object passes exactly if its known names are unique, however it is written."""
    text = written(pairs, style, ascii_only=ascii_only)
    names = [name for name, _ in pairs]
    known = [name for name in names if name.casefold() in {"model", "n", "max_tokens"}]
    checker = NameChecker(NAMES)
    fine = len(set(names)) == len(names) and set(known) <= set(NAMES)
    try:
        assert list(checker.members(text)) == list(dict.fromkeys(names))
        assert len(set(known)) == len(known)
        assert set(known) <= set(NAMES)
    except DialectError:
        assert not fine


@pytest.mark.parametrize("name", ["MODEL", "Model", "N", "max_toKens", "MAXTOKENS"])
def test_other_case(name):
    """Go servers take these, the Kelvin sign too; others do not."""
    text = json.dumps({name: 1}).encode()
    with pytest.raises(DialectError, match="must be written"):
        NameChecker(NAMES).members(text)
    assert NameChecker(NAMES, any_case=True).members(text)


def test_two_spellings():
    """Where the case does not matter, one name in two spellings is refused."""
    with pytest.raises(DialectError, match="twice"):
        NameChecker(NAMES, any_case=True).members(b'{"MODEL":1,"MODEL":1}')
    with pytest.raises(DialectError, match="twice"):
        NameChecker(NAMES, any_case=True).members(b'{"model":1,"MODEL":1}')


def test_checked_names_are_remembered_and_bounded():
    """Names that were checked are not checked again; their number is bounded."""
    checker = NameChecker(NAMES)
    for number in range(_SHAPES_MAX + 5):
        checker.members(b'{"a%d":1}' % number)
    assert len(checker._shapes) == 5
    checker.members(b'{"%b":1}' % (b"a" * 2000))
    checker.members(b'{"a\\u0000Model":1}')
    assert len(checker._shapes) == 5
    with pytest.raises(DialectError, match="must be written"):
        checker.members(b'{"a":1,"Model":1}')


KNOWN = {"model", "n", "N", "messages"}
BODIES = st.lists(
    st.tuples(
        st.sampled_from(["model", "n", "N", "messages", 'messages":', '"', "\\", "x"]),
        st.sampled_from([[], [",", ":"], ['"'], ["messages"], "messages", 1, 12, {}])
        | st.dictionaries(st.sampled_from(["messages", "n"]), st.integers(0, 12)),
    ),
    max_size=4,
)


@given(st.lists(st.tuples(BODIES, st.booleans()), min_size=2, max_size=8))
def test_texts_that_differ_in_one_member(bodies):
    """What was learned from one text does not change the answer for another."""
    knowing = NameChecker((*NAMES, "messages"), longest="messages")
    for drawn, spaced in bodies:
        # Of names that are not known, nothing is promised.
        odd = [pair for pair in drawn if pair[0] not in KNOWN]
        pairs = [pair for pair in drawn if pair[0] in KNOWN] + list(dict(odd).items())
        text = written(
            pairs, (None, (", ", ": ") if spaced else (",", ":")), ascii_only=True
        )
        try:
            found = NameChecker((*NAMES, "messages")).members(text)
        except DialectError:
            with pytest.raises(DialectError):
                knowing.check(text, longest_of(text))
        else:
            knowing.check(text, found.get("messages", Raw()))
            knowing.check(text, found.get("messages", Raw()))


def longest_of(text):
    """The member as the typed decoder finds it."""
    return msgspec.json.decode(text, type=dict[str, Raw]).get("messages", Raw())


def test_known_texts_are_not_decoded_again_and_bounded(monkeypatch):
    """The same names around another value: one look-up."""
    checker = NameChecker(NAMES, longest="messages")
    decoded = []
    members = NameChecker.members

    def counting(self, text):
        decoded.append(text)
        return members(self, text)

    monkeypatch.setattr(NameChecker, "members", counting)
    for value in (b"[1]", b'["x"]', b"[]"):
        checker.check(b'{"model":"a","messages": %b,"n":1}' % value, Raw(value))
    assert len(decoded) == 1
    # Inside a string, behind an escape, or with too much around it.
    for text in (
        b'{"a":"messages","messages":[1]}',
        b'{"a\\n":1,"messages":[1]}',
        b'{"a":"%b","messages":[1]}' % (b"x" * 2000),
    ):
        checker.check(text, Raw(b"[1]"))
    with pytest.raises(DialectError):
        checker.check(b'{"messages":[1],"model":1,"model":2}', Raw(b"[1]"))
    assert len(checker._around) == 2
    count = len(decoded)
    checker.check(b'{"model":"a","messages": [2],"n":1}', Raw(b"[2]"))
    assert len(decoded) == count
    for number in range(_SHAPES_MAX):
        checker.check(b'{"n":%d,"messages":[1]}' % number, Raw(b"[1]"))
    assert len(checker._around) == 2


def test_too_many_members():
    """No API has hundreds of members at the top level."""
    text = json.dumps({str(n): n for n in range(MEMBERS_MAX + 1)}).encode()
    with pytest.raises(DialectError, match="more than"):
        NameChecker(NAMES).members(text)


def test_pairs_of_the_standard_library():
    """The standard library's parser reports repeated names, too."""
    assert UniqueMembers([("a", 1), ("b", 2)]).repeated is None
    assert UniqueMembers([("a", 1), ("a", 1)]).repeated == "a"
