"""Records to InfluxDB: the sink in use, and its replacement on reload."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from gateway.admin.metrics import labelled_counter
from gateway.config.structs import InfluxTable
from gateway.core.model import OPENED, RequestRecord
from gateway.sinks.influx import InfluxSink


class History:
    """Pass finished requests to the InfluxDB sink, if one is configured.

    ``on_state`` is called with an error text, and with "" on recovery.
    """

    def __init__(self, on_state: Callable[[str], None]) -> None:
        self._on_state = on_state
        self._table: InfluxTable | None = None
        self._sink: InfluxSink | None = None
        self._changed = asyncio.Event()

    def configure(self, table: InfluxTable | None, label: Callable[[str], str]) -> None:
        """Apply a configuration. An unchanged sink keeps its queue; a replaced one sends
        what it can and drops the rest.
        """
        if self._sink is not None:
            self._sink.model_label = label
        if table == self._table:
            return
        self._table = table
        self._sink = None
        if table is not None:
            self._sink = InfluxSink(table, model_label=label, on_state=self._on_state)
        self._changed.set()

    def take(self, records: Sequence[RequestRecord]) -> None:
        """Queue collected records, without those that announce an open exchange."""
        if self._sink is not None:
            self._sink.write([one for one in records if one.phase != OPENED])

    async def run(self) -> None:
        """Send until cancelled. A replaced sink sends its queue before the next starts."""
        while True:
            self._changed.clear()
            sink = self._sink
            if sink is None:
                await self._changed.wait()
                continue
            async with asyncio.TaskGroup() as running:
                sending = running.create_task(sink.run())
                await self._changed.wait()
                sending.cancel()
                with suppress(asyncio.CancelledError):
                    await sending
                await sink.close()

    async def close(self) -> None:
        """Send the remaining records within the sink's time limit."""
        if self._sink is not None:
            await self._sink.close()

    def public(self) -> dict[str, Any] | None:
        """State for the status page; None without a sink."""
        return None if self._sink is None else self._sink.public()

    def families(self) -> Iterable[Metric]:
        """Metrics of the sink."""
        sink = self._sink
        counts = (
            {} if sink is None else {"written": sink.written, "dropped": sink.dropped}
        )
        yield labelled_counter(
            "tidegate_influx_records",
            "Records for InfluxDB, by result.",
            ("result",),
            counts,
        )
        yield GaugeMetricFamily(
            "tidegate_influx_waiting",
            "Records queued for InfluxDB.",
            value=0 if sink is None else sink.waiting,
        )
