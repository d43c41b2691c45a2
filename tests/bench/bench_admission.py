"""Cost of identity and admission per request, in microseconds of one core.

Run: python tests/bench/bench_admission.py
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.core.model import Block, Limit, Policy, Tenant, Usage
from gateway.http.head import parse_request_head
from gateway.identity.cidr import Networks
from gateway.identity.identify import Identifier, Identity, with_body_user
from gateway.limits.admission import (
    actual_costs,
    oversized,
    ratelimit_headers,
    refuse_limit,
    reserve_costs,
)
from gateway.limits.gate import Gate
from gateway.limits.plans import PlanBook
from gateway.limits.ports import Reserved

MINUTE = 60_000_000
NOW = 1_795_000_000.0
BIG = 10**9
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: gw\r\n%b"
    b"Authorization: Bearer sk-%06d\r\nContent-Type: application/json\r\n\r\n"
)


def measure(name: str, act: Callable[[], object], times: int = 100_000) -> None:
    """The fastest of five runs, to exclude other load."""
    best = min(_run(act, times // 5) for _ in range(5))
    print(f"{name:<44}{best:8.2f} us")


def _run(act: Callable[[], object], times: int) -> float:
    loop = range(times)
    start = time.process_time()
    for _ in loop:
        act()
    return (time.process_time() - start) / times * 1e6


def main() -> None:
    digest = "sha256:" + hashlib.sha256(b"sk-000001").hexdigest()
    limits = (
        Limit("client_ip", "requests", BIG, MINUTE),
        Limit("user", "tokens", BIG, MINUTE),
        Limit("user", "concurrent", BIG),
        Limit("tenant", "usd", BIG, calendar="day"),
    )
    tenants = [Tenant("acme", Policy("p", limits=limits), (digest,))]
    identifier = Identifier(tenants, b"s" * 32, trusted=Networks(["10.0.0.0/8"]))
    head = parse_request_head(HEAD % (b"", 1))
    behind = parse_request_head(HEAD % (b"X-Forwarded-For: 203.0.113.9\r\n", 1))
    strangers = [parse_request_head(HEAD % (b"", number)) for number in range(30_000)]
    turn = iter(strangers * 10)
    measure("identify, known", lambda: identifier.identify("1.1.1.1", head, NOW))
    measure(
        "identify, known, behind a proxy",
        lambda: identifier.identify("10.0.0.1", behind, NOW),
    )
    measure(
        "identify, new credential",
        lambda: identifier.identify("1.1.1.1", next(turn), NOW),
        20_000,
    )

    who = identifier.identify("1.1.1.1", head, NOW)
    assert isinstance(who, Identity)
    open_to_all = Identifier(
        [Tenant("t", Policy("p", limits=limits, user_from=("body",)))], b"s"
    ).identify("1.1.1.1", head, NOW)
    assert isinstance(open_to_all, Identity)
    book = PlanBook(b"tidegate:")
    plan = book.plan(who, "gpt-4o", NOW)
    users = iter([with_body_user(open_to_all, f"user{n}") for n in range(10_000)])
    measure("plan, known", lambda: book.plan(who, "gpt-4o", NOW))
    measure(
        "plan, built for a new client (4 limits)",
        lambda: book.plan(next(users), "m", NOW),
        10_000,
    )

    gate = Gate()
    measure(
        "gate, nothing blocked",
        lambda: (
            gate.find_block(who, NOW),
            gate.check_head(plan, 1.0, billable=True),
        ),
    )
    gate.replace_blocks(Block("client_ip", f"198.51.100.{n}") for n in range(200))
    measure("gate, 200 addresses blocked", lambda: gate.find_block(who, NOW))
    gate.add_block(Block("network", "192.0.2.0/24"))
    measure("gate, a network blocked as well", lambda: gate.find_block(who, NOW))
    no = Reserved(plan, (1, 400, 1, 5))
    no.violated, no.frees_at, no.retry_after = 0, 99.0, 3.2
    no.sums = (BIG, 500, 3, 100)
    other = book.plan(_other(identifier, strangers[7]), "m", NOW)
    gate.remember(no, 1.0)
    measure(
        "gate, others' cells full", lambda: gate.check_head(other, 1.0, billable=True)
    )

    usage = Usage(300, 120, 420)
    measure("reserve_costs", lambda: reserve_costs(plan, 300, 200, 50))
    costs = reserve_costs(plan, 300, 200, 50)
    measure("oversized", lambda: oversized(plan, costs))
    measure("actual_costs", lambda: actual_costs(plan, usage, 420, 50))
    yes = Reserved(plan, costs)
    yes.sums = (1, 500, 3, 100)
    clock = iter(range(10**15, 2 * 10**15, 300))
    measure("ratelimit_headers", lambda: ratelimit_headers(plan, yes, next(clock)))
    measure("refuse_limit", lambda: refuse_limit(plan, no, 10**15), 20_000)


def _other(identifier: Identifier, head: object) -> Identity:
    found = identifier.identify("198.51.100.250", head, NOW)  # type: ignore[arg-type]
    assert isinstance(found, Identity)
    return found


if __name__ == "__main__":
    main()
