"""Who may use the admin port: bearer token, and no web page behind anybody's back.

A page in an operator's browser can reach a loopback port. A name that an attacker
points at 127.0.0.1 (DNS rebinding) shows in ``Host``; a form or script of another site
shows in ``Origin`` or ``Sec-Fetch-Site``. Both are refused before anything else.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from gateway.admin.backend import Refused
from gateway.config.values import is_loopback

_log = logging.getLogger(__name__)
_SAME_SITE = ("", "same-origin", "none")


def error_response(status: int, code: str, message: str) -> web.Response:
    """Every error of this port has this shape."""
    body = msgspec.json.encode({"error": {"code": code, "message": message}})
    headers = {hdrs.WWW_AUTHENTICATE: "Bearer"} if status == 401 else None  # noqa: PLR2004
    return web.Response(
        status=status, body=body, content_type="application/json", headers=headers
    )


def is_token(given: str, token: str) -> bool:
    """Compared by hash: the time tells neither where they differ nor how long they are."""
    return hmac.compare_digest(_digest(given), _digest(token))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def is_local_host(host: str, listen_host: str) -> bool:
    """Whether a Host header names this machine as only this machine would."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name) or name == listen_host


def is_foreign(request: web.Request) -> bool:
    """Whether a page of another site made the browser send this."""
    if request.headers.get("Sec-Fetch-Site", "") not in _SAME_SITE:
        return True
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is not None and urlsplit(origin).netloc != request.headers.get(
        hdrs.HOST, ""
    )


def guard(listen_host: str, token: Callable[[], str | None]) -> Middleware:
    """Middleware for every route; ``token`` is asked anew each time."""
    loopback = is_loopback(listen_host)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get(hdrs.HOST, "")
        if loopback and host and not is_local_host(host, listen_host):
            return error_response(403, "bad_host", f"{host!r} is not this machine")
        if request.path.startswith("/api/"):
            if is_foreign(request):
                return error_response(403, "cross_site", "sent by another site's page")
            refused = _check_token(request, token())
            if refused is not None:
                return refused
        return await _answer(request, handler)

    return check


def _check_token(request: web.Request, token: str | None) -> web.Response | None:
    if token is None:
        return None
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer" and is_token(given.strip(), token):
        return None
    return error_response(401, "unauthorized", "a valid bearer token is required")


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as JSON, whoever raised them."""
    try:
        return await handler(request)
    except Refused as refused:
        return error_response(refused.status, refused.code, refused.message)
    except web.HTTPException as error:
        code = error.reason.lower().replace(" ", "_")
        return error_response(error.status, code, error.reason)
    except Exception:  # noqa: BLE001 - the edge: a fault is an answer and a log line
        _log.exception("admin request failed: %s %s", request.method, request.path)
        return error_response(500, "internal_error", "see the log of control")
