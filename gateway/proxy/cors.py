"""CORS: the origins that an upstream allows, for the gateway's own answers.

A browser shows a page of another origin neither the status nor ``retry-after`` of an
answer without these lines (Fetch standard, CORS protocol).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.lru import Lru
from gateway.http.request_writer import write_fields

if TYPE_CHECKING:
    from gateway.http.response import AnswerHead

MAX_ORIGINS: Final = 256
MAX_ORIGIN_BYTES: Final = 256  # a host name has at most 253
_ACCEPTED: Final = range(200, 300)
_EXPOSED: Final = (
    b"Retry-After, Retry-After-Ms, X-Should-Retry, X-Request-Id, "
    b"X-RateLimit-Limit-Requests, X-RateLimit-Remaining-Requests, "
    b"X-RateLimit-Reset-Requests, X-RateLimit-Limit-Tokens, "
    b"X-RateLimit-Remaining-Tokens, X-RateLimit-Reset-Tokens, RateLimit, "
    b"RateLimit-Policy"
)


class AllowedOrigins:
    """What one upstream last answered to each of the most recent origins.

    Anybody can send a preflight. So what preflights teach is kept apart, and does not
    displace or forget what answers to requests have shown.
    """

    __slots__ = ("_answered", "_asked")

    def __init__(self) -> None:
        self._answered: Lru[bytes, bytes] = Lru(MAX_ORIGINS)
        self._asked: Lru[bytes, bytes] = Lru(MAX_ORIGINS)

    def learn(self, origin: bytes, answer: AnswerHead, *, preflight: bool) -> None:
        """Keep what the upstream's answer allows ``origin``. A preflight that does not
        allow it forgets what a preflight has allowed (an error page may lack the lines).
        """
        if len(origin) > MAX_ORIGIN_BYTES:
            return
        allowed = answer.get(b"access-control-allow-origin")
        if allowed not in (b"*", origin) or allowed is None:
            if preflight:
                self._asked.pop(origin)
            elif answer.status in _ACCEPTED:
                self._answered.pop(origin)
            return
        fields = [(b"Access-Control-Allow-Origin", allowed)]
        if allowed != b"*":
            fields.append((b"Vary", b"Origin"))
            if answer.get(b"access-control-allow-credentials") == b"true":
                fields.append((b"Access-Control-Allow-Credentials", b"true"))
        accepted = not preflight and answer.status in _ACCEPTED
        known = self._answered if accepted else self._asked
        known.put(origin, write_fields(fields))

    def lines(self, origin: bytes) -> bytes:
        """Header lines of an answer to ``origin``; b"" if it is not known as allowed."""
        found = self._answered.get(origin) or self._asked.get(origin)
        if found is None:
            return b""
        return found + write_fields([(b"Access-Control-Expose-Headers", _EXPOSED)])
