"""The answer watchdog, driven by a scripted event loop."""

from __future__ import annotations

from gateway.store.watchdog import AnswerWatchdog


class Handle:
    """A cancellable timer."""

    def __init__(self, when, callback):
        self.when = when
        self.callback = callback

    def cancel(self):
        self.callback = lambda: None


class ScriptedLoop:
    """A clock and at most one timer."""

    def __init__(self):
        self.now = 100.0
        self.handle = None

    def time(self):
        return self.now

    def call_at(self, when, callback):
        self.handle = Handle(when, callback)
        return self.handle

    def fire(self, late_s=0.0):
        """Run the timer ``late_s`` after its due time."""
        handle, self.handle = self.handle, None
        self.now = handle.when + late_s
        handle.callback()


class Case:
    """A watchdog with a time-out of 50 ms and scripted data."""

    def __init__(self):
        self.loop = ScriptedLoop()
        self.received = 0
        self.silent_at = None
        self.watch = AnswerWatchdog(self.loop, 0.05, lambda: self.received, self.silent)

    def silent(self):
        self.silent_at = self.loop.now

    def run(self, ticks, late_s=0.0):
        """Run up to ``ticks`` ticks or until it trips; return how many ran."""
        for number in range(ticks):
            if self.silent_at is not None or self.loop.handle is None:
                return number
            self.loop.fire(late_s)
        return ticks


def test_it_trips_within_the_time_out():
    """The watchdog trips after four ticks of 8.5 ms."""
    case = Case()
    case.watch.expect()
    case.run(20)
    assert 0.03 < case.silent_at - 100.0 <= 0.041


def test_any_data_restarts_the_count():
    """Data of another call's answer restarts the count as well."""
    case = Case()
    case.watch.expect()
    case.run(3)
    case.received += 1
    case.run(4)
    assert case.silent_at is None
    case.run(1)
    assert case.silent_at is not None


def test_the_worst_case_stays_within_the_time_out():
    """A call sent right after a tick with data waits one tick more."""
    case = Case()
    case.watch.expect()
    case.received += 1
    sent_at = case.loop.now
    case.run(20)
    assert case.silent_at - sent_at <= 0.05


def test_lateness_of_the_own_loop_does_not_count():
    """Time by which a tick came late is not counted against the store."""
    case = Case()
    case.watch.expect()
    assert case.run(30, late_s=0.02) == 30


def test_a_loop_that_is_always_late_trips_in_the_end():
    """Ten late ticks and one second without data trip it as well."""
    case = Case()
    case.watch.expect()
    case.run(1000, late_s=0.05)
    assert 1.0 <= case.silent_at - 100.0 < 1.2


def test_the_timer_runs_only_while_something_is_awaited():
    """Without an awaited answer no timer is armed, so an idle gateway sleeps."""
    case = Case()
    case.watch.expect()
    case.watch.answered()
    case.run(1)
    assert case.loop.handle is None
    case.watch.expect()
    case.watch.stop()
    case.run(1)
    assert case.silent_at is None
