"""One gateway before the mock upstreams, the client's sockets, and how a case is judged."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self

import msgspec

from loadtests.rig.billing import SERVERS, Bill
from loadtests.rig.upstreams import Upstreams
from tests.gateway_process import Gateway, key_hash

CAP, CHOICES = 1000, 2
TIGHT = 20_000
OVERDRAFT = 0.1
# An answer whose usage nobody stated is counted by a tokenizer.
ESTIMATE = 0.1
WAIT_S = 4.0
# Keys of each policy's tenant.
KEYS = 300

POLICIES = {
    # Limits of tokens and money that no case reaches.
    "open": "",
    # The same, and the whole account of the provider.
    "wide": 'endpoints = ["*"]',
    "capped": f"caps = {{ max_tokens = {CAP}, n = {CHOICES} }}",
    "clamped": f"caps = {{ max_tokens = {CAP}, n = {CHOICES}, clamp = true }}",
    "rules": 'unknown_price = "deny"\n'
    '[[policy.rules.model]]\nmatch = ["gpt-5-pro*"]\n'
    'limits = [{ per = "user", requests = 1, window = "1h" }]',
    "tight": f'limits = [{{ per = "user", tokens = {TIGHT}, window = "1h" }}]',
    "cut": f'limits = [{{ per = "user", tokens = {TIGHT}, window = "1h" }}]\n'
    'overrun = "cut"',
    "few": 'limits = [{ per = "user", requests = 3, window = "1h" }]',
    "named": 'models = { deny = ["gpt-5-pro*"] }\nallow = ["user:ops"]\n'
    'limits = [{ per = "user", requests = 3, window = "1h" }]',
    "body": 'user_from = ["body", "credential"]\nallow = ["user:ops"]\n'
    'limits = [{ per = "user", requests = 3, window = "1h" }, '
    '{ per = "tenant+model", requests = 3, window = "1h" }]',
}


def key_of(policy: str, number: int) -> str:
    """A key of the policy's tenant."""
    return f"tg-{policy}-{number:03d}"


def configuration(ports: dict[str, int]) -> str:
    """The gateway's configuration."""
    parts = [
        f'[[upstream]]\nname = "{name}"\nurl = "http://127.0.0.1:{ports[name]}"\n'
        f'prefix = "/{name}"\nstrip_prefix = true\nwebsocket = true\n'
        f'api_key = "sk-provider"\n'
        for name in SERVERS
    ]
    parts.append(
        "[policy.default]\nlimits = [{ per = 'user', tokens = 500_000_000, "
        "window = '1h' }, { per = 'user', usd = 100_000, window = 'day' }, "
        "{ per = 'tenant', usd = 100_000, window = 'day' }]\n"
        "[policy.default.anomaly]\nenabled = false\n"
        '[policy.default.prices."llama3"]\ninput = 1.0\noutput = 2.0\n'
    )
    for name, lines in POLICIES.items():
        parts.append(f"[policy.{name}]\n{lines}\n")
        hashes = [key_hash(key_of(name, number)) for number in range(KEYS)]
        parts.append(
            f'[[tenant]]\nname = "{name}"\npolicy = "{name}"\n'
            f"api_keys = {json.dumps(hashes)}\n"
        )
    return "\n".join(parts)


class Reply(msgspec.Struct):
    """An answer of the gateway: its status (0: none), head and body as on the wire."""

    status: int
    head: bytes
    body: bytes


Attack = Callable[["Client"], Awaitable[Any]]


class Known(msgspec.Struct, frozen=True):
    """What the documentation admits: its sentence, and the faults that it excuses. Any
    other fault of the same case evades.
    """

    sentence: str
    faults: frozenset[str] = frozenset({"tokens", "usd"})


class Case(msgspec.Struct):
    """One way to have work done that is not counted."""

    kind: str
    name: str
    attack: Attack
    policy: str = "open"
    server: str = "openai"
    # Share of the billed tokens that a count without stated usage may miss.
    slack: float = 0.0
    known: Known | None = None
    # The store must hold what was billed against the user's limits, though no record
    # states it.
    held: bool = False
    # Most answers that may be billed (limits of requests).
    most: int | None = None
    # Most tokens that may be billed (limits of tokens).
    most_tokens: int | None = None
    id: str = ""
    number: int = 0


class Result(msgspec.Struct):
    """What a case came to."""

    case: str
    kind: str
    name: str
    server: str
    policy: str
    outcome: str  # held, known, evaded
    statuses: list[int]
    billed_tokens: int
    recorded_tokens: int
    billed_usd: float
    recorded_usd: float
    reason: str = ""


class Client:
    """The sockets of one case."""

    def __init__(self, case: Case, port: int) -> None:
        self.case = case
        self.port = port
        self.key = key_of(case.policy, case.number)
        self.statuses: list[int] = []
        self.troubles: list[str] = []
        self._count = 0

    @property
    def request_id(self) -> str:
        """The id of a new request."""
        self._count += 1
        return f"{self.case.id}-{self._count}"

    def expect(self, *, holds: bool, trouble: str) -> None:
        """Note a fault that tokens do not show."""
        if not holds:
            self.troubles.append(trouble)

    def head(
        self,
        method: str,
        path: str,
        fields: list[str],
        *,
        length: int | None,
        key: str | None = None,
        kind: str = "application/json",
        close: bool = True,
    ) -> bytes:
        """A request head; ``fields`` are whole lines."""
        key = self.key if key is None else key
        target = f"/{self.case.server}{path}"
        lines = [
            f"{method} {target} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            f"X-Request-Id: {self.request_id}",
            *([f"Authorization: Bearer {key}"] if key else []),
            *([f"Content-Type: {kind}"] if kind else []),
            *([f"Content-Length: {length}"] if length is not None else []),
            *(["Connection: close"] if close else []),
            *fields,
        ]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection."""
        return await asyncio.open_connection("127.0.0.1", self.port, limit=2**26)

    async def post(
        self,
        path: str,
        body: Any = None,
        fields: list[str] | None = None,
        *,
        method: str = "POST",
        knobs: str = "",
        leave: bytes | None = None,
        after_s: float | None = None,
        **more: Any,
    ) -> Reply:
        """Send a request. ``leave``: disconnect once the answer holds these bytes;
        ``after_s``: disconnect after this time.
        """
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
        lines = list(fields or ())
        if knobs:
            lines.append(f"x-mimic: {knobs}")
        length = None if body is None else len(body)
        wire = self.head(method, path, lines, length=length, **more) + (body or b"")
        return await self.raw(wire, leave=leave, after_s=after_s)

    async def raw(
        self, wire: bytes, *, leave: bytes | None = None, after_s: float | None = None
    ) -> Reply:
        """Send these bytes on a connection of their own; all that comes back."""
        reader, writer = await self.open()
        seen = bytearray()
        with contextlib.suppress(TimeoutError, ConnectionError):
            writer.write(wire)
            async with asyncio.timeout(after_s or WAIT_S):
                while data := await reader.read(65536):
                    seen += data
                    if leave is not None and leave in seen:
                        break
        writer.transport.abort()
        return self.reply(bytes(seen))

    def reply(self, seen: bytes) -> Reply:
        """The reply in these bytes, interim answers left out."""
        while seen.startswith(b"HTTP/1.1 1") and not seen.startswith(b"HTTP/1.1 101"):
            seen = seen.partition(b"\r\n\r\n")[2]
        top, _, body = seen.partition(b"\r\n\r\n")
        words = top.split(b" ", 2)
        status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        self.statuses.append(status)
        return Reply(status, top, body)


class Stage:
    """The upstreams and the gateway of a run."""

    def __init__(self, workers: int, store: str) -> None:
        self.upstreams = Upstreams()
        self._workers, self._store = workers, store
        self.gateway: Gateway

    async def __aenter__(self) -> Self:
        await self.upstreams.start()
        text = configuration(self.upstreams.ports)
        self.gateway = Gateway(text, store=self._store, workers=self._workers)
        await asyncio.to_thread(self.gateway.start)
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.gateway.stop, check=not any(error))
        self.upstreams.stop()

    async def run(self, case: Case) -> Client:
        """Attack; exceptions of the client's sockets are part of it."""
        client = Client(case, self.gateway.port)
        try:
            async with asyncio.timeout(4 * WAIT_S):
                await case.attack(client)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            pass
        return client

    async def settle(self) -> list[dict[str, Any]]:
        """All records, when no more come."""
        last = -1
        for _ in range(100):
            found = await asyncio.to_thread(self.gateway.records)
            open_now = self.gateway_inflight()
            if len(found) == last and open_now == 0:
                return found
            last = len(found)
            await asyncio.sleep(0.4)
        return found

    async def used(self, case: Case, records: list[dict[str, Any]]) -> dict[str, float]:
        """What the limits of the case's user have counted, by meter."""
        used: dict[str, float] = {}
        for user in {record["user"] for record in records}:
            path = f"/api/v1/clients/user/{user}?tenant={case.policy}"
            found = await asyncio.to_thread(self.gateway.api, "GET", path)
            for limit in found["limits"]:  # named user.tokens.1h
                name = limit["limit"].split(".")[1]
                used[name] = used.get(name, 0) + limit["used"]
        return used

    def gateway_inflight(self) -> int:
        """Exchanges that are open."""
        found = self.gateway.metrics()
        return int(
            sum(v for n, v in found.items() if n.startswith("tidegate_inflight"))
        )


def judge(
    client: Client,
    ledger_bills: list[Bill],
    records: list[dict[str, Any]],
    used: dict[str, float],
) -> Result:
    """Compare what was billed with the records of a case. ``used``: by meter, what the
    limits of its user have counted.
    """
    case = client.case
    billed = sum(b.prompt + b.completion for b in ledger_bills)
    recorded = sum(r["total_tokens"] for r in records)
    billed_usd = sum(b.usd for b in ledger_bills)
    recorded_usd = sum(r["usd"] for r in records)
    # By kind of fault.
    faults: list[tuple[str, str]] = [("other", text) for text in client.troubles]
    least = 1 - case.slack
    if billed * least > recorded + 32 * bool(case.slack):
        faults.append(("tokens", f"{billed - recorded} tokens not counted"))
    if billed_usd * least > recorded_usd * 1.001 + 1e-6 + 1e-3 * bool(case.slack):
        faults.append(("usd", f"${billed_usd - recorded_usd:.4f} not counted"))
    if case.held:
        for meter, least_used in (("tokens", billed), ("usd", billed_usd)):
            if used.get(meter, 0.0) < least_used * 0.999:
                text = f"{used.get(meter, 0)} of {least_used} {meter} held"
                faults.append(("held", text))
    if case.policy in ("capped", "clamped"):
        faults += [
            (
                "caps",
                f"{b.completion} tokens of {b.choices} choices in spite of the caps",
            )
            for b in ledger_bills
            if b.choices > CHOICES or b.completion > CAP * b.choices
        ]
    if case.policy != "wide" and any(b.account for b in ledger_bills):
        faults.append(("account", "reached the provider's account"))
    served = len(ledger_bills)
    if case.most is not None and served > case.most:
        faults.append(("answers", f"{served} answers where {case.most} may be"))
    if case.most_tokens is not None and billed > case.most_tokens:
        faults.append(("limit", f"{billed} tokens where {case.most_tokens} may be"))
    outcome = "held"
    if faults:
        excused = case.known.faults if case.known else frozenset()
        outcome = "known" if {kind for kind, _ in faults} <= excused else "evaded"
    return Result(
        case.id,
        case.kind,
        case.name,
        case.server,
        case.policy,
        outcome,
        client.statuses,
        billed,
        recorded,
        round(billed_usd, 6),
        round(recorded_usd, 6),
        "; ".join(text for _, text in faults),
    )
