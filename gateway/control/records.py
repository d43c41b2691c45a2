"""Records from the rings to everything that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from gateway.admin.clients import ClientTable
from gateway.admin.metrics import Metrics
from gateway.core.model import OPENED, RequestRecord
from gateway.serve.ring import RingReader
from gateway.sinks.file import FileSink
from gateway.sinks.records import RecordWriter, decode_record

# Of one ring at a time, so that the loop is not held for more than some 20 ms.
BATCH = 2000


class Collector:
    """Reads every ring, counts, writes, and only then lets the rings go on."""

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
        """Takes what was collected besides."""
        self.traces: Callable[[list[RequestRecord]], None] | None = None
        """Makes spans of it."""
        self._metrics = metrics
        self._clients = clients
        self.notice: Callable[[RequestRecord], None] = lambda _record: None
        """Whoever else looks at finished exchanges."""
        self._writer = RecordWriter()
        self.sink: FileSink | None = None
        self.collected = 0
        self.unreadable = 0
        """Entries that are no record (of another version, or damaged)."""

    @property
    def dropped(self) -> int:
        """Records that workers could not hand over: their ring was full."""
        return sum(reader.dropped for reader in self._readers)

    @property
    def waiting_bytes(self) -> int:
        return sum(reader.waiting_bytes for reader in self._readers)

    def drain(self) -> bool:
        """One batch of each ring; True when there is more at once."""
        more = False
        for reader in self._readers:
            entries = reader.read(BATCH)
            try:
                if entries:
                    self._take(entries)
            finally:
                # Also if it fails: what ends this process must not end the next one.
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
                continue  # its record follows
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

    def close(self) -> None:
        """Unmap the rings."""
        for reader in self._readers:
            reader.close()
