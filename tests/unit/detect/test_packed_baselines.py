"""Packed baselines: round trip, and refusal of damaged input."""

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
    SCHEMA,
    BaselinesError,
    is_packed,
    pack_baselines,
    unpack_baselines,
)

HEAD_BYTES = len(MAGIC) + struct.calcsize(">HQ16s")


@given(st.binary(max_size=4096))
def test_a_packed_state_round_trips(state):
    """Any packed state unpacks to the same bytes."""
    packed = pack_baselines(state)
    assert is_packed(packed)
    assert unpack_baselines(packed) == state


@given(st.binary(max_size=300), st.data())
def test_a_truncated_state_is_refused(state, data):
    """A truncated state raises BaselinesError, whatever its length."""
    packed = pack_baselines(state)
    kept = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(BaselinesError):
        unpack_baselines(packed[:kept])


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_changed_byte_is_detected(state, data):
    """A changed byte raises BaselinesError or, in the padding, changes nothing."""
    packed = bytearray(pack_baselines(state))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 0x55
    with contextlib.suppress(BaselinesError):
        assert unpack_baselines(bytes(packed)) == state


def test_another_file_is_refused():
    """A file of records is not accepted as baselines."""
    assert not is_packed(b'{"ts": 1}')
    with pytest.raises(BaselinesError, match="no baselines"):
        unpack_baselines(b'{"ts": 1}')


def test_another_schema_is_refused():
    """Baselines with a later schema number are refused."""
    packed = bytearray(pack_baselines(b"state"))
    packed[len(MAGIC) + 1] += 1
    with pytest.raises(BaselinesError, match=f"schema {SCHEMA + 1}"):
        unpack_baselines(bytes(packed))


def test_states_have_a_limit(monkeypatch):
    """States larger than ``MAX_STATE_BYTES`` are neither packed nor unpacked."""
    packed = pack_baselines(bytes(5000))
    monkeypatch.setattr(baselines, "MAX_STATE_BYTES", 4999)
    with pytest.raises(BaselinesError, match="5000 bytes"):
        pack_baselines(bytes(5000))
    with pytest.raises(BaselinesError, match="larger than any"):
        unpack_baselines(packed)


def test_a_bomb_is_not_inflated_beyond_what_it_claims():
    """No more than the stated length is decompressed."""
    packed = pack_baselines(b"state")
    bomb = packed[:HEAD_BYTES] + zlib.compress(bytes(10_000_000))
    with pytest.raises(BaselinesError, match="truncated"):
        unpack_baselines(bomb)


def test_wrong_content_under_a_right_head_is_refused():
    """Content that does not match the checksum is refused."""
    packed = pack_baselines(b"state")
    with pytest.raises(BaselinesError, match="checksum"):
        unpack_baselines(packed[:HEAD_BYTES] + zlib.compress(b"etats"))
    with pytest.raises(BaselinesError, match="damaged"):
        unpack_baselines(packed[:HEAD_BYTES] + b"no zlib")


def test_the_schema_before_is_read():
    """Baselines of schema 1 are read: fields that they lack have defaults."""
    packed = bytearray(pack_baselines(b"state"))
    packed[len(MAGIC) + 1] = 1
    assert unpack_baselines(bytes(packed)) == b"state"
