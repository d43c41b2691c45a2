"""The admin application: probes, metrics, status, policies and clients; ``build_app``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, cast, get_args

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from gateway.admin.auth import AccessControl, access_middleware, add_headers
from gateway.admin.backend import AdminBackend
from gateway.admin.blocking import BlockRoutes
from gateway.admin.clients import Sort
from gateway.admin.errors import AdminError
from gateway.admin.incidents import IncidentRoutes
from gateway.admin.metrics import CONTENT_TYPE
from gateway.admin.recent import public_record
from gateway.admin.replies import (
    MAX_ID_CHARS,
    SUBJECT_KINDS,
    json_response,
    page_response,
    public_block,
    read_page,
    read_subject,
    set_audit_details,
)
from gateway.admin.silences import SilenceRoutes
from gateway.admin.static import StaticRoutes
from gateway.admin.undo import UndoLog
from gateway.admin.views import ConsoleRoutes

MAX_BODY_BYTES = 64 * 1024
MAX_RECORDS_SHOWN = 50


class GatewayRoutes:
    """Routes for probes, metrics, status, policies and clients."""

    def __init__(
        self, backend: AdminBackend, clock: Callable[[], float] = time.time
    ) -> None:
        self._backend = backend
        self._clock = clock

    def routes(self) -> list[web.AbstractRouteDef]:
        """Route definitions."""
        subject = "/api/v1/clients/{kind}/{id}"
        return [
            web.get("/healthz", self.get_health),
            web.get("/readyz", self.get_ready),
            web.get("/metrics", self.get_metrics),
            web.get("/api/v1/status", self.get_status),
            web.get("/api/v1/policies", self.get_policies),
            web.post("/api/v1/reload", self.post_reload),
            web.get("/api/v1/clients", self.get_clients),
            web.get(subject, self.get_client),
            web.post(f"{subject}/reset", self.post_reset),
        ]

    # -- probes and metrics ------------------------------------------------------------

    async def get_health(self, _request: web.Request) -> web.Response:
        """Liveness of the control process; does not cover workers."""
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
        """State of every component."""
        return json_response(self._backend.status())

    async def get_policies(self, request: web.Request) -> web.Response:
        """Effective policy of each tenant."""
        return page_response(request, self._backend.policies())

    async def post_reload(self, _request: web.Request) -> web.Response:
        """Reload the configuration."""
        return json_response(await self._backend.reload())

    # -- clients -----------------------------------------------------------------------

    async def get_clients(self, request: web.Request) -> web.Response:
        """Clients of the last hour, sorted and paged."""
        sort = request.query.get("sort", "tokens")
        if sort not in get_args(Sort):
            raise AdminError(
                400, "bad_sort", f"sort must be one of {', '.join(get_args(Sort))}"
            )
        kind = request.query.get("kind")
        if kind is not None and kind not in SUBJECT_KINDS:
            raise AdminError(
                400, "bad_kind", f"kind must be one of {', '.join(SUBJECT_KINDS)}"
            )
        text = request.query.get("q", "")
        if len(text) > MAX_ID_CHARS:
            raise AdminError(
                400, "bad_q", f"q must have at most {MAX_ID_CHARS} characters"
            )
        start, limit = read_page(request)
        # One row more than the page shows whether there is a next page.
        items = self._backend.clients.top(
            cast("Sort", sort),
            kind,
            self._clock(),
            start=start,
            limit=limit + 1,
            tenant=request.query.get("tenant"),
            text=text,
        )
        more = str(start + limit) if len(items) > limit else None
        rows = [self._with_baseline(row) for row in items[:limit]]
        return json_response({"items": rows, "next": more})

    def _with_baseline(self, row: dict[str, Any]) -> dict[str, Any]:
        """Add the expected rate and the enforcement state to a row."""
        kind, id_, tenant = row["kind"], row["id"], row["tenant"]
        baseline = self._backend.baseline(kind, id_, tenant)
        state = self._backend.enforcement_state(kind, id_, tenant)
        row["expected_1m"] = None if baseline is None else baseline.expected_1m
        row["peers_1m"] = None if baseline is None else baseline.peers_1m
        if baseline is not None:
            row["requests_1m"] = round(baseline.requests_1m, 2)
        row["standing"] = None if state is None else public_block(state)
        return row

    async def get_client(self, request: web.Request) -> web.Response:
        """One subject: usage of the last hour, limits, blocks, history."""
        kind, id_ = read_subject(request, SUBJECT_KINDS)
        tenant = request.query.get("tenant")
        backend = self._backend
        rows = [
            self._with_baseline(row)
            for row in backend.clients.find(kind, id_, tenant, self._clock())
        ]
        tenants = [tenant] if tenant else [row["tenant"] for row in rows]
        limits = await backend.limits_of(kind, id_, tenants)
        blocks = [
            public_block(block)
            for block in (*backend.blocks(), *backend.enforcement_states())
            if (block.kind, block.id) == (kind, id_)
        ]
        if not rows and not limits and not blocks:
            raise AdminError(
                404, "not_found", f"{kind} {id_} had no requests in the last hour"
            )
        body = {"kind": kind, "id": id_, "usage": rows, "limits": limits}
        baseline = {
            name: backend.baseline(kind, id_, name, history=True)
            for name in dict.fromkeys(tenants)
        }
        activity = backend.activity
        records = activity.recent.of_subject(kind, id_, tenant)[:MAX_RECORDS_SHOWN]
        return json_response(
            body
            | {
                "blocks": blocks,
                "usual": {name: one for name, one in baseline.items() if one},
                "records": [public_record(record) for record in records],
                "said": activity.outputs_about(kind, id_),
                "changes": [
                    entry
                    for entry in reversed(activity.audit_log)
                    if (entry.kind, entry.id) == (kind, id_)
                ],
            }
        )

    async def post_reset(self, request: web.Request) -> web.Response:
        """Reset the limit counters of a subject."""
        kind, id_ = read_subject(request, SUBJECT_KINDS)
        set_audit_details(request, "reset", kind, id_)
        count = await self._backend.reset(kind, id_, request.query.get("tenant"))
        return json_response({"kind": kind, "id": id_, "counters": count})


def build_app(
    backend: AdminBackend, listen_host: str, clock: Callable[[], float] = time.time
) -> web.Application:
    """Build the admin application with access control on every route."""
    undo_log = UndoLog(clock)
    access = AccessControl(lambda: backend.tokens, backend.audit, clock)
    app = web.Application(
        middlewares=[access_middleware(listen_host, access, backend.log_failure)],
        client_max_size=MAX_BODY_BYTES,
    )
    app.on_response_prepare.append(add_headers)
    app.add_routes(GatewayRoutes(backend, clock).routes())
    app.add_routes(BlockRoutes(backend, undo_log, clock).routes())
    app.add_routes(IncidentRoutes(backend, undo_log, clock).routes())
    app.add_routes(ConsoleRoutes(backend, access, clock).routes())
    app.add_routes(SilenceRoutes(backend, clock).routes())
    app.add_routes(StaticRoutes().routes())

    async def close_streams(_app: web.Application) -> None:
        backend.activity.live.close_all()

    app.on_shutdown.append(close_streams)
    logging.getLogger("aiohttp.server").addFilter(_is_not_bad_http)
    return app


def _is_not_bad_http(line: logging.LogRecord) -> bool:
    """Drop log lines about malformed requests, which aiohttp answers with 400."""
    error = line.exc_info[1] if line.exc_info else None
    return not isinstance(error, BadHttpMessage)
