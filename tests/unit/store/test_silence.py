"""Silence is counted in ticks of an honest loop; the loop here is a scripted one."""

from __future__ import annotations

from gateway.store.silence import SilenceWatch


class Handle:
    """A timer that can be cancelled."""

    def __init__(self, when, callback):
        self.when = when
        self.callback = callback

    def cancel(self):
        self.callback = lambda: None


class ScriptedLoop:
    """A clock, and at most one timer."""

    def __init__(self):
        self.now = 100.0
        self.handle = None

    def time(self):
        return self.now

    def call_at(self, when, callback):
        self.handle = Handle(when, callback)
        return self.handle

    def fire(self, late_s=0.0):
        """Run the timer, so much later than it asked for."""
        handle, self.handle = self.handle, None
        self.now = handle.when + late_s
        handle.callback()


class Case:
    """A watch with a time-out of 50 ms and what it heard."""

    def __init__(self):
        self.loop = ScriptedLoop()
        self.heard = 0
        self.silent_at = None
        self.watch = SilenceWatch(self.loop, 0.05, lambda: self.heard, self.silent)

    def silent(self):
        self.silent_at = self.loop.now

    def run(self, ticks, late_s=0.0):
        """Ticks until silence is called or so many are over; how many there were."""
        for number in range(ticks):
            if self.silent_at is not None or self.loop.handle is None:
                return number
            self.loop.fire(late_s)
        return ticks


def test_silence_is_called_within_the_time_out():
    """Four ticks of eight and a half milliseconds."""
    case = Case()
    case.watch.expect()
    case.run(20)
    assert 0.03 < case.silent_at - 100.0 <= 0.041


def test_any_sound_starts_over():
    """An answer of another call is life enough."""
    case = Case()
    case.watch.expect()
    case.run(3)
    case.heard += 1
    case.run(4)
    assert case.silent_at is None
    case.run(1)
    assert case.silent_at is not None


def test_the_worst_case_stays_within_the_time_out():
    """A call sent right after a tick that heard something waits one tick more."""
    case = Case()
    case.watch.expect()
    case.heard += 1
    sent_at = case.loop.now
    case.run(20)
    assert case.silent_at - sent_at <= 0.05


def test_lateness_of_the_own_loop_does_not_count():
    """Ticks that come a tick too late prove nothing about the store."""
    case = Case()
    case.watch.expect()
    assert case.run(30, late_s=0.02) == 30


def test_a_loop_that_is_always_late_is_sure_in_the_end():
    """Many polls and a second without a sound are silence all the same."""
    case = Case()
    case.watch.expect()
    case.run(1000, late_s=0.05)
    assert 1.0 <= case.silent_at - 100.0 < 1.2


def test_the_timer_runs_only_while_something_is_awaited():
    """An idle gateway sleeps."""
    case = Case()
    case.watch.expect()
    case.watch.satisfied()
    case.run(1)
    assert case.loop.handle is None
    case.watch.expect()
    case.watch.stop()
    case.run(1)
    assert case.silent_at is None
