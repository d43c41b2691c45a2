"""Routes for incidents: list, detail, acknowledge, resolve, undo and restore."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from gateway.admin.auth import ROLE
from gateway.admin.backend import AdminBackend
from gateway.admin.blocking import count_actions, restore_blocks
from gateway.admin.errors import AdminError
from gateway.admin.incident_impact import add_shares, impact
from gateway.admin.incident_log import IncidentHistory, Key, start_of
from gateway.admin.replies import (
    json_response,
    page_response,
    public_block,
    read_choice,
    set_audit_details,
)
from gateway.admin.undo import UndoLog
from gateway.core.model import Block

# Clients listed in one incident; the count and an undo cover all of them.
MAX_CLIENTS = 50
# Clients whose shares of the excess are computed.
MAX_COMPARED = 1000
# Blocks removed concurrently by an undo.
_BATCH = 32
Incident = Mapping[str, Any]


class IncidentRoutes:
    """Incident routes; ``undo_log`` keeps undone blocks for a restore."""

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
        incident = "/api/v1/incidents/{id}"
        return [
            web.get("/api/v1/incidents", self.get_incidents),
            web.get(incident, self.get_incident),
            web.post(f"{incident}/acknowledge", self.post_acknowledge),
            web.post(f"{incident}/resolve", self.post_resolve),
            web.post(f"{incident}/undo", self.post_undo),
            web.post(f"{incident}/restore", self.post_restore),
        ]

    # -- reading -----------------------------------------------------------------------

    async def get_incidents(self, request: web.Request) -> web.Response:
        """Open and recent incidents, newest first (``?state=``, ``?class=``)."""
        state = read_choice(request, "state", ("open", "resolved"))
        cls = request.query.get("class")
        found = self._backend.incidents()
        caused = self._blocks_by_incident(found)
        shown = [
            self._with_blocks(one, caused[one["id"]])
            for one in found
            if state in (None, one["state"]) and cls in (None, one["class"])
        ]
        return page_response(request, shown)

    def _blocks_by_incident(
        self, incidents: Sequence[Incident]
    ) -> dict[str, list[Block]]:
        blocks = (*self._backend.blocks(), *self._backend.enforcement_states())
        return self._backend.activity.incident_log.blocks_by_incident(incidents, blocks)

    def _with_blocks(
        self, incident: dict[str, Any], caused: list[Block]
    ) -> dict[str, Any]:
        """Add the number of blocks that the incident ``caused``, and the action on the
        subject.
        """
        subject = incident["subject"]
        kind, id_, tenant = subject["kind"], subject["id"], incident["tenant"]
        state = self._backend.enforcement_state(kind, id_, tenant)
        restriction = self._backend.activity.incident_log.restriction_of(
            kind, id_, tenant
        )
        since = None
        if state is not None:
            same = restriction is not None and restriction.action == state.action
            since = (
                restriction.since
                if restriction is not None and same
                else state.created_at
            )
        return incident | {
            "held": count_actions(caused),
            "standing": None if state is None else public_block(state),
            "standing_since": since,
        }

    async def get_incident(self, request: web.Request) -> web.Response:
        """One incident with its history, clients, timeline and impact."""
        incident = self._find(request.match_info["id"])
        activity, now = self._backend.activity, self._clock()
        history = activity.incident_log.history_of(incident["id"])
        caused = self._blocks_by_incident(self._backend.incidents())[incident["id"]]
        kind, id_ = incident["subject"]["kind"], incident["subject"]["id"]
        tenant = "*" if id_ == "*" else incident["tenant"]
        line = activity.pinned.line(kind, tenant, id_, now)
        keys = _clients_of(incident, caused, history)
        clients = self._clients(keys[:MAX_COMPARED])
        return json_response(
            self._with_blocks(incident, caused)
            | {
                "story": history.outputs,
                "steps": history.steps,
                "clients": clients[:MAX_CLIENTS],
                "clients_total": len(keys),
                "changes": self._audit_entries(incident, clients),
                "timeline": line,
                "impact": impact(line, start_of(incident), now),
            }
        )

    def _clients(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """Rows of clients, largest share of the excess first."""
        rows = [self._client(*key) for key in keys]
        add_shares(rows)
        # A request counts for its address and for its user: shares are per kind.
        return sorted(rows, key=lambda row: (-(row["share"] or 0.0), row["kind"]))

    def _client(self, kind: str, id_: str, tenant: str) -> dict[str, Any]:
        state = self._backend.enforcement_state(kind, id_, tenant)
        baseline = self._backend.baseline(kind, id_, tenant)
        row = self._backend.clients.row(kind, id_, tenant, self._clock())
        return {
            "kind": kind,
            "id": id_,
            "tenant": tenant,
            "standing": None if state is None else public_block(state),
            "requests_1m": None if baseline is None else baseline.requests_1m,
            "expected_1m": None if baseline is None else baseline.expected_1m,
            "peers_1m": None if baseline is None else baseline.peers_1m,
            "alike": None if baseline is None else baseline.alike,
            "requests_1h": 0 if row is None else row["requests"],
            "tokens_1h": 0 if row is None else row["tokens"],
            "usd_1h": 0.0 if row is None else row["usd"],
        }

    def _audit_entries(
        self, incident: Incident, clients: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        """Operator actions on the incident or its clients, newest first."""
        about = {("incident", incident["id"])}
        about |= {(one["kind"], one["id"]) for one in clients}
        since = start_of(incident)
        return [
            entry
            for entry in reversed(self._backend.activity.audit_log)
            if (entry.kind, entry.id) in about and entry.at >= since
        ]

    def _find(self, id_: str) -> dict[str, Any]:
        for incident in self._backend.incidents():
            if incident["id"] == id_:
                return incident
        raise AdminError(404, "not_found", "no such incident")

    # -- changing ----------------------------------------------------------------------

    async def post_acknowledge(self, request: web.Request) -> web.Response:
        """Mark the incident as being handled."""
        id_ = request.match_info["id"]
        set_audit_details(request, "acknowledge", "incident", id_)
        await self._backend.acknowledge_incident(id_, request[ROLE])
        return json_response(self._find(id_))

    async def post_resolve(self, request: web.Request) -> web.Response:
        """Close the incident."""
        id_ = request.match_info["id"]
        set_audit_details(request, "resolve", "incident", id_)
        await self._backend.resolve_incident(id_, request[ROLE])
        return json_response(self._find(id_))

    async def post_undo(self, request: web.Request) -> web.Response:
        """Remove all restrictions that detection made because of the incident."""
        id_ = request.match_info["id"]
        set_audit_details(request, "undo", "incident", id_)
        incident = self._find(id_)
        caused = self._blocks_by_incident(self._backend.incidents())[incident["id"]]
        for at in range(0, len(caused), _BATCH):
            batch = caused[at : at + _BATCH]
            # Logged per batch: if the store fails, the removed part can be restored.
            self._undo_log.remember(("incident", id_), caused[: at + len(batch)])
            await asyncio.gather(
                *(self._backend.remove_block(b.kind, b.id, b.tenant) for b in batch)
            )
        return json_response({"undone": len(caused)} | count_actions(caused))

    async def post_restore(self, request: web.Request) -> web.Response:
        """Restore what an undo removed in the last 15 minutes. 404: nothing to restore."""
        id_ = request.match_info["id"]
        set_audit_details(request, "restore", "incident", id_)
        blocks = await restore_blocks(self._backend, self._undo_log, ("incident", id_))
        return json_response({"restored": len(blocks)} | count_actions(blocks))


def _clients_of(
    incident: Incident, caused: list[Block], history: IncidentHistory
) -> list[Key]:
    """Clients of the incident: its worst, and those restricted now or earlier."""
    worst = [one for one in incident["subjects"] if one["kind"] != "tenant"]
    if not worst and incident["subject"]["kind"] != "tenant":
        worst = [incident["subject"]]
    keys = dict.fromkeys((c["kind"], c["id"], incident["tenant"]) for c in worst)
    for block in caused:
        keys.setdefault((block.kind, block.id, block.tenant or incident["tenant"]))
    for output in history.outputs:
        if output.type.startswith("client."):
            keys.setdefault((output.subject.kind, output.subject.id, output.tenant))
    return list(keys)
