"""Tokens, sessions and guessers."""

from __future__ import annotations

import pytest

from gateway.admin.sessions import (
    GUESSES,
    LOCKED_S,
    MOST_GUESSERS,
    MOST_SESSIONS,
    SESSION_S,
    Guessers,
    Sessions,
    Tokens,
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
    assert Tokens("op", "view").role_of(given) == role
    assert Tokens("op").role_of("") is None


def test_a_session_ends_with_time_or_its_token(clock):
    """Half a day; and at once when the token is another."""
    sessions, tokens = Sessions(clock), Tokens("op", "view")
    secret, session = sessions.open("viewer", tokens)
    assert sessions.find(secret, tokens) == session
    assert sessions.find(secret, Tokens("op", "changed")) is None
    assert sessions.find(secret, tokens) is None
    secret, _ = sessions.open("operator", tokens)
    clock.now += SESSION_S
    assert sessions.find(secret, tokens) is None


def test_sessions_are_bounded_and_can_be_left(clock):
    """The oldest makes room."""
    sessions, tokens = Sessions(clock), Tokens("op")
    opened = [sessions.open("operator", tokens)[0] for _ in range(MOST_SESSIONS + 1)]
    assert sessions.find(opened[0], tokens) is None
    sessions.close(opened[1])
    assert sessions.find(opened[1], tokens) is None
    assert sessions.find(opened[2], tokens) is not None


def test_csrf_is_the_sessions_own(clock):
    """Another session's does not do."""
    sessions, tokens = Sessions(clock), Tokens("op")
    (_, one), (_, two) = (sessions.open("operator", tokens) for _ in range(2))
    assert one.is_csrf(one.csrf)
    assert not one.is_csrf(two.csrf)


def test_who_guesses_has_to_wait(clock):
    """A minute after the tenth wrong token within five; the right one wipes it out."""
    guessers = Guessers(clock)
    for _ in range(GUESSES):
        assert guessers.wait_s("a") == 0
        guessers.wrong("a")
    assert guessers.wait_s("a") == LOCKED_S
    assert guessers.wait_s("b") == 0
    clock.now += LOCKED_S
    assert guessers.wait_s("a") == 0
    guessers.right("a")
    guessers.wrong("a")
    assert guessers.wait_s("a") == 0


def test_guessers_are_bounded(clock):
    """However many addresses guess."""
    guessers = Guessers(clock)
    for number in range(MOST_GUESSERS + 5):
        guessers.wrong(str(number))
    assert len(guessers._wrong) == MOST_GUESSERS
