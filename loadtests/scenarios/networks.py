"""Addresses: internet providers, carriers, hosting, offices, all from one world.

Attackers rent and infect what everybody uses, so their addresses are drawn from the
same providers as those of ordinary clients of the same sort.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address

import numpy as np

from loadtests.scenarios.rows import Ints, Random, Words

RESIDENTIAL, CARRIER, HOSTING = range(3)
# Providers of each sort, and the bits of hosts in one of their blocks.
PROVIDERS = {RESIDENTIAL: (24, 16), CARRIER: (8, 8), HOSTING: (14, 12)}
# Share of residential lines that come over IPv6 (a /64 each).
IPV6_SHARE = 0.2


class Internet:
    """Draws addresses by sort of network."""

    def __init__(self, rng: Random) -> None:
        self.blocks: dict[int, Words] = {}
        self.shares: dict[int, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
        for sort, (count, bits) in PROVIDERS.items():
            self.blocks[sort] = self._blocks(rng, 4 * count, bits)
            weight = 1.0 / np.arange(1, 4 * count + 1)
            self.shares[sort] = rng.permutation(weight / weight.sum())
        self.six = rng.integers(0x2001_0000_0000, 0x2A10_0000_0000, 40, dtype=np.uint64)

    @staticmethod
    def _blocks(rng: Random, count: int, bits: int) -> Words:
        heads = rng.integers(16 << 24, 223 << 24, count, dtype=np.uint64)
        return np.asarray(heads >> np.uint64(bits) << np.uint64(bits))

    def draw(self, rng: Random, sort: int, count: int) -> Words:
        """``count`` addresses of networks of this sort."""
        blocks = rng.choice(self.blocks[sort], size=count, p=self.shares[sort])
        hosts = rng.integers(1, 2 ** PROVIDERS[sort][1] - 1, count, dtype=np.uint64)
        out = blocks + hosts
        if sort == RESIDENTIAL:
            six = rng.random(count) < IPV6_SHARE
            heads = rng.choice(self.six, size=int(six.sum())) << np.uint64(16)
            out[six] = heads + rng.integers(0, 2**16, len(heads), dtype=np.uint64)
        return np.asarray(out)

    def bots(self, rng: Random, count: int) -> Words:
        """Infected machines: mostly homes, some phones, some servers."""
        sorts = rng.choice(3, size=count, p=(0.8, 0.05, 0.15))
        out = np.zeros(count, np.uint64)
        for sort in (RESIDENTIAL, CARRIER, HOSTING):
            mine = sorts == sort
            out[mine] = self.draw(rng, sort, int(mine.sum()))
        return out


@lru_cache(maxsize=100_000)
def spelled(address: int) -> str:
    """As the gateway writes it: IPv4 dotted, IPv6 as its /64."""
    if address < 2**32:
        return ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))
    return f"{IPv6Address(address << 64)}/64"


def spelled_all(addresses: Words) -> list[str]:
    """The spelling of every address of a column."""
    return [spelled(address) for address in addresses.tolist()]


def pick(rng: Random, among: Words, count: int) -> Words:
    """``count`` addresses of a pool, with repetition."""
    return among[rng.integers(0, len(among), count)]


def spread_over(rng: Random, among: Words, owners: Ints) -> Words:
    """One address per owner number, the same for equal numbers."""
    shuffled = rng.permutation(len(among))
    return np.asarray(among[shuffled[owners % len(among)]])
