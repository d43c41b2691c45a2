"""The traffic that the gateway learns before the demo: 27 hours without attacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

from gateway.demo.clients import (
    Client,
    load_level,
    prompt_of,
    school_clients,
    shop_clients,
)

DAY_S = 86_400.0
# A client is established, and its baseline counts fully, after 24 hours.
SPAN_S = 27 * 3600.0
WINDOW_S = 600.0
# Requests of one client in ten minutes at the highest load.
BUSY = 7.0


def history_requests(now: float, rng: Random) -> Iterator[bytes]:
    """Past requests as JSON lines for ``tidegate learn``."""
    clients = shop_clients() + school_clients()
    start = now - SPAN_S
    for window in range(int(SPAN_S / WINDOW_S)):
        since = start + window * WINDOW_S
        level = load_level(since, DAY_S) * BUSY
        for client in clients:
            count = min(2 * int(BUSY), round(rng.gauss(level, level / 4.0)))
            for _ in range(count):
                yield _line(client, since + rng.random() * WINDOW_S, rng)


def _line(client: Client, ts: float, rng: Random) -> bytes:
    prompt = prompt_of(client, rng)
    event = {
        "ts": round(ts, 3),
        "client_ip": client.address,
        "user": client.name,
        "tenant": client.tenant,
        "model": client.model,
        "endpoint": "chat.completions",
        "prompt_tokens": len(prompt) // 4,
        "completion_tokens": rng.randint(60, 400),
        "status": 200,
        "prompt": prompt,
    }
    return json.dumps(event).encode()
