"""The port for operators: probes, metrics, and ``/api/v1``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

import msgspec
from aiohttp import web

from gateway.admin.auth import guard
from gateway.admin.backend import Backend, Refused
from gateway.admin.clients import Sort, moment
from gateway.admin.metrics import CONTENT_TYPE
from gateway.config.values import parse_duration
from gateway.core.cidr import Networks, normal_client_ip, parse_address, subject_of
from gateway.core.model import Block

MAX_BODY_BYTES = 64 * 1024
MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
MAX_ID_CHARS = 256
# Longer than any incident; a block for good has no ttl.
MAX_TTL_S = 10 * 365 * 86_400
SUBJECT_KINDS = ("client_ip", "user", "tenant")
BLOCK_KINDS = (*SUBJECT_KINDS, "network")

_INDEX = b"""{"name":"tidegate","probes":["/healthz","/readyz"],"metrics":"/metrics",\
"api":["/api/v1/status","/api/v1/blocks","/api/v1/clients","/api/v1/policies",\
"/api/v1/reload"]}
"""


class NewBlock(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/v1/blocks``. ``ttl`` is a duration or seconds; null: until
    removed.
    """

    kind: str
    id: str
    tenant: str | None = None
    ttl: str | float | None = None
    reason: str = ""


class Api:
    """The routes; ``backend`` knows the answers."""

    def __init__(
        self, backend: Backend, clock: Callable[[], float] = time.time
    ) -> None:
        self._backend = backend
        self._clock = clock

    def routes(self) -> list[web.AbstractRouteDef]:
        """Every route of this port."""
        subject = "/api/v1/clients/{kind}/{id}"
        return [
            web.get("/", self.get_index),
            web.get("/healthz", self.get_health),
            web.get("/readyz", self.get_ready),
            web.get("/metrics", self.get_metrics),
            web.get("/api/v1/status", self.get_status),
            web.get("/api/v1/policies", self.get_policies),
            web.post("/api/v1/reload", self.post_reload),
            web.get("/api/v1/blocks", self.get_blocks),
            web.post("/api/v1/blocks", self.post_block),
            web.delete("/api/v1/blocks/{kind}/{id}", self.delete_block),
            web.get("/api/v1/clients", self.get_clients),
            web.get(subject, self.get_client),
            web.post(f"{subject}/reset", self.post_reset),
        ]

    # -- probes and metrics ------------------------------------------------------------

    async def get_index(self, _request: web.Request) -> web.Response:
        """Where to go from here."""
        return web.Response(body=_INDEX, content_type="application/json")

    async def get_health(self, _request: web.Request) -> web.Response:
        """Alive: this process answers. Says nothing of the workers."""
        return json_response({"status": "ok"})

    async def get_ready(self, _request: web.Request) -> web.Response:
        """200 when requests can be served, else 503 with the reasons."""
        reasons = self._backend.not_ready()
        body = {"ready": not reasons, "reasons": reasons}
        return json_response(body, 503 if reasons else 200)

    async def get_metrics(self, _request: web.Request) -> web.Response:
        """Prometheus exposition."""
        text = self._backend.metrics.render()
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    # -- the gateway -------------------------------------------------------------------

    async def get_status(self, _request: web.Request) -> web.Response:
        """The state of every part."""
        return json_response(self._backend.status())

    async def get_policies(self, request: web.Request) -> web.Response:
        """Effective policy of each tenant."""
        return page_response(request, self._backend.policies())

    async def post_reload(self, _request: web.Request) -> web.Response:
        """Read the configuration again."""
        return json_response(await self._backend.reload())

    # -- blocks ------------------------------------------------------------------------

    async def get_blocks(self, request: web.Request) -> web.Response:
        """Blocks in force, oldest first."""
        kind, tenant = request.query.get("kind"), request.query.get("tenant")
        blocks = [
            public_block(block)
            for block in self._backend.blocks()
            if kind in (None, block.kind) and tenant in (None, block.tenant)
        ]
        return page_response(request, blocks)

    async def post_block(self, request: web.Request) -> web.Response:
        """Block a subject, or change its block."""
        asked = await read_body(request, NewBlock)
        now = self._clock()
        ttl_s = read_ttl(asked.ttl)
        block = Block(
            kind=asked.kind,
            id=normal_id(asked.kind, asked.id),
            tenant=asked.tenant,
            until=None if ttl_s is None else now + ttl_s,
            reason=asked.reason[:MAX_ID_CHARS],
            created_at=now,
        )
        await self._backend.add_block(block)
        return json_response(public_block(block), 201)

    async def delete_block(self, request: web.Request) -> web.Response:
        """Unblock, everywhere or (``?tenant=``) where it was blocked."""
        kind, id_ = read_subject(request, BLOCK_KINDS)
        tenant = request.query.get("tenant")
        if not await self._backend.remove_block(kind, id_, tenant):
            raise Refused(404, "not_found", f"{kind} {id_} is not blocked")
        return web.Response(status=204)

    # -- clients -----------------------------------------------------------------------

    async def get_clients(self, request: web.Request) -> web.Response:
        """Who used most within the last hour."""
        sort = request.query.get("sort", "tokens")
        if sort not in get_args(Sort):
            raise Refused(
                400, "bad_sort", f"sort by one of {', '.join(get_args(Sort))}"
            )
        kind = request.query.get("kind")
        if kind is not None and kind not in SUBJECT_KINDS:
            raise Refused(400, "bad_kind", f"kind is one of {', '.join(SUBJECT_KINDS)}")
        start, limit = read_page(request)
        # One more than asked for tells whether there is another page.
        items = self._backend.clients.top(
            cast("Sort", sort), kind, self._clock(), start=start, limit=limit + 1
        )
        more = str(start + limit) if len(items) > limit else None
        return json_response({"items": items[:limit], "next": more})

    async def get_client(self, request: web.Request) -> web.Response:
        """One subject: the last hour, and how much is used of each of its limits."""
        kind, id_ = read_subject(request, SUBJECT_KINDS)
        tenant = request.query.get("tenant")
        rows = list(self._backend.clients.find(kind, id_, tenant, self._clock()))
        tenants = [tenant] if tenant else [row["tenant"] for row in rows]
        limits = await self._backend.limits_of(kind, id_, tenants)
        blocks = [
            public_block(block)
            for block in self._backend.blocks()
            if (block.kind, block.id) == (kind, id_)
        ]
        if not rows and not limits and not blocks:
            raise Refused(
                404, "not_found", f"{kind} {id_} was not seen within the hour"
            )
        body = {"kind": kind, "id": id_, "usage": rows, "limits": limits}
        return json_response(body | {"blocks": blocks})

    async def post_reset(self, request: web.Request) -> web.Response:
        """Forget what the subject used: its limits start anew."""
        kind, id_ = read_subject(request, SUBJECT_KINDS)
        count = await self._backend.reset(kind, id_, request.query.get("tenant"))
        return json_response({"kind": kind, "id": id_, "counters": count})


def build_app(
    backend: Backend, listen_host: str, clock: Callable[[], float] = time.time
) -> web.Application:
    """The application, guarded."""
    app = web.Application(
        middlewares=[guard(listen_host, lambda: backend.token)],
        client_max_size=MAX_BODY_BYTES,
    )
    app.add_routes(Api(backend, clock).routes())
    return app


def json_response(body: Any, status: int = 200) -> web.Response:
    """Any value that msgspec can write."""
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/json"
    )


def page_response(request: web.Request, items: Sequence[Any]) -> web.Response:
    """The page of ``items`` that was asked for, in the shape of every list."""
    start, limit = read_page(request)
    more = str(start + limit) if start + limit < len(items) else None
    return json_response({"items": items[start : start + limit], "next": more})


def read_page(request: web.Request) -> tuple[int, int]:
    """``cursor`` (as ``next`` gave it) and ``limit``. Raises Refused."""
    try:
        start = int(request.query.get("cursor", "0"))
        limit = int(request.query.get("limit", str(DEFAULT_LIMIT)))
    except ValueError:
        start = limit = -1
    if start < 0 or not 1 <= limit <= MAX_LIMIT:
        raise Refused(
            400, "bad_page", f"limit is 1 to {MAX_LIMIT}, cursor is what `next` said"
        )
    return start, limit


async def read_body(request: web.Request, kind: type[NewBlock]) -> NewBlock:
    """The JSON body. Raises Refused with what is wrong with it."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "bad_body", str(error)) from error


def read_ttl(ttl: str | float | None) -> float | None:
    """Seconds. Raises Refused."""
    try:
        seconds = parse_duration(ttl) if isinstance(ttl, str) else ttl
    except ValueError as error:
        raise Refused(400, "bad_ttl", str(error)) from error
    if seconds is not None and not 0 < seconds <= MAX_TTL_S:
        raise Refused(
            400, "bad_ttl", "ttl is more than nothing and less than ten years"
        )
    return seconds


def read_subject(request: web.Request, kinds: Sequence[str]) -> tuple[str, str]:
    """Kind and id of the path. Raises Refused."""
    kind = request.match_info["kind"]
    if kind not in kinds:
        raise Refused(400, "bad_kind", f"kind is one of {', '.join(kinds)}")
    return kind, normal_id(kind, request.match_info["id"])


def normal_id(kind: str, id_: str) -> str:
    """The id as it is counted by, however it was written. Raises Refused."""
    if not 0 < len(id_) <= MAX_ID_CHARS:
        raise Refused(400, "bad_id", f"id has 1 to {MAX_ID_CHARS} characters")
    if kind == "client_ip":
        return _normal_ip(id_)
    if kind == "network":
        try:
            Networks([id_])
        except ValueError as error:
            raise Refused(400, "bad_id", f"not a network: {error}") from error
    elif kind not in BLOCK_KINDS:
        raise Refused(400, "bad_kind", f"kind is one of {', '.join(BLOCK_KINDS)}")
    return id_


def _normal_ip(id_: str) -> str:
    address = parse_address(id_.partition("/")[0])
    name = normal_client_ip(id_)
    if address is None or name != subject_of(address):
        raise Refused(
            400, "bad_id", f"{id_!r} is not an address (a network: kind network)"
        )
    return name


def public_block(block: Block) -> dict[str, Any]:
    """A block as the API shows it."""
    return {
        "kind": block.kind,
        "id": block.id,
        "tenant": block.tenant,
        "until": None if block.until is None else moment(block.until),
        "reason": block.reason,
        "created_at": moment(block.created_at),
        "by": block.by,
    }
