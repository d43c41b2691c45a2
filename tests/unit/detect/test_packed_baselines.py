"""Packed baselines: what comes back, and what is refused."""

from __future__ import annotations

import contextlib
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.detect import packed_baselines as baselines
from gateway.detect.packed_baselines import (
    MAGIC,
    BaselinesError,
    is_packed,
    pack_baselines,
    unpack_baselines,
)

HEAD_BYTES = len(MAGIC) + struct.calcsize(">HQ16s")


@given(st.binary(max_size=4096))
def test_what_was_packed_comes_back(state):
    """Any state survives the way through a file or the store."""
    packed = pack_baselines(state)
    assert is_packed(packed)
    assert unpack_baselines(packed) == state


@given(st.binary(max_size=300), st.data())
def test_a_cut_off_end_is_noticed(state, data):
    """However much is missing, nothing is taken for the whole."""
    packed = pack_baselines(state)
    kept = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(BaselinesError):
        unpack_baselines(packed[:kept])


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_changed_byte_is_noticed(state, data):
    """One byte that differs anywhere is an error or, in the padding, no difference."""
    packed = bytearray(pack_baselines(state))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 0x55
    with contextlib.suppress(BaselinesError):
        assert unpack_baselines(bytes(packed)) == state


def test_something_else_is_told_apart():
    """A file of records is no baselines."""
    assert not is_packed(b'{"ts": 1}')
    with pytest.raises(BaselinesError, match="no baselines"):
        unpack_baselines(b'{"ts": 1}')


def test_another_schema_is_refused():
    """A later version's baselines are not guessed at."""
    packed = bytearray(pack_baselines(b"state"))
    packed[len(MAGIC) + 1] += 1
    with pytest.raises(BaselinesError, match="schema 2"):
        unpack_baselines(bytes(packed))


def test_states_have_a_limit(monkeypatch):
    """Neither packing nor unpacking goes beyond the largest detector."""
    packed = pack_baselines(bytes(5000))
    monkeypatch.setattr(baselines, "MAX_STATE_BYTES", 4999)
    with pytest.raises(BaselinesError, match="5000 bytes"):
        pack_baselines(bytes(5000))
    with pytest.raises(BaselinesError, match="larger than any"):
        unpack_baselines(packed)


def test_a_bomb_is_not_inflated_beyond_what_it_claims():
    """The stated length bounds what is inflated."""
    packed = pack_baselines(b"state")
    bomb = packed[:HEAD_BYTES] + zlib.compress(bytes(10_000_000))
    with pytest.raises(BaselinesError, match="truncated"):
        unpack_baselines(bomb)


def test_wrong_content_under_a_right_head_is_refused():
    """The checksum is that of the state."""
    packed = pack_baselines(b"state")
    with pytest.raises(BaselinesError, match="checksum"):
        unpack_baselines(packed[:HEAD_BYTES] + zlib.compress(b"etats"))
    with pytest.raises(BaselinesError, match="damaged"):
        unpack_baselines(packed[:HEAD_BYTES] + b"no zlib")
