"""What the gateway knows when the demo begins: a day and some hours of quiet traffic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

from gateway.demo.people import Person, customers, prompt_of, pupils, tide

DAY_S = 86_400.0
# A client is known, and its history counts fully, after a day.
SPAN_S = 27 * 3600.0
WINDOW_S = 600.0
# Requests of one client in ten minutes at high tide.
BUSY = 7.0


def past_requests(now: float, chance: Random) -> Iterator[bytes]:
    """Requests of the past as events that ``tidegate learn`` reads, one a line."""
    people = customers() + pupils()
    start = now - SPAN_S
    for window in range(int(SPAN_S / WINDOW_S)):
        since = start + window * WINDOW_S
        level = tide(since, DAY_S) * BUSY
        for person in people:
            count = min(2 * int(BUSY), round(chance.gauss(level, level / 4.0)))
            for _ in range(count):
                yield _line(person, since + chance.random() * WINDOW_S, chance)


def _line(person: Person, ts: float, chance: Random) -> bytes:
    prompt = prompt_of(person, chance)
    event = {
        "ts": round(ts, 3),
        "client_ip": person.address,
        "user": person.name,
        "tenant": person.tenant,
        "model": person.model,
        "endpoint": "chat.completions",
        "prompt_tokens": len(prompt) // 4,
        "completion_tokens": chance.randint(60, 400),
        "status": 200,
        "prompt": prompt,
    }
    return json.dumps(event).encode()
