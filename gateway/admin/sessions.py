"""Tokens, console sessions and the lockout after wrong tokens.

The console exchanges a token for a session cookie (``HttpOnly``, ``SameSite=Strict``).
A session ends after 12 hours, on sign-out, or when its token changes.
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
MAX_SESSIONS = 1000
# Wrong tokens per address within the window before a lockout. The lockout is short,
# because it covers all users behind one address.
MAX_FAILURES = 10
FAILURE_WINDOW_S = 300.0
LOCKOUT_S = 60.0
MAX_ADDRESSES = 4096


class AdminTokens(msgspec.Struct, frozen=True):
    """Bearer tokens of ``/api``; without an operator token no token is required."""

    operator: str | None = None
    viewer: str | None = None

    def role_of(self, given: str) -> Role | None:
        """The role of a token. Constant time: both are compared, by hash."""
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
        """Whether no token is required."""
        return self.operator is None

    def fingerprint(self, role: Role) -> bytes:
        """Hash of the token of a role, to detect a change."""
        return _digest((self.operator if role == "operator" else self.viewer) or "")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class Session(msgspec.Struct, frozen=True):
    """A signed-in console. ``until``: epoch seconds; ``fingerprint``: of its token."""

    role: Role
    csrf: str
    until: float
    fingerprint: bytes

    def is_csrf(self, given: str) -> bool:
        """Whether ``given`` is the CSRF token of this session."""
        return hmac.compare_digest(_digest(given), _digest(self.csrf))


class Sessions:
    """Sessions by the hash of their secret; evicts the oldest."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def open(self, role: Role, tokens: AdminTokens) -> tuple[str, Session]:
        """Create a session; returns the secret for the cookie, and the session."""
        secret = secrets.token_urlsafe(32)
        until = self._clock() + SESSION_S
        session = Session(
            role, secrets.token_urlsafe(24), until, tokens.fingerprint(role)
        )
        self._sessions[_digest(secret)] = session
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return secret, session

    def find(self, secret: str, tokens: AdminTokens) -> Session | None:
        """The session of a secret, unless it expired or its token changed."""
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
        """End a session."""
        self._sessions.pop(_digest(secret), None)


class LoginThrottle:
    """Wrong tokens by address, for the lockout; evicts the oldest."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def wait_s(self, remote: str) -> float:
        """Seconds until the address may try again; 0 if now."""
        record_failure = self._failures.get(remote, [])
        if len(record_failure) < MAX_FAILURES:
            return 0.0
        return max(0.0, record_failure[-1] + LOCKOUT_S - self._clock())

    def record_failure(self, remote: str) -> None:
        """Count a wrong token."""
        now = self._clock()
        recent = [
            at for at in self._failures.pop(remote, []) if at > now - FAILURE_WINDOW_S
        ]
        self._failures[remote] = [*recent[-MAX_FAILURES:], now]
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def clear(self, remote: str) -> None:
        """Reset the count after a valid token."""
        self._failures.pop(remote, None)
