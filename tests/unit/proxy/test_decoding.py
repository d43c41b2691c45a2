"""Decoding of request bodies in threads."""

from __future__ import annotations

import asyncio
import gzip
import threading
from types import SimpleNamespace

from gateway.metering.inflate import InflateError
from gateway.proxy.decoding import BUSY, PENDING_MAX, BodyDecoder, inflate
from gateway.proxy.local_reply import refuse_coding
from tests.inprocess import until

PLAIN = bytes(100_000)
PACKED = gzip.compress(PLAIN)


def bounds(size=1 << 20):
    return SimpleNamespace(max_inflate=size, max_inflate_ratio=1e9)


class Owner:
    """Waits for a body; its client leaves at the look number ``leaves``."""

    def __init__(self, free=None, leaves=0):
        self.free, self.leaves, self.looks = free, leaves, 0
        self.found = []

    @property
    def client(self):
        self.looks += 1
        if self.free is not None:
            self.free.wait(20)
        return None if self.looks == self.leaves else self

    def on_decoded(self, plain):
        self.found.append(plain)


def test_decoding_is_bounded():
    """A bomb and a truncated body are errors, not exceptions."""
    assert isinstance(inflate("gzip", PACKED, bounds(1_000), Owner()), InflateError)
    assert isinstance(inflate("gzip", PACKED[:-9], bounds(), Owner()), InflateError)
    assert inflate("gzip", PACKED, bounds(), Owner()) == PLAIN


def test_decoding_ends_when_the_client_leaves():
    """The rest of the body is not decoded."""
    owner = Owner(leaves=2)
    packed = gzip.compress(bytes(10 << 20))
    assert isinstance(inflate("gzip", packed, bounds(1 << 30), owner), InflateError)
    assert owner.looks == 2


async def test_bodies_that_wait_are_bounded():
    """Beyond PENDING_MAX a body is refused with 503 and counted; later ones are taken."""
    decoder = BodyDecoder(asyncio.get_running_loop())
    free = threading.Event()
    owner, later = Owner(free), Owner()
    for _ in range(PENDING_MAX + 2):
        decoder.decode(b"gzip", PACKED, bounds(), owner)
    assert owner.found == [BUSY, BUSY]
    assert decoder.refused == 2
    refusal = refuse_coding(BUSY)
    assert (refusal.status, refusal.code) == (503, "overloaded")
    free.set()
    await until(lambda: len(owner.found) == PENDING_MAX + 2)
    assert owner.found[2:] == [PLAIN] * PENDING_MAX
    decoder.decode(b"gzip", PACKED, bounds(), later)
    await until(lambda: later.found)
    assert later.found == [PLAIN]
    decoder.close()


def test_a_decoder_without_work_closes():
    """No thread is started before the first body."""
    BodyDecoder(SimpleNamespace()).close()
