"""An in-memory admin backend, and a client for the app built on it."""

from __future__ import annotations

import traceback

import aiohttp

from gateway.admin.activity import ActivityFeed
from gateway.admin.clients import ClientTable
from gateway.admin.errors import AdminError
from gateway.admin.metrics import Metrics
from gateway.admin.sessions import AdminTokens
from gateway.core.model import Block

NOW = 1_763_916_387.0


def make_incident(**changes):
    """An incident with the fields that the admin API uses."""
    return {
        "id": "inc_a",
        "state": "open",
        "class": "scraping",
        "subject": {"kind": "client_ip", "id": "203.0.113.9"},
        "subjects": [],
        "tenant": "acme",
        "window": {
            "from": "2025-11-23T16:45:00.000Z",
            "to": "2025-11-23T16:46:00.000Z",
        },
        "opened_at": "2025-11-23T16:46:00.000Z",
        "observed": {},
        "expected": {},
    } | changes


class FakeBackend:
    """An in-memory ``AdminBackend``. ``lesser``: tagged, throttled, allowed subjects."""

    def __init__(self):
        self.metrics = Metrics("1.2.3")
        self.clients = ClientTable()
        self.activity = ActivityFeed(1, dict)
        self.tokens = AdminTokens()
        self.reasons = []
        self.list: list[Block] = []
        self.lesser: list[Block] = []
        self.resets = []
        self.full = False
        self.known = []
        self.failures = []

    def log_failure(self, request_id, method, path):
        self.failures.append((request_id, method, path, traceback.format_exc()))

    def not_ready(self):
        return self.reasons

    def status(self):
        return {"version": "1.2.3"}

    def policies(self):
        return [{"name": "default"}]

    def blocks(self):
        return self.list

    def enforcement_states(self):
        return self.lesser

    def enforcement_state(self, kind, id_, tenant):
        found = (
            block
            for block in (*self.list, *self.lesser)
            if (block.kind, block.id) == (kind, id_) and block.tenant in (None, tenant)
        )
        return next(found, None)

    def baseline(self, kind, id_, tenant, *, history=False):
        return None

    def alerts(self):
        return {"targets": [], "pending": 0, "items": []}

    def silences(self):
        return []

    async def add_silence(self, silence):
        return silence

    async def remove_silence(self, id_):
        raise AdminError(404, "not_found", "no such silence")

    async def resend_alert(self, id_):
        raise AdminError(404, "not_found", "no such message")

    async def test_alert(self, target):
        raise AdminError(404, "not_found", "no such target")

    async def acknowledge_incident(self, id_, by):
        raise AdminError(404, "not_found", "no such incident")

    async def resolve_incident(self, id_, by):
        raise AdminError(404, "not_found", "no such incident")

    def audit(self, entry):
        self.activity.on_change(entry)

    def incidents(self):
        return self.known

    async def add_block(self, block):
        if self.full:
            raise AdminError(507, "too_many_blocks", "full")
        (self.list if block.action == "block" else self.lesser).append(block)

    async def remove_block(self, kind, id_, tenant):
        before = len(self.list) + len(self.lesser)
        gone = (kind, id_, tenant)
        self.list = [b for b in self.list if (b.kind, b.id, b.tenant) != gone]
        self.lesser = [b for b in self.lesser if (b.kind, b.id, b.tenant) != gone]
        return len(self.list) + len(self.lesser) < before

    async def limits_of(self, kind, id_, tenants):
        return [{"limit": "user.requests.1m", "tenants": list(tenants)}]

    async def reset(self, kind, id_, tenant):
        self.resets.append((kind, id_, tenant))
        return 2

    async def reload(self):
        raise AdminError(422, "bad_config", "tidegate.toml:3: x: no such key")


class ApiClient:
    """Sends requests to the running app."""

    def __init__(self, session, base):
        self.session = session
        self.base = base

    async def __call__(self, method, path, **options):
        url = self.base + path
        async with self.session.request(
            method, aiohttp.client.URL(url, encoded=True), **options
        ) as answer:
            body = await answer.read()
            is_json = "json" in answer.headers.get("content-type", "")
            return answer.status, await answer.json() if is_json else body.decode()
