"""Similarity of prompts."""

from __future__ import annotations

import random

from gateway.detect.fingerprint import (
    _CACHED_WORDS,
    _LANES,
    ALIKE_BITS,
    _Lanes,
    alike,
    distance,
    fingerprint_bytes,
    prompt_fingerprint,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def words(chance: random.Random, count: int) -> str:
    """A text of random words."""
    return " ".join(
        "".join(chance.choice(LETTERS) for _ in range(chance.randint(3, 9)))
        for _ in range(count)
    )


def test_a_filled_in_number_or_case_changes_nothing():
    """Digits, case and punctuation are not part of a prompt's fingerprint."""
    one = prompt_fingerprint("Summarise ticket 123, please; thank you very much")
    other = prompt_fingerprint("summarise TICKET 98765 please thank you very much")
    assert one == other


def test_prompts_of_a_template_are_alike():
    """Twelve fixed words around a filled-in one: alike; other texts: not."""
    chance = random.Random(1)
    head, tail = words(chance, 10), words(chance, 4)
    prints = [
        prompt_fingerprint(f"{head} {words(chance, 1)} {tail}") for _ in range(20)
    ]
    near = [distance(prints[0], other) for other in prints[1:]]
    assert sum(bits <= ALIKE_BITS for bits in near) >= 18
    far = [prompt_fingerprint(words(chance, 30)) for _ in range(20)]
    assert not any(alike(prints[0], other) for other in far)
    assert 26 < sum(distance(prints[0], other) for other in far) / 20 < 38


def test_texts_without_spaces_are_cut_into_pieces():
    """A long text in a script without spaces has a fingerprint of its pieces."""
    one = prompt_fingerprint("请把下面这段文字翻译成英文并解释其中的难点谢谢你一")
    other = prompt_fingerprint("请把下面这段文字翻译成英文并解释其中的难点谢谢你二")
    assert distance(one, other) <= ALIKE_BITS


def test_odd_texts_do_not_fail():
    """Nothing, digits only, one word, half surrogates, a megabyte of one letter."""
    assert prompt_fingerprint("") == prompt_fingerprint("123 456") == 0
    assert prompt_fingerprint("hello")
    assert prompt_fingerprint("\ud800 what")
    assert fingerprint_bytes(b"a" * 1_000_000)


def test_only_the_head_counts():
    """What follows the first kilobyte does not change the fingerprint."""
    head = "word " * 300
    assert prompt_fingerprint(head) == prompt_fingerprint(head + "and something else")


def test_the_memo_of_words_is_bounded():
    """Remembered words are forgotten together when there are too many."""
    lanes = _Lanes()
    for number in range(_CACHED_WORDS + 5):
        lanes[b"%d" % number]
    assert len(lanes) == 5
    assert len(_LANES) <= _CACHED_WORDS
