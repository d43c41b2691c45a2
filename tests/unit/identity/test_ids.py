"""Ids that clients state: readable, bounded, never merged."""

import pytest

from gateway.identity.ids import readable_id, secret_id, shorten_id


@pytest.mark.parametrize(
    "text", ["alice@example.com", "Jörg Ünal", "team:a/b c", "e" * 128, "a~0123456789"]
)
def test_readable_texts_are_their_own_ids(text):
    """Ids are shown as they are stated."""
    assert readable_id(text) == text
    assert shorten_id(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" a\r\nb\x00c\x1b[31m\u202ed ", "abc[31md"),
        ("x\ud800y", "xy"),
        ("alice\u200b", "alice"),
        (" alice", "alice"),
        ("alice\u00a0", "alice"),
        ("alice\x00", "alice"),
        ("alice~0123456789abcdef", "alice~0123456789abcdef"),
    ],
)
def test_removed_characters_leave_a_hash(text, shown):
    """A text that cannot be shown as it is gets a hash, so that it is not the id of the
    text without these characters.
    """
    id_ = readable_id(text)
    name, _, tail = id_.rpartition("~")
    assert (name, len(tail)) == (shown, 16)
    assert id_.isprintable()


@pytest.mark.parametrize("text", ["", " ", "\x00\x1f", "\u200b" * 3000])
def test_nothing_to_show_is_no_id(text):
    """A text of blanks and invisible characters names no client."""
    assert readable_id(text) == ""


@pytest.mark.parametrize("make", [readable_id, shorten_id])
@pytest.mark.parametrize("size", [129, 2000, 100_000])
def test_long_ids_end_in_a_hash(make, size):
    """Long ids are bounded, and different ones stay different."""
    one, other = make("u" * size + "1"), make("u" * size + "2")
    assert len(one) == len(other) == 128
    assert one != other
    assert one.startswith("uuu")


def test_ids_cannot_be_stated_by_another_text():
    """The id of a long or unprintable text is not the id of what it reads like."""
    for text in ("u" * 300, "alice\x00", "a" + "\x00" * 3000 + "b"):
        assert readable_id(readable_id(text)) != readable_id(text)


def test_secrets_can_be_compared_without_disclosing_them():
    """The id of a secret is stable, differs by secret and is not part of it."""
    assert secret_id(b"a" * 64) == secret_id(b"a" * 64) != secret_id(b"b" * 64)
    assert len(secret_id(b"")) == 16
