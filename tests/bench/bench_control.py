"""Cost of a record in microseconds: append in the worker, processing in control.

python tests/bench/bench_control.py
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable

import msgspec

from gateway.admin.clients import ClientTable
from gateway.admin.metrics import Metrics
from gateway.control.records import Collector
from gateway.core.model import RequestRecord
from gateway.serve.ring import RingWriter, create_ring
from gateway.sinks.file import FileSink
from gateway.sinks.records import RecordWriter, decode_record

RECORDS = 2_000
ROUNDS = 10


def make_record(number: int) -> RequestRecord:
    """A chat request of one of 500 users."""
    return RequestRecord(
        1_763_916_387.1 + number / 1e4, f"18874c4f093aa6d4{number:08x}", "acme",
        f"key_{number % 500:016x}", f"203.0.113.{number % 250}", "POST",
        "/v1/chat/completions", "chat.completions", "gpt-4o-mini", False, 200, 380, 180,
        560, 0, 0, "upstream", 0.000165, 812.1, 211.5, 0.21, "allow", None, 0.0, None,
        (), "0123456789abcdef", "ok", "openai", 40.1, 2.2, 210.0, "", False, 165_000,
    )  # fmt: skip


def best(name: str, work: Callable[[], object], before: Callable[[], object]) -> None:
    """The fastest of several rounds, per record."""
    times = []
    for _ in range(ROUNDS):
        before()
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    print(f"{name:<34} {min(times) / RECORDS * 1e6:6.2f} µs")


def main() -> None:
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    encode = msgspec.msgpack.Encoder().encode
    records = [make_record(number) for number in range(RECORDS)]
    entries = [encode(record) for record in records]
    metrics, clients, writer = Metrics("bench"), ClientTable(), RecordWriter()
    metrics.configure({"acme"}, lambda model: model)
    print(f"record: {len(entries[0])} bytes in the ring")
    with tempfile.TemporaryDirectory(dir=folder) as home:
        create_ring(f"{home}/ring")
        ring = RingWriter(f"{home}/ring")
        collector = Collector([f"{home}/ring"], metrics, clients)
        collector.sink = FileSink(f"{home}/r.jsonl", max_bytes=1 << 26, keep=1)

        def append() -> None:
            for entry in entries:
                ring.append(entry)

        def drain() -> None:
            while collector.drain():
                pass

        best("worker: encode", lambda: list(map(encode, records)), lambda: None)
        best("worker: append", append, drain)
        drain()
        best("control: decode", lambda: list(map(decode_record, entries)), lambda: None)
        best(
            "control: metrics",
            lambda: list(map(metrics.observe, records)),
            lambda: None,
        )
        best(
            "control: clients",
            lambda: list(map(clients.observe, records)),
            lambda: None,
        )
        best("control: line", lambda: list(map(writer.line, records)), lambda: None)
        best("control: all, ring to file", drain, append)
        collector.close()
        ring.close()


if __name__ == "__main__":
    main()
