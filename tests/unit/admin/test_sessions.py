"""Tokens, sessions and the lockout after wrong tokens."""

from __future__ import annotations

import pytest

from gateway.admin.sessions import (
    LOCKOUT_S,
    MAX_ADDRESSES,
    MAX_FAILURES,
    MAX_SESSIONS,
    SESSION_S,
    AdminTokens,
    LoginThrottle,
    Sessions,
)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture(name="clock")
def _clock():
    return Clock()


@pytest.mark.parametrize(
    ("given", "role"),
    [("op", "operator"), ("view", "viewer"), ("", None), ("o", None), ("\udcff", None)],
)
def test_roles_of_tokens(given, role):
    """Each token has its role; an unset token matches nothing."""
    assert AdminTokens("op", "view").role_of(given) == role
    assert AdminTokens("op").role_of("") is None


def test_a_session_ends_with_time_or_its_token(clock):
    """A session ends after SESSION_S, and at once when its token changes."""
    sessions, tokens = Sessions(clock), AdminTokens("op", "view")
    secret, session = sessions.open("viewer", tokens)
    assert sessions.find(secret, tokens) == session
    assert sessions.find(secret, AdminTokens("op", "changed")) is None
    assert sessions.find(secret, tokens) is None
    secret, _ = sessions.open("operator", tokens)
    clock.now += SESSION_S
    assert sessions.find(secret, tokens) is None


def test_sessions_are_bounded_and_can_be_closed(clock):
    """The oldest session is evicted; a closed one is not found."""
    sessions, tokens = Sessions(clock), AdminTokens("op")
    opened = [sessions.open("operator", tokens)[0] for _ in range(MAX_SESSIONS + 1)]
    assert sessions.find(opened[0], tokens) is None
    sessions.close(opened[1])
    assert sessions.find(opened[1], tokens) is None
    assert sessions.find(opened[2], tokens) is not None


def test_csrf_is_the_sessions_own(clock):
    """The CSRF token of another session is rejected."""
    sessions, tokens = Sessions(clock), AdminTokens("op")
    (_, one), (_, two) = (sessions.open("operator", tokens) for _ in range(2))
    assert one.is_csrf(one.csrf)
    assert not one.is_csrf(two.csrf)


def test_wrong_tokens_lead_to_a_lockout(clock):
    """MAX_FAILURES wrong tokens lock the address out; a valid one resets the count."""
    throttle = LoginThrottle(clock)
    for _ in range(MAX_FAILURES):
        assert throttle.wait_s("a") == 0
        throttle.record_failure("a")
    assert throttle.wait_s("a") == LOCKOUT_S
    assert throttle.wait_s("b") == 0
    clock.now += LOCKOUT_S
    assert throttle.wait_s("a") == 0
    throttle.clear("a")
    throttle.record_failure("a")
    assert throttle.wait_s("a") == 0


def test_guessers_are_bounded(clock):
    """Failures are kept for at most MAX_ADDRESSES addresses."""
    throttle = LoginThrottle(clock)
    for number in range(MAX_ADDRESSES + 5):
        throttle.record_failure(str(number))
    assert len(throttle._failures) == MAX_ADDRESSES
