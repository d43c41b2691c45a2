"""Access control of the admin port: tokens, sessions, CSRF and DNS rebinding.

A web page in an operator's browser can reach a loopback port. DNS rebinding (a foreign
name that resolves to 127.0.0.1) shows in ``Host``; forms and scripts of another site
show in ``Origin`` or ``Sec-Fetch-Site``. Both are refused before authentication.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from gateway.admin.activity import AuditEntry
from gateway.admin.errors import AdminError
from gateway.admin.replies import AUDIT_DETAILS
from gateway.admin.sessions import (
    COOKIE,
    CSRF_HEADER,
    AdminTokens,
    LoginThrottle,
    Role,
    Session,
    Sessions,
)
from gateway.config.values import is_loopback

_SAME_SITE = ("", "same-origin", "none")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_AUDITED_METHODS = ("POST", "DELETE")
# Exempt from authentication: it checks the token itself.
SESSION_PATH = "/api/v1/session"
UNAUTHORIZED = 401
# Role of the caller, set after authentication.
ROLE: web.RequestKey[str] = web.RequestKey("role", str)
# Request id in the response header, in error bodies and in the log.
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
REQUEST_ID_HEADER = "X-Request-Id"

# Only scripts and styles served by this port, same-origin requests, no framing.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def error_response(
    request: web.Request, status: int, code: str, message: str
) -> web.Response:
    """Build an error response; every error of this port has this JSON shape."""
    error = {"code": code, "message": message, "request_id": request[REQUEST_ID]}
    body = msgspec.json.encode({"error": error})
    headers = {hdrs.WWW_AUTHENTICATE: "Bearer"} if status == UNAUTHORIZED else None
    return web.Response(
        status=status, body=body, content_type="application/json", headers=headers
    )


def is_local_host(host: str, listen_host: str) -> bool:
    """Whether a ``Host`` header is a loopback name or the listen address."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name) or name == listen_host


def is_foreign(request: web.Request) -> bool:
    """Whether the request was caused by a page of another site."""
    if request.headers.get("Sec-Fetch-Site", "") not in _SAME_SITE:
        return True
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is not None and urlsplit(origin).netloc != request.headers.get(
        hdrs.HOST, ""
    )


class AccessControl:
    """Authenticates and authorizes requests, and reports changes to the audit log.

    ``tokens`` gives the tokens in force, which a reload can change.
    """

    def __init__(
        self,
        tokens: Callable[[], AdminTokens],
        audit: Callable[[AuditEntry], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = tokens
        self._audit = audit
        self._clock = clock
        self.sessions = Sessions(clock)
        self._throttle = LoginThrottle(clock)

    @property
    def tokens(self) -> AdminTokens:
        """The tokens in force."""
        return self._tokens()

    def check_token(self, given: str, remote: str) -> Role:
        """Return the role of a token. Raises AdminError; locks out after failures.

        The right token is never locked out: behind a port-forward or in a pod, everybody
        has the same address. A token is too long to be guessed in any time.
        """
        role = self.tokens.role_of(given)
        if role is not None:
            self._throttle.clear(remote)
            return role
        wait_s = self._throttle.wait_s(remote)
        if wait_s:
            seconds = math.ceil(wait_s)
            text = f"too many wrong tokens from this address; retry in {seconds} s"
            raise AdminError(429, "locked_out", text)
        self._throttle.record_failure(remote)
        raise AdminError(UNAUTHORIZED, "unauthorized", "this token is not valid")

    def session_of(self, request: web.Request) -> Session | None:
        """The console session of the request's cookie, if it is valid."""
        secret = request.cookies.get(COOKIE)
        return self.sessions.find(secret, self.tokens) if secret else None

    def role_of(self, request: web.Request) -> Role:
        """Return the role of the caller. Raises AdminError."""
        if self.tokens.open:
            return "operator"
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer":
            return self.check_token(given.strip(), request.remote or "")
        session = self.session_of(request)
        if session is None:
            text = "a valid bearer token is required"
            raise AdminError(UNAUTHORIZED, "unauthorized", text)
        if request.method not in _SAFE_METHODS and not session.is_csrf(
            request.headers.get(CSRF_HEADER, "")
        ):
            raise AdminError(
                403, "csrf", f"{CSRF_HEADER} is missing or does not match the session"
            )
        return session.role

    def authorize(self, request: web.Request) -> None:
        """Check origin, credentials and role. Raises AdminError."""
        if is_foreign(request):
            raise AdminError(
                403, "cross_site", "the request was sent by a page of another site"
            )
        if request.path == SESSION_PATH:
            return
        role = self.role_of(request)
        request[ROLE] = role
        if role == "viewer" and request.method not in _SAFE_METHODS:
            text = "viewers cannot make changes; use the operator token"
            raise AdminError(403, "viewer", text)

    def audit(self, request: web.Request, status: int) -> None:
        """Report an authenticated change, also a failed one, to the audit log.

        Unauthenticated requests are left out: they could evict real entries.
        """
        if request.method not in _AUDITED_METHODS or ROLE not in request:
            return
        if request.match_info.http_exception is not None:
            return  # no such route
        details: dict[str, str] = request.get(AUDIT_DETAILS, {})
        self._audit(
            AuditEntry(
                at=self._clock(),
                role=request[ROLE],
                remote=request.remote or "",
                method=request.method,
                path=request.path,
                status=status,
                **details,
            )
        )


def access_middleware(
    listen_host: str,
    access: AccessControl,
    log_failure: Callable[[str, str, str], None],
) -> Middleware:
    """Middleware: request id, ``Host`` check, authorization, audit, JSON errors.
    ``log_failure``: as in ``AdminBackend``.
    """
    loopback = is_loopback(listen_host)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[REQUEST_ID] = f"adm_{secrets.token_hex(8)}"
        host = request.headers.get(hdrs.HOST, "")
        if loopback and host and not is_local_host(host, listen_host):
            text = f"Host {host!r} is not a name of this machine"
            return error_response(request, 403, "bad_host", text)
        if not request.path.startswith("/api/"):
            return await _respond(request, handler, log_failure)

        async def admitted(request: web.Request) -> web.StreamResponse:
            access.authorize(request)
            return await handler(request)

        answer = await _respond(request, admitted, log_failure)
        access.audit(request, answer.status)
        return answer

    return check


async def add_headers(request: web.Request, answer: web.StreamResponse) -> None:
    """Set security and cache headers on every response, including live streams."""
    for name, value in SECURITY_HEADERS.items():
        answer.headers[name] = value
    answer.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    if REQUEST_ID in request:
        answer.headers[REQUEST_ID_HEADER] = request[REQUEST_ID]


async def _respond(
    request: web.Request,
    handler: Handler,
    log_failure: Callable[[str, str, str], None],
) -> web.StreamResponse:
    """Run the handler; turn errors into JSON responses."""
    try:
        return await handler(request)
    except AdminError as error:
        answer = error_response(request, error.status, error.code, error.message)
        if error.code == "locked_out":
            answer.headers[hdrs.RETRY_AFTER] = "60"
        return answer
    except web.HTTPException as error:
        code = error.reason.lower().replace(" ", "_")
        answer = error_response(request, error.status, code, error.reason)
        if hdrs.ALLOW in error.headers:
            answer.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return answer
    except Exception:  # noqa: BLE001 - any other fault becomes a 500 and a log line
        log_failure(request[REQUEST_ID], request.method, request.path)
        text = "internal error; search the gateway's log for the request id"
        return error_response(request, 500, "internal_error", text)
