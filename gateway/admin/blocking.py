"""Routes for blocks: block or allow a subject, remove and restore."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from aiohttp import web

from gateway.admin.backend import AdminBackend
from gateway.admin.errors import AdminError
from gateway.admin.replies import (
    BLOCK_KINDS,
    LISTED_KINDS,
    MAX_ID_CHARS,
    json_response,
    normal_id,
    page_response,
    public_block,
    read_body,
    read_choice,
    read_subject,
    read_ttl,
    set_audit_details,
)
from gateway.admin.undo import UndoLog
from gateway.core.model import Block


class NewBlock(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/v1/blocks``. ``ttl``: a duration or seconds; null: until
    removed. ``action`` "allow": detection does not act on the subject.
    """

    kind: str
    id: str
    tenant: str | None = None
    ttl: str | float | None = None
    reason: str = ""
    action: Literal["block", "allow"] = "block"


class BlockRoutes:
    """Block routes; ``undo_log`` keeps removed blocks for a restore."""

    def __init__(
        self,
        backend: AdminBackend,
        undo_log: UndoLog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._undo_log = undo_log
        self._clock = clock

    def routes(self) -> list[web.AbstractRouteDef]:
        """Route definitions."""
        block = "/api/v1/blocks/{kind}/{id}"
        return [
            web.get("/api/v1/blocks", self.get_blocks),
            web.post("/api/v1/blocks", self.post_block),
            web.delete(block, self.delete_block),
            web.post(f"{block}/restore", self.post_restore),
        ]

    async def get_blocks(self, request: web.Request) -> web.Response:
        """Blocks in force, oldest first."""
        kind = read_choice(request, "kind", LISTED_KINDS)
        tenant = request.query.get("tenant")
        blocks = [
            public_block(block)
            for block in self._backend.blocks()
            if kind in (None, block.kind) and tenant in (None, block.tenant)
        ]
        return page_response(request, blocks)

    async def post_block(self, request: web.Request) -> web.Response:
        """Block a subject, or change its block."""
        body = await read_body(request, NewBlock)
        allow = body.action == "allow"
        # Set before validation, so that the audit log also names refused requests.
        set_audit_details(request, body.action, body.kind, body.id)
        if body.kind not in BLOCK_KINDS:
            raise AdminError(
                400, "bad_kind", f"kind must be one of {', '.join(BLOCK_KINDS)}"
            )
        now = self._clock()
        ttl_s = read_ttl(body.ttl)
        block = Block(
            kind=body.kind,
            id=normal_id(body.kind, body.id),
            tenant=body.tenant or None,
            until=None if ttl_s is None else now + ttl_s,
            reason=body.reason[:MAX_ID_CHARS],
            created_at=now,
            # Detection does not override an entry of an operator, so an operator's
            # "tag", the weakest action, allows the subject.
            action="tag" if allow else "block",
        )
        replaced = self._blocks_of(block.kind, block.id, block.tenant)
        await self._backend.add_block(block)
        self._undo_log.pop(_replaced_by(block.kind, block.id))
        self._undo_log.remember(_replaced_by(block.kind, block.id), replaced)
        return json_response(public_block(block), 201)

    def _blocks_of(self, kind: str, id_: str, *tenants: str | None) -> list[Block]:
        """Blocks and enforcement states of a subject in ``tenants``; none given: all."""
        return [
            block
            for block in (*self._backend.blocks(), *self._backend.enforcement_states())
            if (block.kind, block.id) == (kind, id_)
            and (not tenants or block.tenant in tenants)
        ]

    async def delete_block(self, request: web.Request) -> web.Response:
        """Unblock in all tenants or in ``?tenant=``. ``?undo=true`` also restores the
        entries that the block had replaced.
        """
        kind, id_ = read_subject(request, LISTED_KINDS)
        set_audit_details(request, "unblock", kind, id_)
        tenant = request.query.get("tenant")
        removed = self._blocks_of(kind, id_, *(() if tenant is None else (tenant,)))
        undo = read_choice(request, "undo", ("true", "false")) == "true"
        if not await self._backend.remove_block(kind, id_, tenant):
            raise AdminError(404, "not_found", f"{kind} {id_} is not blocked")
        self._undo_log.remember((kind, id_), removed)
        for block in self._undo_log.pop(_replaced_by(kind, id_)) if undo else ():
            await self._backend.add_block(block)
        return web.Response(status=204)

    async def post_restore(self, request: web.Request) -> web.Response:
        """Restore the entries removed from a subject in the last 15 minutes."""
        kind, id_ = read_subject(request, LISTED_KINDS)
        set_audit_details(request, "restore", kind, id_)
        blocks = await restore_blocks(self._backend, self._undo_log, (kind, id_))
        return json_response({"items": [public_block(block) for block in blocks]})


def _replaced_by(kind: str, id_: str) -> tuple[str, str]:
    """Name in the undo log of the entries that an operator's block replaced."""
    return f"replaced {kind}", id_


async def restore_blocks(
    backend: AdminBackend, undo_log: UndoLog, name: tuple[str, str]
) -> list[Block]:
    """Restore the blocks removed under ``name``. Raises AdminError (404)."""
    blocks = undo_log.pop(name)
    if not blocks:
        text = (
            "nothing to restore: no unexpired block was removed in the last 15 minutes"
        )
        raise AdminError(404, "not_found", text)
    for block in blocks:
        await backend.add_block(block)
    return blocks


def count_actions(blocks: list[Block]) -> dict[str, Any]:
    """Number of blocked, throttled and tagged entries."""
    counts = dict.fromkeys(("block", "throttle", "tag"), 0)
    for block in blocks:
        counts[block.action] += 1
    return counts
