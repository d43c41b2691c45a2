"""Idle connections of one upstream address."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.http.target import Target


class Connection(SimpleNamespace):
    """A connection that is only looked at."""

    __hash__ = object.__hash__

    def is_available(self) -> bool:
        """As given."""
        return self.available

    def has_expired(self, _now: float, _keepalive_s: float) -> bool:
        """As given."""
        return self.expired

    def close(self) -> None:
        """Note it."""
        self.closed = True


def connection(*, available: bool = True, expired: bool = False) -> Connection:
    """An open connection."""
    return Connection(
        available=available,
        expired=expired,
        closed=False,
        reusable=True,
        idle_since=0.0,
    )


@pytest.fixture(name="target")
def _target() -> Target:
    found = Target("a", 1, tls=False, authority=b"a:1", base_path=b"")
    found.keepalive_s = 10.0
    found.clock = lambda: 5.0
    return found


def test_most_recently_used_connection_is_taken(target):
    """The last connection that became idle is the first to be used again."""
    first, last = connection(), connection()
    target.put(first)
    target.put(last)
    assert target.take(6.0) is last
    assert target.take(6.0) is first
    assert target.take(6.0) is None


def test_unusable_connections_are_skipped(target):
    """Closed connections are dropped, expired ones are closed as well."""
    good, closed, old = (
        connection(),
        connection(available=False),
        connection(expired=True),
    )
    for conn in (good, closed, old):
        target.put(conn)
    assert target.take(6.0) is good
    assert (closed.closed, old.closed) == (False, True)
    assert not target.idle


def test_prune_closes_what_was_idle_too_long(target):
    """Connections idle for longer than the keep-alive time are closed."""
    old, fresh = connection(), connection()
    target.put(old)
    target.clock = lambda: 12.0
    target.put(fresh)
    target.prune(15.5)
    assert (old.closed, fresh.closed) == (True, False)
    assert list(target.idle) == [fresh]


def test_retired_target_reuses_nothing(target):
    """Idle connections are closed; busy ones close after their exchange."""
    idle, busy = connection(), connection()
    target.connections = {idle, busy}
    target.put(idle)
    target.retire()
    assert (idle.closed, busy.closed, busy.reusable) == (True, False, False)
    assert not target.idle


def test_closed_connection_is_forgotten(target):
    """A connection that was lost is neither open nor idle."""
    conn = connection()
    target.connections.add(conn)
    target.put(conn)
    target.forget(conn)
    assert not target.connections
    assert not target.idle
