"""Ambiguous member names: repeated, or known ones in another case."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_too_many_members():
    """No API has hundreds of members at the top level."""
    text = json.dumps({str(n): n for n in range(MEMBERS_MAX + 1)}).encode()
    with pytest.raises(DialectError, match="more than"):
        NameChecker(NAMES).members(text)


def test_pairs_of_the_standard_library():
    """The standard library's parser reports repeated names, too."""
    assert UniqueMembers([("a", 1), ("b", 2)]).repeated is None
    assert UniqueMembers([("a", 1), ("a", 1)]).repeated == "a"
