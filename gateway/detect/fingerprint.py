"""A 64-bit similarity hash of a prompt: alike prompts differ in few bits.

A simhash of the words at the head of the prompt, digits and punctuation stripped, so
that a template filled with numbers is the same prompt. Each bit is a vote of all words;
64 votes are counted at once, in 64 eight-bit lanes of one integer: one addition a word.
Words at the head weigh more, because templates begin alike and end in what was filled
in. No weight depends on anything but the position, so equal prompts are equal anywhere.
"""

from __future__ import annotations

from hashlib import blake2b

BITS = 64
# Prompts of one template are at most this many bits apart; unrelated ones about 32.
ALIKE_BITS = 10
# More words than this change little and cost much.
MAX_WORDS = 64
HEAD_BYTES = 1024
# Fewer words than this in a long head: a script without spaces, cut into pieces.
_FEW_WORDS = 6
_PIECE = 6
_CACHED_WORDS = 16_384

_ONES = int.from_bytes(b"\x01" * BITS, "big")
_ASCII_DIGITS = _ONES * 0x30  # "0" in every lane
_STRIP = bytes(
    byte
    if byte >= 0x80 or chr(byte).isalpha()  # noqa: PLR2004 - bytes of UTF-8 sequences
    else 0x20
    for byte in range(256)
).lower()
_DIGITS = b"0123456789"
# Weight 4 up to the first of these positions, then 3, 2, and 1 to the end. The sum of
# all weights stays under 128, so no lane overflows into the next.
_FOUR, _THREE, _TWO = 8, 16, 32


class _Lanes(dict[bytes, int]):
    """A word's 64 hash bits, each in a lane of eight bits; remembers common words."""

    def __missing__(self, word: bytes) -> int:
        if len(self) >= _CACHED_WORDS:
            self.clear()
        bits = int.from_bytes(blake2b(word, digest_size=8).digest(), "big")
        self[word] = lanes = int(f"{bits:064b}".encode().hex(), 16) & _ONES
        return lanes


# A memo of a pure function: what it holds changes no result.
_LANES = _Lanes()


def prompt_fingerprint(prompt: str) -> int:
    """The similarity hash of a prompt; 0 for one without a letter."""
    return fingerprint_bytes(prompt[:HEAD_BYTES].encode("utf-8", "replace"))


def fingerprint_bytes(prompt: bytes) -> int:
    """As ``prompt_fingerprint``, of the prompt's UTF-8 bytes (only the head counts)."""
    text = prompt[:HEAD_BYTES].translate(_STRIP, _DIGITS)
    words = text.split(None, MAX_WORDS)[:MAX_WORDS]
    if len(words) < _FEW_WORDS:
        words = _pieces(b"".join(words)) or words
    if not words:
        return 0
    lanes = [_LANES[word] for word in words]
    votes = sum(lanes) + sum(lanes[:_TWO]) + sum(lanes[:_THREE]) + sum(lanes[:_FOUR])
    count = len(words)
    total = count + min(count, _TWO) + min(count, _THREE) + min(count, _FOUR)
    # A lane with more than half of the votes carries into its high bit.
    majority = ((votes + _ONES * (127 - total // 2)) >> 7) & _ONES
    return int((majority | _ASCII_DIGITS).to_bytes(BITS, "big"), 2)


def _pieces(text: bytes) -> list[bytes]:
    """A text without spaces, cut so that equal stretches give equal pieces."""
    last = min(len(text) - _PIECE, MAX_WORDS * 3)
    return [text[at : at + _PIECE] for at in range(0, last, 3)]


def distance(one: int, other: int) -> int:
    """In how many bits two fingerprints differ, 0 to 64."""
    return (one ^ other).bit_count()


def alike(one: int, other: int) -> bool:
    """Whether two prompts seem to come from one template."""
    return (one ^ other).bit_count() <= ALIKE_BITS
