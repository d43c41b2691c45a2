"""WebSocket frames: whole messages of a stream of bytes."""

import pytest

from gateway.metering.frames import (
    BINARY,
    CLOSE,
    HEAD_BYTES,
    PING,
    TAIL_BYTES,
    TEXT,
    UNREAD,
    FrameScanError,
    FrameScanner,
    UnmaskedError,
    server_frame,
)
from tests.frames import frame


def scanned(data: bytes, size: int, limit: int = 1 << 20):
    scanner = FrameScanner(limit)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    found = [m for piece in pieces for m in scanner.feed(piece)]
    return [(kind, payload) for kind, payload, _ in found], scanner


STREAM = (
    frame(b"hello", mask=b"abcd")
    + frame(b"x" * 300, BINARY)
    + frame(b"ab", final=False)
    + frame(b"!", PING)
    + frame(b"", 0, final=False)
    + frame(b"cd", 0)
    + frame(b"", mask=b"abcd")
    + frame(b"", CLOSE)
)
MESSAGES = [
    (TEXT, b"hello"),
    (BINARY, b"x" * 300),
    (PING, b"!"),
    (TEXT, b"abcd"),
    (TEXT, b""),
    (CLOSE, b""),
]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_messages(size):
    """Masks, lengths, fragments and interleaved control frames are read in any pieces."""
    assert scanned(STREAM, size)[0] == MESSAGES


@pytest.mark.parametrize("size", [1, 500, 200_000])
def test_large_messages_are_skipped(size):
    """A message over the bound is skipped, in one frame or in several."""
    data = (
        frame(b"y" * 70_000)
        + frame(b"a")
        + frame(b"z" * 600, final=False)
        + frame(b"z" * 600, 0, final=False)
        + frame(b"!", PING)
        + frame(b"z", 0)
        + frame(b"b")
    )
    found, scanner = scanned(data, size, 1000)
    first, second = (UNREAD, b"y" * TAIL_BYTES), (UNREAD, b"z" * 1201)
    assert found == [first, (TEXT, b"a"), (PING, b"!"), second, (TEXT, b"b")]
    assert scanner.skipped == 2


def test_a_large_fragment_first():
    """A first fragment over the bound skips its whole message."""
    data = frame(b"z" * 2000, final=False) + frame(b"z", 0) + frame(b"b")
    found, scanner = scanned(data, 100, 1000)
    assert found == [(UNREAD, b"z" * 2001), (TEXT, b"b")]
    assert scanner.skipped == 1


@pytest.mark.parametrize(
    "data",
    [
        bytes([0xC1, 0]),
        frame(b"", 0),
        frame(b"a", final=False) + frame(b"b"),
        frame(b"", PING, final=False),
        frame(b"x" * 126, PING),
    ],
)
def test_unreadable(data):
    """Compressed frames and invalid sequences end the scan."""
    with pytest.raises(FrameScanError):
        list(FrameScanner().feed(data))


@pytest.mark.parametrize("size", [0, 125, 126, 60_000])
def test_server_frames(size):
    """A frame that is written is read as the same message."""
    payload = b"x" * size
    assert scanned(server_frame(TEXT, payload), 1000)[0] == [(TEXT, payload)]


def of_client(data: bytes, size: int = 1 << 20, limit: int = 1 << 20):
    scanner = FrameScanner(limit, client=True)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return [m for piece in pieces for m in scanner.feed(piece)], scanner


MASK = b"abcd"
CLIENTS = (
    frame(b"hello", mask=MASK)
    + frame(b"ab", final=False, mask=MASK)
    + frame(b"!", PING, mask=MASK)
    + frame(b"", 0, final=False, mask=MASK)
    + frame(b"cd", 0, mask=MASK)
    + frame(b"z" * 900, BINARY, mask=MASK)
    + frame(b"", CLOSE, mask=MASK)
)


@pytest.mark.parametrize("size", [1, 5, 64, 10_000])
@pytest.mark.parametrize("limit", [500, 1 << 20])
def test_messages_of_a_client_have_their_bytes(size, limit):
    """They can be passed on, in order; empty fragments in the middle are left out."""
    found, scanner = of_client(CLIENTS, size, limit)
    read = [(kind, payload) for kind, payload, _ in found if kind != UNREAD]
    expected = [(TEXT, b"hello"), (PING, b"!"), (TEXT, b"abcd")]
    if limit > 900:
        expected.append((BINARY, b"z" * 900))
    assert read == [*expected, (CLOSE, b"")]
    empty = frame(b"", 0, final=False, mask=MASK)
    ping = frame(b"!", PING, mask=MASK)
    raw = b"".join(raw for _, _, raw in found)
    # The ping was inside the fragmented message, which is complete later.
    assert raw.replace(ping, b"") == CLIENTS.replace(ping, b"").replace(empty, b"")
    assert scanner.skipped == (limit == 500)


def test_frames_of_a_client_are_masked():
    """RFC 6455, section 5.1."""
    with pytest.raises(UnmaskedError):
        list(FrameScanner(client=True).feed(frame(b"a")))


def test_frames_are_read_as_many_as_asked():
    """The rest is read when the scanner is fed again."""
    scanner = FrameScanner(client=True)
    data = frame(b"a", mask=MASK) * 5
    assert len(list(scanner.feed(data, 2))) == 2
    assert (scanner.frames, scanner.stopped) == (2, True)
    assert len(list(scanner.feed(b"", 9))) == 3
    assert (scanner.frames, scanner.stopped) == (3, False)


@pytest.mark.parametrize("size", [1000, 65_536, 1 << 20])
def test_the_ends_of_a_large_message_are_kept(size):
    """Its beginning is in place of its bytes."""
    begin, end = b"b" * HEAD_BYTES, b"e" * TAIL_BYTES
    whole = begin + b"m" * 200_000 + end
    found, _ = of_server(frame(whole) + frame(b"a"), size)
    assert found == [(UNREAD, end, begin), (TEXT, b"a", b"")]


def of_server(data: bytes, size: int):
    scanner = FrameScanner(1000)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return [m for piece in pieces for m in scanner.feed(piece)], scanner


def test_what_cannot_be_read_is_given_back():
    """The bytes of an unfinished message and those after it."""
    scanner = FrameScanner(client=True)
    begun = frame(b"ab", final=False, mask=MASK)
    assert not list(scanner.feed(begun + b"\x81"))
    assert scanner.rest() == begun + b"\x81"
    assert scanner.rest() == b""
