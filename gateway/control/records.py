"""Read records from the workers' rings and pass them to all consumers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from gateway.admin.clients import ClientTable
from gateway.admin.metrics import Metrics
from gateway.core.model import OPENED, RequestRecord
from gateway.serve.ring import RingReader
from gateway.sinks.file import FileSink
from gateway.sinks.records import RecordWriter, decode_record

# Interval of collecting while there are records: small batches occupy a core that is
# shared with a worker for a short time only. And while there are none.
BUSY_DRAIN_S = 0.02
IDLE_DRAIN_S = 0.1
# Records of one ring per turn: holds the event loop for about 20 ms.
BATCH = 2000


class Collector:
    """Reads the rings; commits a batch only after all consumers have it."""

    def __init__(
        self,
        rings: Sequence[str],
        metrics: Metrics,
        clients: ClientTable,
        detect: Callable[[list[RequestRecord]], None] = lambda _records: None,
    ) -> None:
        self._readers = [RingReader(path) for path in rings]
        self._detect = detect
        self.history: Callable[[list[RequestRecord]], None] | None = None
        """Gets every batch for InfluxDB."""
        self.traces: Callable[[list[RequestRecord]], None] | None = None
        """Gets every batch for OpenTelemetry."""
        self._metrics = metrics
        self._clients = clients
        self.notice: Callable[[RequestRecord], None] = lambda _record: None
        """Called with every finished exchange, for the console."""
        self._writer = RecordWriter()
        self.sink: FileSink | None = None
        self.collected = 0
        self.unreadable = 0
        """Entries that cannot be decoded: damaged, or of another version."""

    @property
    def dropped(self) -> int:
        """Records that workers dropped because their ring was full."""
        return sum(reader.dropped for reader in self._readers)

    @property
    def waiting_bytes(self) -> int:
        return sum(reader.waiting_bytes for reader in self._readers)

    def drain(self) -> bool:
        """Process one batch of each ring; True if more is waiting."""
        more = False
        for reader in self._readers:
            entries = reader.read(BATCH)
            try:
                if entries:
                    self._take(entries)
            finally:
                # Commit after a failure too: a batch that ends this process must not
                # end the next one.
                reader.commit()
            more = more or len(entries) == BATCH
        return more

    def _take(self, entries: list[bytes]) -> None:
        lines: list[bytes] = []
        records: list[RequestRecord] = []
        sink = self.sink
        observe, remember = self._metrics.observe, self._clients.observe
        notice = self.notice
        for entry in entries:
            try:
                record = decode_record(entry)
            except msgspec.DecodeError:
                self.unreadable += 1
                continue
            records.append(record)
            if record.phase == OPENED:
                continue  # its final record follows
            self.collected += 1
            observe(record)
            remember(record)
            notice(record)
            if sink is not None:
                lines.append(self._writer.line(record))
        if sink is not None:
            sink.write(lines)
        self._detect(records)
        if self.history is not None:
            self.history(records)
        if self.traces is not None:
            self.traces(records)

    def drain_backlog(self) -> None:
        """Process what a previous process left in the rings. The record file may already
        hold the last batch of it.
        """
        if self.sink is not None:
            self.sink.start()
        while self.drain():
            pass
        if self.sink is not None:
            self.sink.caught_up()

    async def run(self, on_file: Callable[[str], None]) -> None:
        """Collect until cancelled. After each turn ``on_file`` is called with the error
        of the record file, "" if there is none.
        """
        collected = 0
        while True:
            more = self.drain()
            on_file("" if self.sink is None else self.sink.error)
            busy = self.collected != collected
            collected = self.collected
            pause_s = BUSY_DRAIN_S if busy else IDLE_DRAIN_S
            await asyncio.sleep(0 if more else pause_s)

    def close(self) -> None:
        """Unmap the rings."""
        for reader in self._readers:
            reader.close()
