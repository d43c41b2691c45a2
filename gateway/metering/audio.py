"""The length of an audio file, from its container: WAV, FLAC, Ogg, MP4, MP3, WebM.

For answers that state no seconds. Files are not decoded, so that a wrong header gives a
wrong length: it is an estimate, and never below what the size allows. The length of
other containers is guessed by their size.
"""

from __future__ import annotations

import struct
from math import isfinite

# Bytes of the beginning and of the end of a file that are looked at.
EDGE_BYTES = 64 * 1024
# Compressed sound, with pictures beside it, has at most so many bytes a second.
_MOST_RATE = 250_000
# Speech of an unknown container: 32 kilobits a second.
_USUAL_RATE = 4_000
_OPUS_RATE = 48_000
_PCM = frozenset({1, 3})
# MPEG audio, layer III: kilobits a second by index, for version 1 and for 2 and 2.5.
_KBPS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_SAMPLE_RATES = (44_100, 48_000, 32_000)
_SYNC = 0x7FF
_XING = (b"Xing", b"Info")


def seconds_of(head: bytes, tail: bytes, size: int) -> float:
    """Seconds of a file of ``size`` bytes.

    ``head`` and ``tail``: its first and last EDGE_BYTES, or all of it.
    """
    try:
        found = _seconds(head, tail, size)
    except (struct.error, ValueError, IndexError, ZeroDivisionError, OverflowError):
        found = None
    if found is None or not isfinite(found) or found < 0:
        return size / _USUAL_RATE
    return max(found, size / _MOST_RATE)


def _seconds(head: bytes, tail: bytes, size: int) -> float | None:
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return _wav(head, size)
    if head[:4] == b"fLaC":
        return _flac(head)
    if head[:4] == b"OggS":
        return _ogg(head, tail)
    if head[4:8] == b"ftyp":
        return _mp4(head if b"mvhd" in head else tail)
    if head[:4] == b"\x1aE\xdf\xa3":
        return _webm(head)
    return _mp3(head, size)


def _wav(head: bytes, size: int) -> float | None:
    at, rate = 12, 0.0
    while at + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, at)
        at += 8
        if name == b"fmt ":
            kind, channels, samples, rate, _, bits = struct.unpack_from(
                "<HHIIHH", head, at
            )
            if kind in _PCM:
                rate = samples * channels * bits / 8
        elif name == b"data":
            return (size - at) / rate  # the header's length may be wrong
        at += length + length % 2
    return None


def _flac(head: bytes) -> float:
    (packed,) = struct.unpack_from(">Q", head, 18)
    samples, rate = packed & ((1 << 36) - 1), packed >> 44
    return float(samples / rate)


def _ogg(head: bytes, tail: bytes) -> float | None:
    (position,) = struct.unpack_from("<q", tail, tail.rindex(b"OggS") + 6)
    if b"OpusHead" in head:
        return float(position / _OPUS_RATE)
    vorbis = head.find(b"\x01vorbis")
    if vorbis < 0:
        return None
    (rate,) = struct.unpack_from("<I", head, vorbis + 12)
    return float(position / rate)


def _mp4(part: bytes) -> float | None:
    at = part.find(b"mvhd")
    if at < 0:
        return None
    at += 4
    wide = part[at] == 1
    scale, length = struct.unpack_from(
        ">IQ" if wide else ">II", part, at + (20 if wide else 12)
    )
    return float(length / scale)


def _webm(head: bytes) -> float | None:
    at = head.find(b"\x44\x89")
    kind = {b"\x84": ">f", b"\x88": ">d"}.get(head[at + 2 : at + 3])
    if at < 0 or kind is None:
        return None  # written by a browser while it recorded
    scale_at = head.find(b"\x2a\xd7\xb1\x83")
    scale = int.from_bytes(head[scale_at + 4 : scale_at + 7], "big")
    (length,) = struct.unpack_from(kind, head, at + 3)
    return float(length * (scale if scale_at >= 0 else 1_000_000) / 1e9)


def _mp3(head: bytes, size: int) -> float | None:
    at = 0
    if head[:3] == b"ID3":
        tag = head[6:10]
        at = 10 + (tag[0] << 21 | tag[1] << 14 | tag[2] << 7 | tag[3])
        if at >= len(head):
            return None  # a cover picture hides the first frame
    (frame,) = struct.unpack_from(">I", head, at)
    if frame >> 21 != _SYNC or frame >> 17 & 3 != 1:
        return None
    newer = frame >> 19 & 3
    kbps = (_KBPS_1 if newer == 3 else _KBPS_2)[frame >> 12 & 15]  # noqa: PLR2004
    rate = _SAMPLE_RATES[frame >> 10 & 3] >> {3: 0, 2: 1, 0: 2}.get(newer, 0)
    for mark in _XING:
        tagged = head.find(mark, at, at + 200)
        if tagged >= 0 and head[tagged + 7] & 1:
            (frames,) = struct.unpack_from(">I", head, tagged + 8)
            return float(frames * (1152 if newer == 3 else 576) / rate)  # noqa: PLR2004
    return (size - at) * 8 / (kbps * 1000)
