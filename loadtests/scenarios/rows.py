"""The columns of generated traffic, how blocks of them join, and fingerprints.

Traffic is made in blocks (numpy structured arrays, one element per request) and handed
out as plain tuples, so that a detector pays for its own objects only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Block: TypeAlias = NDArray[np.void]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Words: TypeAlias = NDArray[np.uint64]
Random: TypeAlias = np.random.Generator

# ``ip`` holds an IPv4 address, or the upper 64 bits of an IPv6 one (always above
# 2**32). ``fp`` 0 stands for "no fingerprint". ``cause`` indexes the ledger.
ROW = np.dtype(
    [
        ("ts", "f8"),
        ("ip", "u8"),
        ("user", "i4"),
        ("tenant", "i2"),
        ("model", "i2"),
        ("endpoint", "i2"),
        ("prompt", "i4"),
        ("completion", "i4"),
        ("status", "i2"),
        ("fp", "u8"),
        ("cause", "i2"),
    ]
)

ENDPOINTS = (
    "chat.completions",
    "messages",
    "responses",
    "completions",
    "embeddings",
    "other",
)
CHAT, MESSAGES, RESPONSES, COMPLETIONS, EMBEDDINGS, OTHER = range(6)
# Names, and US dollars per million prompt and completion tokens. Orders of magnitude of
# public price lists; the names belong to nobody.
MODELS: tuple[tuple[str, float, float], ...] = (
    ("atlas-mini", 0.15, 0.6),
    ("atlas", 2.5, 10.0),
    ("atlas-deep", 15.0, 60.0),
    ("borea-small", 0.8, 4.0),
    ("borea-large", 3.0, 15.0),
    ("cirrus-8b", 0.05, 0.1),
    ("cirrus-70b", 0.6, 0.8),
    ("delta-code", 1.0, 3.0),
    ("delta-vision", 2.0, 8.0),
    ("embed-1", 0.02, 0.0),
)
EMBED_MODEL = 9
# Pairs of prompts of one template differ in at most 2 * FLIPS_MAX bits.
FLIPS_MAX = 5


class Row(NamedTuple):
    """One finished request: the fields of a detector's event, then the label.

    ``ts`` is epoch seconds, ``usd`` dollars, ``fingerprint`` a 64-bit similarity hash.
    ``cause`` is the index of the entry in the ledger (0: ordinary life); a detector
    must never be shown it.
    """

    ts: float
    client_ip: str
    user: str
    tenant: str
    model: str
    endpoint: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    status: int
    usd: float
    fingerprint: int | None
    cause: int


def block(ts: Floats, **columns: object) -> Block:
    """A block of ``len(ts)`` requests; scalars are repeated, absent columns are 0."""
    made = np.zeros(len(ts), ROW)
    made["ts"] = ts
    for name, values in columns.items():
        made[name] = values
    return made


def join(blocks: Sequence[Block]) -> Block:
    """All requests of the blocks in the order of their times."""
    if not blocks:
        return np.zeros(0, ROW)
    whole = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return whole[np.argsort(whole["ts"], kind="stable")]


def flipped(rng: Random, bases: Words, at_most: int) -> Words:
    """Each word with up to ``at_most`` bits turned over, two on average at five."""
    out = bases.copy()
    for _ in range(at_most):
        hit = rng.random(len(out)) < 0.4
        bits = np.uint64(1) << rng.integers(0, 64, len(out), dtype=np.uint64)
        out[hit] ^= bits[hit]
    return out


def strange(rng: Random, count: int) -> Words:
    """Unrelated fingerprints: pairs are about 32 bits apart. Never 0."""
    return rng.integers(1, 2**64, count, dtype=np.uint64)


def paraphrases(rng: Random, count: int, bits: int) -> Words:
    """``count`` wordings of one template, each ``bits`` bits away from its root."""
    out = np.full(count, strange(rng, 1)[0])
    for i in range(count):
        for bit in rng.choice(64, size=bits, replace=False):
            out[i] ^= np.uint64(1) << np.uint64(bit)
    return out


def clustered(starts: Floats, sizes: Ints, gaps: Floats) -> Floats:
    """Times of groups of requests: group i begins at ``starts[i]``, has ``sizes[i]``
    requests, and each next one comes after its own gap (the first gap is unused).
    """
    gaps = gaps.copy()
    if not len(gaps):
        return gaps
    heads = np.cumsum(sizes) - sizes
    gaps[heads] = 0.0
    run = np.cumsum(gaps)
    return np.asarray(np.repeat(starts - run[heads], sizes) + run)


def positions(sizes: Ints) -> Ints:
    """0, 1, 2 … within each group."""
    heads = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(np.arange(len(heads)) - heads)
