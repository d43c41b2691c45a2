"""Writes a world to files: events for ``tidegate watch`` and what really happened.

usage: python -m loadtests.scenarios --out EVENTS.jsonl [--labels CAUSES.json]
                                     [--seed 1] [--users 3000] [--days 8] [--rate 1]

``--out -`` writes to standard output. The labels hold each cause with its span, its
subjects and its class; the events hold nothing of that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from loadtests.scenarios.rows import Row
from loadtests.scenarios.world import Settings, World


@contextmanager
def output(name: str) -> Iterator[BinaryIO]:
    """The file of this name, standard output for ``-``."""
    if name == "-":
        yield sys.stdout.buffer
        return
    with Path(name).open("wb") as file:
        yield file


def line(row: Row) -> dict[str, object]:
    """A request in the bare form that ``watch`` reads."""
    moment = datetime.fromtimestamp(row.ts, UTC).isoformat(timespec="milliseconds")
    event: dict[str, object] = {
        "ts": moment.replace("+00:00", "Z"),
        "tenant": row.tenant,
        "user": row.user,
        "client_ip": row.client_ip,
        "endpoint": row.endpoint,
        "model": row.model,
        "status": row.status,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "total_tokens": row.total_tokens,
        "usd": row.usd,
    }
    if row.fingerprint is not None:
        event["fingerprint"] = f"{row.fingerprint:016x}"
    return event


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--labels")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--days", type=float, default=8.0)
    parser.add_argument("--rate", type=float, default=1.0)
    return parser.parse_args()


def main() -> None:
    """Write the events, then the labels."""
    args = arguments()
    settings = Settings(
        seed=args.seed, users=args.users, days=args.days, rate=args.rate
    )
    world = World(settings)
    encode = msgspec.json.Encoder().encode
    with output(args.out) as file:
        for row in world.rows():
            file.write(encode(line(row)) + b"\n")
    if args.labels:
        causes = msgspec.json.encode(world.ledger.causes[1:], order="sorted")
        Path(args.labels).write_bytes(causes)


if __name__ == "__main__":
    main()
