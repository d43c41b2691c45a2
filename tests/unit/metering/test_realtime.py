"""WebSocket frames and the usage of realtime sessions."""

import json

import pytest

from gateway.core.model import Usage
from gateway.metering.realtime import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    FrameScanError,
    FrameScanner,
    RealtimeMeter,
    server_frame,
    sum_usage,
)


def frame(payload: bytes, opcode: int = TEXT, *, final=True, mask=b"") -> bytes:
    size = len(payload)
    head = bytes([(0x80 if final else 0) | opcode])
    bit = 0x80 if mask else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65_536:
        head += bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    if mask:
        payload = bytes(c ^ mask[i % 4] for i, c in enumerate(payload))
    return head + mask + payload


def scanned(data: bytes, size: int, limit: int = 1 << 20):
    scanner = FrameScanner(limit)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return [m for piece in pieces for m in scanner.feed(piece)], scanner


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
    assert found == [(TEXT, b"a"), (PING, b"!"), (TEXT, b"b")]
    assert scanner.skipped == 2


def test_a_large_fragment_first():
    """A first fragment over the bound skips its whole message."""
    data = frame(b"z" * 2000, final=False) + frame(b"z", 0) + frame(b"b")
    found, scanner = scanned(data, 100, 1000)
    assert (found, scanner.skipped) == ([(TEXT, b"b")], 1)


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


def done(prompt: int, completion: int, cached: int = 0) -> bytes:
    usage = {
        "total_tokens": prompt + completion,
        "input_tokens": prompt,
        "output_tokens": completion,
        "input_token_details": {"cached_tokens": cached},
    }
    event = {"type": "response.done", "response": {"usage": usage}}
    return json.dumps(event).encode()


def test_session():
    """The usage of every response is found and summed; client events are counted."""
    meter = RealtimeMeter()
    assert meter.feed_client(frame(b"{}", mask=b"abcd") + frame(b"", PING)) == 1
    data = frame(b"{}") + frame(b"x", BINARY) + frame(done(10, 5)) + frame(done(20, 1))
    found = meter.feed_upstream(data)
    assert [usage.total for usage in found] == [15, 21]
    assert meter.total == Usage(30, 6, 36, source="upstream")
    assert meter.between_messages
    assert (meter.skipped, meter.answering) == (0, False)
    assert (meter.responses, meter.client_events, meter.lost) == (2, 1, False)


def test_unreadable_directions_are_lost():
    """An unreadable direction is reported as lost; the other one goes on."""
    meter = RealtimeMeter()
    assert meter.feed_client(b"\xff\xff") == 0
    assert meter.feed_client(frame(b"{}")) == 0
    assert meter.lost
    assert len(meter.feed_upstream(frame(done(1, 1)))) == 1
    assert meter.feed_upstream(b"\xff\xff") == []


def test_an_answer_under_way():
    """From its request or its first event to its usage an answer is under way."""
    meter = RealtimeMeter()
    meter.feed_client(frame(b'{"type":"response.create"}', mask=b"abcd"))
    assert not meter.answering  # not passed on yet
    meter.pass_on()
    assert meter.answering
    meter.feed_upstream(frame(b'{"type":"rate_limits.updated"}') + frame(b"x"))
    assert meter.answering
    meter.feed_upstream(frame(done(1, 1)))
    assert not meter.answering
    meter.feed_upstream(frame(b'{"type":"response.created"}') + frame(b"", CLOSE))
    assert meter.answering
    assert meter.feed_client(frame(b"x", mask=b"abcd")) == 1
    assert meter.feed_client(frame(b"", PING)) == 0


def test_models_of_a_session():
    """The model that the upstream states is kept apart from the client's."""
    meter = RealtimeMeter()
    meter.feed_client(frame(b'{"setup":{"model":"a"}}'))
    meter.feed_upstream(frame(b'{"session":{"model":"b"}}') + frame(b"{}"))
    assert (meter.asked_model, meter.model) == ("a", "b")


def test_between_messages():
    """No message is inserted into another one, nor into unreadable bytes."""
    meter = RealtimeMeter()
    meter.feed_upstream(frame(b"abc")[:2])
    assert not meter.between_messages
    meter.feed_upstream(b"abc" + frame(b"x", final=False))
    assert not meter.between_messages
    meter.feed_upstream(b"\xff\xff")
    assert not meter.between_messages
    assert meter.skipped == 0


@pytest.mark.parametrize("size", [0, 125, 126, 60_000])
def test_server_frames(size):
    """A frame that is written is read as the same message."""
    payload = b"x" * size
    assert scanned(server_frame(TEXT, payload), 1000)[0] == [(TEXT, payload)]


def test_sums_of_answers():
    """Units and prices of a session's answers add up; the last names stay."""
    one = Usage(1, 2, 3, units=(("input_audio_tokens", 1),), model="a", cost_usd=0.5)
    other = Usage(
        10, 20, 30, units=(("input_audio_tokens", 4), ("web_searches", 1)), tier="flex"
    )
    total = sum_usage(sum_usage(Usage(), one), other)
    assert (total.prompt, total.completion, total.total) == (11, 22, 33)
    assert dict(total.units) == {"input_audio_tokens": 5, "web_searches": 1}
    assert (total.model, total.tier, total.cost_usd) == ("a", "flex", 0.5)
    assert sum_usage(Usage(), Usage()).cost_usd is None


CREATE = frame(b'{"type":"response.create"}', mask=b"abcd")
APPEND = frame(b'{"type":"input_audio_buffer.append"}', mask=b"abcd")
LARGE = frame(b"x" * 200, BINARY, mask=b"abcd")


@pytest.mark.parametrize("limit", [1 << 20, 100])
@pytest.mark.parametrize("cut", range(0, len(CREATE) + 1, 7))
def test_a_second_answer_waits(cut, limit):
    """What asks for a second answer is found wherever it begins; what follows it is fed
    again.
    """
    meter = RealtimeMeter(limit)
    first = APPEND + CREATE + LARGE + CREATE[:cut]
    meter.feed_client(first, one_answer=True)
    if cut == len(CREATE):
        # A message that is too large to read is held back with the next one.
        begin = len(APPEND + CREATE) + (len(LARGE) if limit > len(LARGE) else 0)
        assert meter.waits == (begin, len(first))
    else:
        assert meter.waits is None
        second = CREATE[cut:] + APPEND
        meter.feed_client(second, one_answer=True)
        assert meter.waits == (0, len(CREATE) - cut)
    # The rest is read as if it came now.
    meter.pass_on()
    assert meter.feed_client(APPEND + CREATE, one_answer=True) == 2
    assert meter.waits == (len(APPEND), len(APPEND + CREATE))


def test_answers_wait_for_their_reservation():
    """A first answer waits as well while none is reserved; without ``one_answer`` all
    pass.
    """
    meter = RealtimeMeter()
    assert meter.feed_client(CREATE * 3) == 3
    assert meter.waits is None
    meter = RealtimeMeter()
    meter.feed_client(CREATE, one_answer=True, busy=True)
    assert meter.waits == (0, len(CREATE))


def test_errors_do_not_end_an_answer():
    """An answer that the upstream has begun ends by an event that says so."""
    meter = RealtimeMeter()
    meter.feed_client(CREATE)
    meter.pass_on()
    meter.feed_upstream(frame(b'{"type":"error"}'))
    assert not meter.busy  # it was refused
    meter.feed_upstream(frame(b'{"type":"response.created"}'))
    meter.feed_upstream(frame(b'{"type":"error"}'))
    assert meter.busy
    meter.feed_upstream(frame(b'{"type":"response.cancelled"}'))
    assert not meter.busy
