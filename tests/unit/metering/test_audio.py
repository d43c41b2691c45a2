"""The length of audio files, by their containers."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering.audio import EDGE_BYTES, seconds_of


def wav(seconds, rate=16_000, bits=16, kind=1, extra=b""):
    """A WAV file of silence."""
    data = b"\0" * int(seconds * rate * bits // 8)
    size = rate * bits // 8
    form = struct.pack("<HHIIHH", kind, 1, rate, size, bits // 8, bits)
    return (
        b"RIFF"
        + struct.pack("<I", len(data) + 36)
        + b"WAVE"
        + extra
        + b"fmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", len(data))
        + data
    )


FLAC = b"fLaC\0\0\0\x22" + b"\0" * 10 + struct.pack(">Q", 44_100 << 44 | 44_100 * 30)
OPUS = b"OggS\0\x02" + b"\0" * 22 + b"OpusHead" + b"\0" * 40
VORBIS = b"OggS\0\x02" + b"\0" * 22 + b"\x01vorbis" + struct.pack("<IBI", 0, 1, 8000)
PAGE = b"OggS\0\x04" + struct.pack("<q", 480_000) + b"\0" * 20
M4A = (
    b"\0\0\0\x20ftypM4A "
    + b"\0" * 20
    + b"mvhd"
    + struct.pack(">IIIII", 0, 0, 0, 1000, 7000)
)
WIDE = (
    b"\0\0\0\x20ftypM4A "
    + b"\0" * 20
    + b"mvhd\1\0\0\0"
    + struct.pack(">QQIQ", 0, 0, 1000, 7000)
)
WEBM = b"\x1aE\xdf\xa3" + b"\0" * 9 + b"\x2a\xd7\xb1\x83\x0f\x42\x40" + b"\x44\x89"
# MPEG 1, layer III, 128 kbit/s, 44.1 kHz; MPEG 2, 64 kbit/s, 22.05 kHz.
MP3 = b"\xff\xfb\x90\x00" + b"\0" * 400
MP2 = b"\xff\xf3\x80\x00" + b"\0" * 400
ID3 = b"ID3\x04\0\0" + bytes((0, 0, 0, 20)) + b"\0" * 20

FILES = {
    "wav": (wav(3), 3),
    "wav, 8 bit": (wav(2, bits=8), 2),
    "wav, other chunks": (wav(3, extra=b"LIST\x03\0\0\0abc\0"), 3),
    "wav, compressed": (wav(3, kind=7), 3),
    "wav without data": (wav(3)[:40].replace(b"data", b"none"), None),
    "flac": (FLAC, 30),
    "opus": (OPUS + PAGE, 10),
    "vorbis": (VORBIS + PAGE, 60),
    "another ogg": (b"OggS" + b"\0" * 40 + PAGE, None),
    "m4a": (M4A, 7),
    "m4a, 64 bit": (WIDE, 7),
    "m4a, at the end": (b"\0\0\0\x20ftypM4A " + b"x" * 90_000 + M4A[12:], 7),
    "mp4 without a head": (b"\0\0\0\x20ftypM4A ", None),
    "webm": (WEBM + b"\x88" + struct.pack(">d", 9000), 9),
    "webm, short": (WEBM + b"\x84" + struct.pack(">f", 9000), 9),
    "webm, default scale": (
        b"\x1aE\xdf\xa3\x44\x89\x88" + struct.pack(">d", 4000),
        4,
    ),
    "webm without a length": (b"\x1aE\xdf\xa3" + b"\0" * 40, None),
    "mp3": (MP3 + b"\0" * 15_596, 1),
    "mp3, tagged": (ID3 + MP3 + b"\0" * 15_596, 1),
    "mp3, counted": (MP3[:36] + b"Xing\0\0\0\1" + struct.pack(">I", 1000) + MP3, 26),
    "mp3, not counted": (MP3[:36] + b"Info\0\0\0\0" + b"\0" * 15_956, 1),
    "mpeg 2": (MP2 + b"\0" * 7596, 1),
    "mp3 behind a picture": (b"ID3\x04\0\0\0\x7f\x7f\x7f" + MP3, None),
    "mpeg, layer II": (b"\xff\xfd\x90\x00" + b"\0" * 400, None),
    "text": (b"hello, this is no sound", None),
    "empty": (b"", None),
    "no rate": (b"fLaC\0\0\0\x22" + b"\0" * 18, None),
    "negative": (OPUS + PAGE[:6] + struct.pack("<q", -1) + b"\0" * 20, None),
}


@pytest.mark.parametrize(("file", "seconds"), FILES.values(), ids=FILES)
def test_lengths(file, seconds):
    """Each container's length is read from its first and last bytes."""
    found = seconds_of(file[:EDGE_BYTES], file[-EDGE_BYTES:], len(file))
    if seconds is None:
        assert found == len(file) / 4000  # by its size
    else:
        assert round(found) == seconds


def test_a_length_that_the_size_denies():
    """A large file is not as short as its header says."""
    assert seconds_of(M4A, M4A, 25_000_000) == 100


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", *(f[:40] for f, _ in FILES.values())]),
)
def test_any_bytes(noise, begin):
    """No bytes break it."""
    file = begin + noise
    found = seconds_of(file, file, len(file))
    assert found >= 0
