"""A tunnel that meters the messages of a session.

The request was admitted like any other; ``session`` counts it while it runs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gateway.http.tunnel import Tunnel
from gateway.metering.frames import CLOSE, TEXT, server_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.core.refusal import Refusal
    from gateway.http.handler import ClientSide, Handler, UpstreamSide
    from gateway.http.response import AnswerHead
    from gateway.proxy.session import LiveSession

# Codes of RFC 6455, section 7.4.1, and the bytes of a reason beside one.
_PROTOCOL_ERROR, _POLICY_VIOLATION = 1002, 1008
_REASON_BYTES = 123
# Endpoints whose clients understand an ``error`` event.
_ERROR_EVENTS = frozenset({"realtime", "responses"})


class MeteredTunnel:
    """Bytes both ways, and the session that their messages make.

    ``on_end`` gets the session when both sides are closed.
    """

    __slots__ = (
        "_client",
        "_now",
        "_on_end",
        "_session",
        "_tunnel",
        "last_activity",
    )

    def __init__(
        self,
        conn: ClientSide,
        up: UpstreamSide,
        session: LiveSession,
        on_end: Callable[[LiveSession], None],
    ) -> None:
        self._client = conn
        self._now = session.now
        self._on_end = on_end
        self._session = session
        session.close = self._refuse
        self.last_activity = session.now()
        self._tunnel = Tunnel(conn, up, self._ended)
        session.inlet.pass_up = self._tunnel.pass_up
        session.inlet.hold = self._tunnel.hold_client
        self._tunnel.watch_client = self._from_client
        self._tunnel.watch_upstream = self._from_upstream

    def start(self, handler: Handler, answer: AnswerHead, leftover: bytes) -> None:
        """Pass the 101 on, then bytes both ways. ``leftover`` followed the head;
        ``handler`` enforces the time limits.
        """
        self._tunnel.start(answer, handler, leftover)

    def break_off(self) -> None:
        """Close both sides at once."""
        self._tunnel.break_off()

    def _refuse(self, refusal: Refusal) -> None:
        """Say why, where a message can be inserted, and close both sides."""
        if self._tunnel.active and self._session.meter.between_messages:
            reason = refusal.message.encode()[:_REASON_BYTES]
            reason = reason.decode("utf-8", "ignore").encode()
            code = _POLICY_VIOLATION if refusal.by_policy else _PROTOCOL_ERROR
            frames = server_frame(CLOSE, code.to_bytes(2, "big") + reason)
            if self._session.endpoint in _ERROR_EVENTS:
                frames = server_frame(TEXT, _error_event(refusal)) + frames
            self._client.transport.write(frames)
        self._tunnel.break_off()

    def _from_client(self, data: bytes) -> None:
        self.last_activity = self._now()
        self._session.from_client(data)

    def _from_upstream(self, data: bytes) -> None:
        self.last_activity = self._now()
        self._session.from_upstream(data)

    def _ended(self) -> None:
        self._on_end(self._session)


def _error_event(refusal: Refusal) -> bytes:
    error = {
        "type": "invalid_request_error",
        "code": refusal.code,
        "message": refusal.message,
    }
    return json.dumps({"type": "error", "error": error}).encode()
