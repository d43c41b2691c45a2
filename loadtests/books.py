"""Token accounting stays exact through worker, store and client failures.

    python -m loadtests.books [--traffic 8] [--freeze 10]

Starts a mock LLM API that counts tokens itself, and a gateway with two workers on the
embedded store. While clients send requests, leave early and meet resetting upstreams, a
worker is killed and the store is frozen, resumed and killed. Then every user's tokens in
the store must equal the count of the upstream; an exchange open on the killed worker
stays charged at its reservation. Prints one JSON object; exit code 1 when counts differ.

Added latency is ``overhead_ms`` of the records (it includes the wait for the store), so
a slow upstream on a busy machine does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from tests.gateway_process import (
    Gateway,
    MockLLM,
    key_hash,
    running_gateway,
    running_mock,
    until,
)

TENANT_NAMES = ("team0", "team1", "team2")
USERS = 4
# Users of one held stream each; all of them on the same worker: once in 500 runs.
DOOMED = 10
# No call of these clients reserves more: a prompt of 60 words, 60 tokens of answer.
RESERVATION_MAX = 300
# A reservation expects an average answer; the actual one may be longer.
ANSWER_MAX = 60
LEASE_S = 63.0
# A held stream: 1 + 3 + 3 for the format, two words, five tokens of answer.
HELD_TOTAL = 14
# A held stream that its client leaves costs its cap of 60 tokens; 5 were sent.
HELD_UNSENT = 55
CONFIG = """
[[upstream]]
name = "mock"
url = "{url}"
[policy.default]
limits = [
  {{ per = "user", tokens = 1_000_000_000, window = "1d" }},
  {{ per = "user", requests = 1_000_000_000, window = "day" }},
  {{ per = "user", concurrent = 1000 }},
  {{ per = "tenant", tokens = 1_000_000_000, window = "1d" }},
  {{ per = "tenant", concurrent = 1000 }},
]
"""
# A whole answer is settled and recorded within this time, on a busy machine too.
SETTLE_S = 1.0
# Calls sent later than this after the kill must succeed.
KILL_S = 1.0
# Wait at the end for pending statistics and records.
BALANCED_S = 20.0


class Failure(Exception):  # noqa: N818 - what was found, not a fault of the program
    """The counts differ."""


class Client:
    """One user: its key, its id in the gateway, and its calls."""

    def __init__(self, tenant: str, number: int) -> None:
        self.tenant = tenant
        self.key = f"sk-{tenant}-{number}"
        self.user = ""
        self.holds = asyncio.Event()  # its held stream has sent all its tokens
        self.broken: list[tuple[float, float]] = []  # when it was sent, when it broke
        self.opened: dict[str, float] = {}  # request id -> when it was sent
        # ... -> when its answer with usage was complete
        self.stated: dict[str, float] = {}


class Visitors:
    """Clients of every kind, which send calls in a few loops."""

    def __init__(self, gateway: Gateway, session: aiohttp.ClientSession) -> None:
        self.url = gateway.url
        self.session = session
        self.statuses: dict[int, int] = {}
        self.random = random.Random(7)
        names = TENANT_NAMES
        self.clients = [Client(name, n) for name in names for n in range(USERS)]
        self.doomed = [Client(names[n % len(names)], 100 + n) for n in range(DOOMED)]
        self.probe = Client(names[0], 500)
        self.everyone = [*self.clients, *self.doomed, self.probe]
        self.probes: list[tuple[float, str]] = []
        self.number = 0
        self.stopping = False

    async def ask(
        self,
        client: Client,
        path: str = "/v1/chat/completions",
        *,
        leave_after: int | None = None,
        request_id: str = "",
        **asked: Any,
    ) -> None:
        """One call, read to its end or left after so many events."""
        mock = {k: v for k, v in asked.items() if k.startswith("x-mock")}
        body = {k: v for k, v in asked.items() if k not in mock}
        text = " ".join(["river"] * self.random.randint(1, 60))
        messages = [{"role": "user", "content": text}]
        headers = {"Authorization": f"Bearer {client.key}"} | mock
        self.number += 1
        headers["x-request-id"] = id_ = request_id or f"visit-{self.number}"
        client.opened[id_] = time.monotonic()
        asked_body = {"model": "gpt-4o", "messages": messages, "max_tokens": 60} | body
        async with self.session.post(
            self.url + path, json=asked_body, headers=headers
        ) as answer:
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
            events = 0
            async for line in answer.content:
                events += b"tide" in line
                if leave_after is not None and events >= leave_after:
                    answer.close()
                    return
        if "x-mock-usage" not in asked:
            client.stated[id_] = time.monotonic()

    # -- kinds of visits --------------------------------------------------------------

    async def whole(self, client: Client) -> None:
        await self.ask(client, **{"x-mock-tokens": str(self.random.randint(1, 60))})

    async def stream(self, client: Client) -> None:
        await self.ask(client, stream=True, **{"x-mock-chunk-ms": "3"})

    async def stream_unstated(self, client: Client) -> None:
        await self.ask(client, stream=True, **{"x-mock-usage": "none"})

    async def anthropic(self, client: Client) -> None:
        await self.ask(client, "/v1/messages", stream=True)

    async def leaver(self, client: Client) -> None:
        seen = self.random.randint(1, 9)
        await self.ask(
            client, leave_after=seen, stream=True, **{"x-mock-hold": str(seen)}
        )

    async def anthropic_leaver(self, client: Client) -> None:
        hold = {"x-mock-hold": "4"}
        await self.ask(client, "/v1/messages", leave_after=4, stream=True, **hold)

    async def impatient(self, client: Client) -> None:
        """A call whose client leaves while the upstream is silent."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await self.ask(client, **{"x-mock-delay-ms": "5000"})

    async def reset(self, client: Client) -> None:
        """The upstream resets mid-stream; the client sees a broken answer."""
        try:
            await self.ask(client, stream=True, **{"x-mock-reset": "5"})
        except aiohttp.ClientPayloadError:
            return
        msg = "a reset stream ended as if it were whole"
        raise Failure(msg)

    async def refused(self, client: Client) -> None:
        """The upstream answers 418, so that a 5xx always comes from the gateway."""
        await self.ask(client, **{"x-mock-status": "418"})

    async def hold(self, client: Client) -> None:
        """A stream that stays open after its fifth token until it is cut."""
        body = {"model": "gpt-4o", "stream": True, "max_tokens": 60}
        messages = [{"role": "user", "content": "hello boat"}]
        headers = {"Authorization": f"Bearer {client.key}", "x-mock-hold": "5"}
        asked_at = time.monotonic()
        try:
            async with self.session.post(
                f"{self.url}/v1/chat/completions",
                json=body | {"messages": messages},
                headers=headers,
            ) as answer:
                events = 0
                async for line in answer.content:
                    events += b"tide" in line
                    if events == 5:
                        client.holds.set()
        except (aiohttp.ClientError, ConnectionError):
            client.broken.append((asked_at, time.monotonic()))

    # -- loops ------------------------------------------------------------------------

    async def roam(self) -> None:
        """Calls of random kinds until stopped."""
        kinds: list[Callable[[Client], Awaitable[None]]] = [
            self.whole, self.stream, self.stream_unstated, self.anthropic, self.leaver,
            self.anthropic_leaver, self.impatient, self.reset, self.refused,
        ]  # fmt: skip
        while not self.stopping:
            client = self.random.choice(self.clients)
            kind = self.random.choices(kinds, (6, 4, 3, 3, 2, 2, 1, 1, 1))[0]
            asked_at = time.monotonic()
            try:
                await kind(client)
            except (aiohttp.ClientError, ConnectionError):
                client.broken.append((asked_at, time.monotonic()))
                await asyncio.sleep(0.05)
            await asyncio.sleep(self.random.uniform(0.005, 0.03))

    async def send_probes(self) -> None:
        """A short probe call every 10 ms; its record has the overhead."""
        number = 0
        while not self.stopping:
            number += 1
            id_ = f"probe-{number}"
            asked_at = time.monotonic()
            self.probes.append((asked_at, id_))
            try:
                await self.ask(self.probe, request_id=id_, **{"x-mock-tokens": "1"})
            except (aiohttp.ClientError, ConnectionError):
                self.probe.broken.append((asked_at, time.monotonic()))
            await asyncio.sleep(0.01)


class Run:
    """One gateway through all faults."""

    def __init__(self, gateway: Gateway, mock: MockLLM, traffic_s: float) -> None:
        self.gateway, self.mock, self.traffic_s = gateway, mock, traffic_s
        self.found: dict[str, Any] = {}
        self.killed_at = 0.0
        self.frozen_at = self.thawed_at = 0.0
        # What a doomed user's open stream holds, by key.
        self.reservations: dict[str, int] = {}

    async def go(self, freeze_s: float) -> None:
        """Run all steps in order; figures are in ``found``."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout
        ) as session:
            self.visitors = visitors = Visitors(self.gateway, session)
            await self._learn_users()
            async with asyncio.TaskGroup() as group:
                for loop in (
                    *(visitors.roam() for _ in range(4)),
                    visitors.send_probes(),
                ):
                    group.create_task(loop)
                await asyncio.sleep(self.traffic_s)
                await self._kill_worker(group)
                await asyncio.sleep(self.traffic_s)
                await self._freeze_store(freeze_s)
                await asyncio.sleep(self.traffic_s)
                await self._kill_store()
                await asyncio.sleep(self.traffic_s)
                visitors.stopping = True
        await asyncio.to_thread(self._await_calm)

    async def _learn_users(self) -> None:
        """Learn the user id of each key from one call."""
        for client in self.visitors.everyone:
            await self.visitors.ask(client, request_id=f"first-{client.key}")
        self.ids = await asyncio.to_thread(until, self._ids, 30.0, "the first records")
        for client in self.visitors.everyone:
            client.user = self.ids[f"first-{client.key}"]

    def _ids(self) -> dict[str, str] | None:
        found = {r["request_id"]: r["user"] for r in self.gateway.records()}
        return found if len(found) == len(self.visitors.everyone) else None

    # -- faults -----------------------------------------------------------------------

    async def _kill_worker(self, group: asyncio.TaskGroup) -> None:
        """SIGKILL one worker while streams are open on both."""
        doomed = self.visitors.doomed
        before = await asyncio.to_thread(self._used, doomed)
        held = [group.create_task(self.visitors.hold(client)) for client in doomed]
        async with asyncio.timeout(60):
            for client in doomed:
                await client.holds.wait()
        after = await asyncio.to_thread(self._used, doomed)
        self.reservations = {key: after[key] - before[key] for key in after}
        victim = self.gateway.children("worker")[0].pid
        self.killed_at = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        await asyncio.to_thread(until, lambda: self._replaced(victim), 30.0, "worker")
        self.found["worker_back_s"] = round(time.monotonic() - self.killed_at, 2)
        for task in held:
            task.cancel()
        self.found["cut_by_kill"] = sum(bool(client.broken) for client in doomed)

    def _replaced(self, victim: int) -> bool:
        try:
            workers = self.gateway.status()["workers"]
        except OSError:
            return False
        return all(w["ready"] and w["pid"] != victim for w in workers)

    async def _freeze_store(self, freeze_s: float) -> None:
        """SIGSTOP the store, wait, SIGCONT."""
        engine = self.gateway.children("engine")[0].pid
        self.frozen_at = time.monotonic()
        os.kill(engine, signal.SIGSTOP)
        await asyncio.sleep(freeze_s)
        os.kill(engine, signal.SIGCONT)
        self.thawed_at = time.monotonic()
        await asyncio.to_thread(until, self._store_used, 30.0, "the store is used")
        self.found["back_after_freeze_s"] = round(time.monotonic() - self.thawed_at, 2)

    async def _kill_store(self) -> None:
        """SIGKILL the store; the supervisor restarts it."""
        began = time.monotonic()
        os.kill(self.gateway.children("engine")[0].pid, signal.SIGKILL)
        await asyncio.sleep(0.7)  # the workers' statistics are up to 0.5 s old
        await asyncio.to_thread(until, self._store_used, 30.0, "the store is used")
        self.found["back_after_kill_s"] = round(time.monotonic() - began, 2)

    def _store_used(self) -> bool:
        """Every worker uses the store again and has replayed its log."""
        stats = [worker["stats"] for worker in self.gateway.status()["workers"]]
        return all(s["store_up"] and not s.get("journal") for s in stats)

    def _await_calm(self) -> None:
        """Wait until statistics newer than the last answer show no open exchange."""
        time.sleep(0.7)
        metrics = self.gateway.metrics
        until(lambda: not metrics()["tidegate_inflight"], 60.0, "nothing in flight")
        until(self._store_used, 60.0, "the store is used")

    # -- accounting -------------------------------------------------------------------

    def _limits(self, kind: str, id_: str) -> dict[str, int]:
        rows = self.gateway.api("GET", f"/api/v1/clients/{kind}/{id_}")["limits"]
        return {row["limit"]: int(row["used"]) for row in rows}

    def _used(self, clients: list[Client]) -> dict[str, int]:
        """Tokens of each client's user in the store."""
        found = {}
        for client in clients:
            found[client.key] = self._limits("user", client.user)["user.tokens.1d"]
        return found

    def balance(self, *, leases: bool) -> list[str]:
        """The differences that remain after waiting for the last settlements."""
        end = time.monotonic() + BALANCED_S
        while (wrong := self.check(leases=leases)) and time.monotonic() < end:
            time.sleep(1.0)
        return wrong

    def check(self, *, leases: bool) -> list[str]:
        """The differences, one sentence each; figures go to ``found``."""
        self.found["open_at_kill"] = 0
        records = self.gateway.records()
        self.recorded = {r["request_id"] for r in records}
        self.recorded_tokens: Counter[str] = Counter()
        for record in records:
            self.recorded_tokens[record["user"]] += record["total_tokens"]
        ledger = self.mock.ledger()
        everyone = self.visitors.everyone
        used = self._used(everyone)
        wrong = []
        for client in everyone:
            excess = used[client.key] - ledger[client.key]["total"]
            wrong += self._judge(client, excess, ledger[client.key])
        for tenant in sorted({client.tenant for client in everyone}):
            users = sum(used[c.key] for c in everyone if c.tenant == tenant)
            books = self._limits("tenant", tenant)
            if books["tenant.tokens.1d"] != users:
                wrong.append(f"{tenant} has {books}, its users {users}")
        wrong += self._check_leases(everyone) if leases else []
        failed = {s: n for s, n in self.visitors.statuses.items() if s >= 500}
        if failed:
            wrong.append(f"clients saw {failed}")
        self.found |= {
            "requests": sum(self.visitors.statuses.values()),
            "statuses": self.visitors.statuses,
            "tokens": sum(used.values()),
            "upstream_tokens": sum(account["total"] for account in ledger.values()),
        }
        return wrong

    def _judge(self, client: Client, excess: int, account: dict[str, int]) -> list[str]:
        """Compare with the upstream's count; an exchange open on the killed worker counts
        as its reservation, which may be less than what was sent.
        """
        broken = [
            asked_at
            for asked_at, at in client.broken
            if not (asked_at - KILL_S < self.killed_at <= at)
        ]
        if broken:
            return [f"{client.key}: {len(broken)} calls broke without a cause"]
        if client in self.visitors.doomed:
            # The cut stream cost the upstream its prompt and the tokens it had sent.
            cut = bool(client.broken)
            due = self.reservations[client.key] - HELD_TOTAL if cut else HELD_UNSENT
            return [] if excess == due else [f"{client.key}: {excess} over, not {due}"]
        lost = [at for id_, at in client.opened.items() if id_ not in self.recorded]
        late = [at for at in lost if at - self.killed_at > KILL_S]
        late += [
            at
            for id_, at in client.stated.items()
            if id_ not in self.recorded and at < self.killed_at - SETTLE_S
        ]
        if late:
            return [f"{client.key}: {len(late)} exchanges without a record"]
        self.found["open_at_kill"] += len(lost)
        charged = account["total"] + excess
        if not lost and charged != self.recorded_tokens[client.user]:
            stated = self.recorded_tokens[client.user]
            return [f"{client.key}: {charged} tokens, its records have {stated}"]
        calls = self._limits("user", client.user)["user.requests.day"]
        if not lost and calls != len(client.opened):
            return [f"{client.key}: {calls} requests, not {len(client.opened)}"]
        # An answer that its client left costs its reservation, more than was sent.
        most = (len(lost) + account["cut"]) * RESERVATION_MAX
        if not -len(lost) * ANSWER_MAX <= excess <= most:
            return [f"{client.key}: {excess} over, {len(lost)} cut; {account}"]
        return []

    def _check_leases(self, everyone: list[Client]) -> list[str]:
        left = {
            client.key: open_
            for client in everyone
            if (open_ := self._limits("user", client.user)["user.concurrent"])
        }
        self.found["leases_left"] = sum(left.values())
        return [f"leases left over: {left}"] if left else []

    def overheads(self) -> None:
        """Overhead of probes, ms: before, at and during the freeze."""
        by_id = {r["request_id"]: r["overhead_ms"] for r in self.gateway.records()}
        probes = [(at, by_id[id_]) for at, id_ in self.visitors.probes if id_ in by_id]
        opened = self.frozen_at + 0.3
        phases = {
            "before": [ms for at, ms in probes if at < self.killed_at],
            "first_frozen": [ms for at, ms in probes if self.frozen_at <= at < opened],
            "frozen": [ms for at, ms in probes if opened <= at < self.thawed_at],
        }
        for name, values in phases.items():
            ordered = sorted(values) or [0.0]
            self.found[f"overhead_{name}_ms"] = {
                "median": round(statistics.median(ordered), 2),
                "p99": round(ordered[int(len(ordered) * 0.99)], 2),
                "max": round(ordered[-1], 2),
                "calls": len(values),
            }


def config(url: str) -> str:
    """Policy and tenants for the visitors of ``url``'s gateway."""
    lines = [CONFIG.format(url=url)]
    for tenant in TENANT_NAMES:
        numbers = (*range(USERS), *range(100, 100 + DOOMED), 500)
        keys = ", ".join(f'"{key_hash(f"sk-{tenant}-{n}")}"' for n in numbers)
        lines.append(f'[[tenant]]\nname = "{tenant}"\napi_keys = [{keys}]')
    return "\n".join(lines)


def run(traffic_s: float, freeze_s: float, *, leases: bool) -> dict[str, Any]:
    """Run everything; ``wrong`` lists differences. ``leases``: wait until leases of the
    killed worker have expired and count the remaining ones.
    """
    with running_mock() as mock:
        options: dict[str, Any] = {"store": "embedded:./store", "workers": 2}
        with running_gateway(config(mock.url), **options) as gateway:
            one = Run(gateway, mock, traffic_s)
            asyncio.run(one.go(freeze_s))
            if leases:
                time.sleep(max(0.0, one.killed_at + LEASE_S - time.monotonic()))
            one.found["wrong"] = one.balance(leases=leases)
            one.overheads()
            return one.found


def main() -> int:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description="do the books balance?")
    parser.add_argument("--traffic", type=float, default=8.0, help="seconds between")
    parser.add_argument("--freeze", type=float, default=10.0, help="seconds of SIGSTOP")
    chosen = parser.parse_args()
    found = run(chosen.traffic, chosen.freeze, leases=True)
    print(json.dumps(found, indent=1))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
