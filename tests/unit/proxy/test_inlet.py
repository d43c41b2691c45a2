"""What a client sends into a session: its pace, and what waits."""

from __future__ import annotations

from gateway.metering.frames import PING
from gateway.metering.realtime import RealtimeMeter
from gateway.proxy.inlet import FRAMES_AT_ONCE, HELD_BYTES, PAUSE_S, Inlet
from tests.frames import frame

MASK = b"abcd"


def client(payload: bytes, opcode: int = 1) -> bytes:
    return frame(payload, opcode, mask=MASK)


class Loop:
    """A clock that the test moves, with one timer."""

    def __init__(self) -> None:
        self.now, self.timers = 100.0, []

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s, what):
        self.timers.append((self.now + delay_s, what))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def go(self, seconds: float) -> None:
        self.now += seconds
        due, self.timers = self.timers, []
        for _, what in due:
            what()


class Stage:
    """An inlet whose messages pass while ``open`` is set."""

    def __init__(self) -> None:
        self.loop, self.sent, self.holds, self.pauses = Loop(), b"", [], 0
        self.open = True
        self.inlet = Inlet(self.loop, RealtimeMeter(), lambda _: self.open, self._pause)
        self.inlet.pass_up = self._sent
        self.inlet.hold = self.holds.append

    def _pause(self) -> None:
        self.pauses += 1

    def _sent(self, data: bytes) -> None:
        self.sent += data


def test_messages_keep_their_order():
    """What may not pass yet is held with all that follows, but for control frames and
    what cancels an answer.
    """
    stage = Stage()
    ping = client(b"", PING)
    cancel = client(b'{"type":"response.cancel"}')
    stage.inlet.feed(client(b"1"))
    stage.open = False
    stage.inlet.feed(client(b"2") + ping + client(b"3") + cancel)
    assert stage.sent == client(b"1") + ping + cancel
    assert stage.inlet.waits
    stage.inlet.go_on()
    assert stage.sent.endswith(cancel)
    stage.open = True
    stage.inlet.go_on()
    assert stage.sent.endswith(cancel + client(b"2") + client(b"3"))
    assert not stage.inlet.waits
    stage.inlet.go_on()


def test_a_client_that_sends_much_is_not_read():
    """While more than HELD_BYTES wait."""
    stage = Stage()
    stage.open = False
    stage.inlet.feed(client(b"x" * (HELD_BYTES // 2)))
    assert stage.holds == [False]
    stage.inlet.feed(client(b"x" * (HELD_BYTES // 2)))
    assert stage.holds == [False, True]
    stage.open = True
    stage.inlet.go_on()
    assert stage.holds[-1] is False


def test_frames_are_read_at_a_pace():
    """Beyond it reading pauses, and goes on later with what has come."""
    stage = Stage()
    flood = client(b"") * (FRAMES_AT_ONCE + 120)
    stage.inlet.feed(flood)
    assert (stage.pauses, stage.holds) == (1, [True])
    assert stage.sent == client(b"") * FRAMES_AT_ONCE
    stage.inlet.feed(b"")
    assert stage.pauses == 1  # it pauses already
    for _ in range(3):
        stage.loop.go(PAUSE_S)
    assert stage.sent == flood
    assert stage.holds[-1] is False


def test_a_closed_inlet_passes_nothing_on():
    """Neither what waits nor what comes."""
    stage = Stage()
    stage.inlet.feed(client(b"") * (FRAMES_AT_ONCE + 1))
    sent = stage.sent
    stage.inlet.close()
    assert not stage.loop.timers
    stage.inlet.feed(client(b"late"))
    stage.inlet.go_on()
    assert stage.sent == sent
    stage.inlet.close()


def test_an_end_while_messages_are_read():
    """The session may end at any message."""
    stage = Stage()

    def end(_message: object) -> bool:
        stage.inlet.close()
        return False

    stage.inlet._admit = end
    stage.inlet.feed(client(b"1") + client(b"2"))
    assert stage.sent == b""
