"""Routes of the console: sessions, live stream, timeline, audit log, alerts."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from aiohttp import web

from gateway.admin.auth import SESSION_PATH, AccessControl
from gateway.admin.backend import AdminBackend
from gateway.admin.errors import AdminError
from gateway.admin.openapi import document
from gateway.admin.replies import (
    json_response,
    page_response,
    public_block,
    read_body,
    read_choice,
    read_count,
    set_audit_details,
)
from gateway.admin.sessions import COOKIE, SESSION_S, Session
from gateway.admin.stream import stream
from gateway.admin.timeline import DAY_MINUTES

MAX_TOKEN_CHARS = 4096


class Login(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/v1/session``."""

    token: str


class ConsoleRoutes:
    """Console routes; ``access`` authenticates."""

    def __init__(
        self,
        backend: AdminBackend,
        access: AccessControl,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._access = access
        self._clock = clock

    def routes(self) -> list[web.AbstractRouteDef]:
        """Route definitions."""
        return [
            web.get(SESSION_PATH, self.get_session),
            web.post(SESSION_PATH, self.post_session),
            web.delete(SESSION_PATH, self.delete_session),
            web.get("/api/v1/openapi.json", self.get_openapi),
            web.get("/api/v1/stream", self.get_stream, allow_head=False),
            web.get("/api/v1/timeline", self.get_timeline),
            web.get("/api/v1/standings", self.get_enforcement_states),
            web.get("/api/v1/audit", self.get_audit),
            web.get("/api/v1/alerts", self.get_alerts),
            web.post("/api/v1/alerts/{id}/resend", self.post_resend),
            web.post("/api/v1/alerts/targets/{name}/test", self.post_test),
        ]

    # -- sessions ----------------------------------------------------------------------

    async def get_session(self, request: web.Request) -> web.Response:
        """The role of the console, and whether it must sign in."""
        access = self._access
        if access.tokens.open:
            return _session_response("operator", "", needed=False)
        session = access.session_of(request)
        if session is None:
            return _session_response(None, "", needed=True)
        return _session_response(session.role, session.csrf, needed=True)

    async def post_session(self, request: web.Request) -> web.Response:
        """Sign in: exchange a token for an ``HttpOnly`` session cookie."""
        body = await read_body(request, Login)
        access = self._access
        if access.tokens.open:
            return _session_response("operator", "", needed=False)
        token = body.token.strip()[:MAX_TOKEN_CHARS]
        role = access.check_token(token, request.remote or "")
        secret, session = access.sessions.open(role, access.tokens)
        answer = _session_response(role, session.csrf, needed=True)
        answer.set_cookie(
            COOKIE,
            secret,
            max_age=SESSION_S,
            httponly=True,
            samesite="Strict",
            secure=request.secure,
            path="/",
        )
        return answer

    async def delete_session(self, request: web.Request) -> web.Response:
        """Sign out."""
        self._access.sessions.close(request.cookies.get(COOKIE, ""))
        answer = web.Response(status=204)
        answer.del_cookie(COOKIE, path="/")
        return answer

    # -- live --------------------------------------------------------------------------

    async def get_openapi(self, _request: web.Request) -> web.Response:
        """The OpenAPI 3.1 document of this API."""
        return json_response(document())

    async def get_stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: ``counters`` every second, ``output``, ``change``."""
        session: Session | None = self._access.session_of(request)
        by_cookie = session is not None and "Authorization" not in request.headers

        def still_allowed() -> bool:
            return not by_cookie or self._access.session_of(request) is not None

        return await stream(
            request, self._backend.activity.live, still_allowed=still_allowed
        )

    async def get_timeline(self, request: web.Request) -> web.Response:
        """Received and expected traffic."""
        minutes = read_count(request, "minutes", 60)
        if minutes is None or not 1 <= minutes <= DAY_MINUTES:
            raise AdminError(400, "bad_minutes", f"minutes must be 1 to {DAY_MINUTES}")
        return json_response(
            self._backend.activity.timeline.public(self._clock(), minutes)
        )

    # -- enforcement states, audit log ---------------------------------------------------

    async def get_enforcement_states(self, request: web.Request) -> web.Response:
        """Tagged, throttled and allowed subjects, oldest first."""
        found = [public_block(block) for block in self._backend.enforcement_states()]
        return page_response(request, found)

    async def get_audit(self, request: web.Request) -> web.Response:
        """Operator actions, newest first."""
        return page_response(request, list(reversed(self._backend.activity.audit_log)))

    # -- alerts ------------------------------------------------------------------------

    async def get_alerts(self, request: web.Request) -> web.Response:
        """Targets and messages (sent, pending, dead)."""
        alerts = self._backend.alerts()
        state = read_choice(request, "state", ("sent", "pending", "dead"))
        items = [one for one in alerts["items"] if state in (None, one["state"])]
        extra = {"targets": alerts["targets"], "pending": alerts["pending"]}
        return page_response(request, items, extra)

    async def post_resend(self, request: web.Request) -> web.Response:
        """Queue a dead letter again."""
        id_ = request.match_info["id"]
        set_audit_details(request, "resend", "alert", id_)
        count = await self._backend.resend_alert(id_)
        return json_response({"resent": count}, 202)

    async def post_test(self, request: web.Request) -> web.Response:
        """Send a test alert to one target."""
        name = request.match_info["name"]
        set_audit_details(request, "test", "target", name)
        await self._backend.test_alert(name)
        return web.Response(status=202)


def _session_response(role: str | None, csrf: str, *, needed: bool) -> web.Response:
    return json_response({"role": role, "csrf": csrf, "needed": needed})
