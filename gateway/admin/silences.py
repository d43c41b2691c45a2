"""Routes for silences and maintenance windows, during which alerts are not sent."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, get_args

import msgspec
from aiohttp import web

from gateway.admin.auth import ROLE
from gateway.admin.backend import AdminBackend
from gateway.admin.errors import AdminError
from gateway.admin.replies import (
    json_response,
    page_response,
    read_body,
    read_ttl,
    set_audit_details,
)
from gateway.alerts.weekly import DAYS, Weekly, WeeklyError
from gateway.core.model import AttackClass
from gateway.detect.model import EventError, parse_time

DEFAULT_TTL_S = 3600.0
MAX_CHARS = 256
ANY = "*"
# Alerts about the gateway itself have the class ``gateway``.
_CLASSES = frozenset({ANY, "gateway", *get_args(AttackClass)})


class NewRepeat(msgspec.Struct, forbid_unknown_fields=True):
    """Weekly on ``days`` from ``from`` to ``to`` (``HH:MM`` in ``zone``). A ``to`` that
    is not after ``from`` is on the next day.
    """

    days: tuple[str, ...]
    starts: str = msgspec.field(name="from")
    ends: str = msgspec.field(name="to")
    zone: str = "UTC"


class NewSilence(msgspec.Struct, forbid_unknown_fields=True, rename={"cls": "class"}):
    """Body of ``POST /api/v1/silences``: from ``from`` (RFC 3339; null: now) for
    ``ttl`` or until ``to``. ``"*"`` matches any value. With ``repeat`` these times
    bound the weekly windows, which are otherwise unlimited.
    """

    tenant: str = "*"
    cls: str = "*"
    subject: str = "*"
    since: str | None = msgspec.field(default=None, name="from")
    until: str | None = msgspec.field(default=None, name="to")
    ttl: str | float | None = None
    repeat: NewRepeat | None = None
    reason: str = ""


class SilenceRoutes:
    """Silence routes."""

    def __init__(
        self, backend: AdminBackend, clock: Callable[[], float] = time.time
    ) -> None:
        self._backend = backend
        self._clock = clock

    def routes(self) -> list[web.AbstractRouteDef]:
        """Route definitions."""
        return [
            web.get("/api/v1/silences", self.get_silences),
            web.post("/api/v1/silences", self.post_silence),
            web.delete("/api/v1/silences/{id}", self.delete_silence),
        ]

    async def get_silences(self, request: web.Request) -> web.Response:
        """Silences and maintenance windows."""
        return page_response(request, self._backend.silences())

    async def post_silence(self, request: web.Request) -> web.Response:
        """Add a silence or a maintenance window."""
        body = await read_body(request, NewSilence)
        _check(body)
        when = _times_of(body, self._clock())
        set_audit_details(request, "silence", "alerts", body.tenant[:MAX_CHARS])
        silence = await self._backend.add_silence(
            {
                "tenant": body.tenant[:MAX_CHARS],
                "cls": body.cls[:MAX_CHARS],
                "subject": body.subject[:MAX_CHARS],
                "reason": body.reason[:MAX_CHARS],
                "by": request[ROLE],
            }
            | when
        )
        return json_response(silence, 201)

    async def delete_silence(self, request: web.Request) -> web.Response:
        """End a silence now."""
        id_ = request.match_info["id"]
        set_audit_details(request, "unsilence", "alerts", id_)
        await self._backend.remove_silence(id_)
        return web.Response(status=204)


def _check(body: NewSilence) -> None:
    """Reject a silence that cannot match any alert. Raises AdminError."""
    kind, _, id_ = body.subject.partition(":")
    if body.subject != ANY and not (kind and id_):
        text = 'subject must be "*" or kind:id, such as client_ip:203.0.113.9'
        raise AdminError(400, "bad_subject", text)
    if body.cls not in _CLASSES:
        text = f"class {body.cls!r} must be one of {', '.join(sorted(_CLASSES))}"
        raise AdminError(400, "bad_class", text)


def _times_of(body: NewSilence, now: float) -> dict[str, Any]:
    """The times of a silence as ``add_silence`` expects them: ``since`` and ``until``
    (epoch seconds), or ``weekly`` (then both are 0). Raises AdminError.
    """
    if body.ttl is not None and body.until is not None:
        raise AdminError(400, "bad_time", "give ttl or to, not both")
    since = _moment(body.since) or now
    ttl_s = read_ttl(body.ttl)
    until = _moment(body.until) or (None if ttl_s is None else since + ttl_s)
    if until is not None and until <= max(since, now):
        raise AdminError(
            400, "bad_time", "the end must be after the start, and in the future"
        )
    if body.repeat is None:
        return {"since": since, "until": until or since + DEFAULT_TTL_S}
    return {"since": 0.0, "until": 0.0, "weekly": _weekly(body.repeat, since, until)}


def _moment(text: str | None) -> float | None:
    """RFC 3339 text as epoch seconds. Raises AdminError."""
    try:
        return None if text is None else parse_time(text)
    except EventError as error:
        raise AdminError(400, "bad_time", str(error)) from error


def _weekly(body: NewRepeat, first: float, last: float | None) -> Weekly:
    days = tuple(day for day in DAYS if day in body.days)
    if len(days) != len(set(body.days)):
        days = ()  # unknown or repeated days; check() rejects an empty list
    weekly = Weekly(days, body.starts, body.ends, body.zone, first, last)
    try:
        weekly.check()
        possible = weekly.window(first) is not None
    except (WeeklyError, OverflowError) as error:
        raise AdminError(400, "bad_repeat", str(error)) from error
    if not possible:
        raise AdminError(400, "bad_repeat", "no window starts before the end")
    return weekly
