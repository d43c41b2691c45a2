"""Routes for silences: alerts that nobody wants to hear for a while."""

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
from gateway.detect.model import AttackClass, EventError, parse_time

DEFAULT_TTL_S = 3600.0
MAX_CHARS = 256
ANY = "*"
# The gateway's own troubles have a class too.
_CLASSES = frozenset({ANY, "gateway", *get_args(AttackClass)})


class NewRepeat(msgspec.Struct, forbid_unknown_fields=True):
    """Each week on ``days`` from ``from`` to ``to`` (``HH:MM`` of ``zone``; not after
    ``from``: on the next day).
    """

    days: tuple[str, ...]
    starts: str = msgspec.field(name="from")
    ends: str = msgspec.field(name="to")
    zone: str = "UTC"


class NewSilence(msgspec.Struct, forbid_unknown_fields=True, rename={"cls": "class"}):
    """Body of ``POST /api/v1/silences``. It begins at ``from`` (RFC 3339; null: now)
    and lasts ``ttl``, or until ``to``; ``"*"``: any. With ``repeat`` these bound the
    windows, which otherwise come back for good.
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
    """``backend`` keeps them."""

    def __init__(
        self, backend: AdminBackend, clock: Callable[[], float] = time.time
    ) -> None:
        self._backend = backend
        self._clock = clock

    def routes(self) -> list[web.AbstractRouteDef]:
        """Theirs."""
        return [
            web.get("/api/v1/silences", self.get_silences),
            web.post("/api/v1/silences", self.post_silence),
            web.delete("/api/v1/silences/{id}", self.delete_silence),
        ]

    async def get_silences(self, request: web.Request) -> web.Response:
        """Silences and maintenance windows."""
        return page_response(request, self._backend.silences())

    async def post_silence(self, request: web.Request) -> web.Response:
        """Do not send what matches for a while."""
        asked = await read_body(request, NewSilence)
        _check(asked)
        when = _when(asked, self._clock())
        set_audit_details(request, "silence", "alerts", asked.tenant[:MAX_CHARS])
        silence = await self._backend.add_silence(
            {
                "tenant": asked.tenant[:MAX_CHARS],
                "cls": asked.cls[:MAX_CHARS],
                "subject": asked.subject[:MAX_CHARS],
                "reason": asked.reason[:MAX_CHARS],
                "by": request[ROLE],
            }
            | when
        )
        return json_response(silence, 201)

    async def delete_silence(self, request: web.Request) -> web.Response:
        """End it now."""
        id_ = request.match_info["id"]
        set_audit_details(request, "unsilence", "alerts", id_)
        await self._backend.remove_silence(id_)
        return web.Response(status=204)


def _check(asked: NewSilence) -> None:
    """A silence that can match nothing is a mistake. Raises Refused."""
    kind, _, id_ = asked.subject.partition(":")
    if asked.subject != ANY and not (kind and id_):
        text = 'subject: kind:id, such as client_ip:203.0.113.9, or "*"'
        raise AdminError(400, "bad_subject", text)
    if asked.cls not in _CLASSES:
        text = f"class: {asked.cls!r} is none of {', '.join(sorted(_CLASSES))}"
        raise AdminError(400, "bad_class", text)


def _when(asked: NewSilence, now: float) -> dict[str, Any]:
    """``since`` and ``until``, or ``weekly``. Raises Refused."""
    if asked.ttl is not None and asked.until is not None:
        raise AdminError(400, "bad_time", "say ttl or to, not both")
    since = _moment(asked.since) or now
    ttl_s = read_ttl(asked.ttl)
    until = _moment(asked.until) or (None if ttl_s is None else since + ttl_s)
    if until is not None and until <= max(since, now):
        raise AdminError(400, "bad_time", "it would be over before it began")
    if asked.repeat is None:
        return {"since": since, "until": until or since + DEFAULT_TTL_S}
    return {"since": 0.0, "until": 0.0, "weekly": _weekly(asked.repeat, since, until)}


def _moment(text: str | None) -> float | None:
    try:
        return None if text is None else parse_time(text)
    except EventError as error:
        raise AdminError(400, "bad_time", str(error)) from error


def _weekly(asked: NewRepeat, first: float, last: float | None) -> Weekly:
    days = tuple(day for day in DAYS if day in asked.days)
    if len(days) != len(set(asked.days)):
        days = ()  # there are others among them
    weekly = Weekly(days, asked.starts, asked.ends, asked.zone, first, last)
    try:
        weekly.check()
        possible = weekly.window(first) is not None
    except (WeeklyError, OverflowError) as error:
        raise AdminError(400, "bad_repeat", str(error)) from error
    if not possible:
        raise AdminError(400, "bad_repeat", "no such window begins before it ends")
    return weekly
