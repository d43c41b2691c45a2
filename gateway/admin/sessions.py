"""Who is who on the admin port: tokens, the console's sessions, and who guesses.

A token is compared by hash and never kept in a page: the console trades it for a
session, whose secret is a cookie that scripts cannot read and other sites cannot send.
A session ends with its token, after half a day, or when it is left.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import msgspec

Role = Literal["viewer", "operator"]
COOKIE = "tidegate_session"
CSRF_HEADER = "X-CSRF-Token"
SESSION_S = 12 * 3600
MOST_SESSIONS = 1000
# Wrong tokens from one address until it has to wait; everyone behind one address waits
# together, so not for long.
MAX_FAILURES = 10
FAILURE_WINDOW_S = 300.0
LOCKOUT_S = 60.0
MOST_THROTTLED = 4096


class AdminTokens(msgspec.Struct, frozen=True):
    """What ``/api`` asks for. Without an operator's token: nothing."""

    operator: str | None = None
    viewer: str | None = None

    def role_of(self, given: str) -> Role | None:
        """Both are compared, whichever it is, and by hash: the time tells nothing."""
        digest = _digest(given)
        operator = self._is(digest, self.operator)
        viewer = self._is(digest, self.viewer)
        if operator:
            return "operator"
        return "viewer" if viewer else None

    @staticmethod
    def _is(digest: bytes, token: str | None) -> bool:
        return hmac.compare_digest(digest, _digest(token or "")) and bool(token)

    @property
    def open(self) -> bool:
        """Whether anybody who reaches the port may do everything."""
        return self.operator is None

    def fingerprint(self, role: Role) -> bytes:
        """Changes when the token of a role does."""
        return _digest((self.operator if role == "operator" else self.viewer) or "")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class Session(msgspec.Struct, frozen=True):
    """A console that has shown a token. ``until`` is epoch seconds."""

    role: Role
    csrf: str
    until: float
    fingerprint: bytes

    def is_csrf(self, given: str) -> bool:
        """Whether our own page sent it."""
        return hmac.compare_digest(_digest(given), _digest(self.csrf))


class Sessions:
    """Sessions by the hash of their secret; the oldest makes room."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def open(self, role: Role, tokens: AdminTokens) -> tuple[str, Session]:
        """A new session, and the secret for its cookie."""
        secret = secrets.token_urlsafe(32)
        until = self._clock() + SESSION_S
        session = Session(
            role, secrets.token_urlsafe(24), until, tokens.fingerprint(role)
        )
        self._sessions[_digest(secret)] = session
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return secret, session

    def find(self, secret: str, tokens: AdminTokens) -> Session | None:
        """The session, unless its time is up or its token changed."""
        session = self._sessions.get(_digest(secret))
        if session is None:
            return None
        same = hmac.compare_digest(
            session.fingerprint, tokens.fingerprint(session.role)
        )
        if same and self._clock() < session.until:
            return session
        self.close(secret)
        return None

    def close(self, secret: str) -> None:
        """It was left."""
        self._sessions.pop(_digest(secret), None)


class LoginThrottle:
    """Wrong tokens by address; bounded, the oldest makes room."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def wait_s(self, remote: str) -> float:
        """How long this address has to wait; 0: not at all."""
        record_failure = self._failures.get(remote, [])
        if len(record_failure) < MAX_FAILURES:
            return 0.0
        return max(0.0, record_failure[-1] + LOCKOUT_S - self._clock())

    def record_failure(self, remote: str) -> None:
        """A token that is none."""
        now = self._clock()
        recent = [
            at for at in self._failures.pop(remote, []) if at > now - FAILURE_WINDOW_S
        ]
        self._failures[remote] = [*recent[-MAX_FAILURES:], now]
        if len(self._failures) > MOST_THROTTLED:
            self._failures.popitem(last=False)

    def clear(self, remote: str) -> None:
        """The right one: forgotten."""
        self._failures.pop(remote, None)
