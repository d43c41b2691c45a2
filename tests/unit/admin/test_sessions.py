"""Tokens, sessions and guessers."""

from __future__ import annotations

import pytest

from gateway.admin.sessions import (
    LOCKOUT_S,
    MAX_FAILURES,
    MOST_SESSIONS,
    MOST_THROTTLED,
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
    """Each token has its role; no token is none."""
    assert AdminTokens("op", "view").role_of(given) == role
    assert AdminTokens("op").role_of("") is None


def test_a_session_ends_with_time_or_its_token(clock):
    """Half a day; and at once when the token is another."""
    sessions, tokens = Sessions(clock), AdminTokens("op", "view")
    secret, session = sessions.open("viewer", tokens)
    assert sessions.find(secret, tokens) == session
    assert sessions.find(secret, AdminTokens("op", "changed")) is None
    assert sessions.find(secret, tokens) is None
    secret, _ = sessions.open("operator", tokens)
    clock.now += SESSION_S
    assert sessions.find(secret, tokens) is None


def test_sessions_are_bounded_and_can_be_left(clock):
    """The oldest makes room."""
    sessions, tokens = Sessions(clock), AdminTokens("op")
    opened = [sessions.open("operator", tokens)[0] for _ in range(MOST_SESSIONS + 1)]
    assert sessions.find(opened[0], tokens) is None
    sessions.close(opened[1])
    assert sessions.find(opened[1], tokens) is None
    assert sessions.find(opened[2], tokens) is not None


def test_csrf_is_the_sessions_own(clock):
    """Another session's does not do."""
    sessions, tokens = Sessions(clock), AdminTokens("op")
    (_, one), (_, two) = (sessions.open("operator", tokens) for _ in range(2))
    assert one.is_csrf(one.csrf)
    assert not one.is_csrf(two.csrf)


def test_who_guesses_has_to_wait(clock):
    """A minute after the tenth wrong token within five; the right one wipes it out."""
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
    """However many addresses guess."""
    throttle = LoginThrottle(clock)
    for number in range(MOST_THROTTLED + 5):
        throttle.record_failure(str(number))
    assert len(throttle._failures) == MOST_THROTTLED
