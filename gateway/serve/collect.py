"""Records from the rings to everything that is made of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.admin.clients import ClientTable
from gateway.admin.metrics import Metrics
from gateway.serve.ring import RingReader
from gateway.sinks.file import FileSink
from gateway.sinks.records import RecordWriter, decode_record

# Of one ring at a time, so that the loop is not held for more than some 20 ms.
BATCH = 2000


class Collector:
    """Reads every ring, counts, writes, and only then lets the rings go on."""

    def __init__(
        self, rings: Sequence[str], metrics: Metrics, clients: ClientTable
    ) -> None:
        self._readers = [RingReader(path) for path in rings]
        self._metrics = metrics
        self._clients = clients
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
            if entries:
                self._take(entries)
            reader.commit()
            more = more or len(entries) == BATCH
        return more

    def _take(self, entries: list[bytes]) -> None:
        lines: list[bytes] = []
        sink = self.sink
        observe, remember = self._metrics.observe, self._clients.observe
        for entry in entries:
            try:
                record = decode_record(entry)
            except msgspec.DecodeError:
                self.unreadable += 1
                continue
            observe(record)
            remember(record)
            if sink is not None:
                lines.append(self._writer.line(record))
        self.collected += len(entries)
        if sink is not None:
            sink.write(lines)

    def close(self) -> None:
        """Unmap the rings."""
        for reader in self._readers:
            reader.close()
