"""What operators may see and do: the admin API's ``Backend``, on top of control."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from gateway import __version__
from gateway.admin.backend import Refused
from gateway.admin.clients import ClientTable, moment
from gateway.admin.metrics import Metrics, labelled_counter
from gateway.core.model import Block, Limit, Policy
from gateway.serve.blocks import (
    MAX_BLOCKS,
    Blocks,
    BlocksFull,
    BlocksUnavailable,
    BlockTable,
)
from gateway.serve.collect import Collector
from gateway.serve.counters import CounterDesk, public_limit
from gateway.serve.roster import CallError, Roster
from gateway.serve.runtime import ChildSpec
from gateway.serve.settings import Reload, Settings
from gateway.serve.store_url import masked_url

_DRAINING = "draining"


class Desk:
    """Holds no state of its own but ``draining``; asks the parts of control."""

    def __init__(
        self,
        *,
        spec: ChildSpec,
        settings: Settings,
        metrics: Metrics,
        clients: ClientTable,
        roster: Roster,
        blocks: Blocks,
        table: BlockTable,
        counters: CounterDesk,
        collector: Collector,
        reload: Callable[[], Reload],
    ) -> None:
        self._spec = spec
        self._settings = settings
        self.metrics = metrics
        self.clients = clients
        self._roster = roster
        self._blocks = blocks
        self._table = table
        self._counters = counters
        self._collector = collector
        self._reload = reload
        self._started_at = time.time()
        self.draining = False
        metrics.extra = self.families

    @property
    def token(self) -> str | None:
        """The admin token in force."""
        secret = self._settings.config.admin.token
        return None if secret is None else secret.reveal()

    # -- looking -----------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """Reasons for 503 on ``/readyz``."""
        return [_DRAINING] if self.draining else self._roster.not_ready()

    def status(self) -> dict[str, Any]:
        """The state of every part."""
        sink = self._collector.sink
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": moment(self._started_at),
            "ready": not self.not_ready(),
            "reasons": self.not_ready(),
            "listen": list(self._spec.listen),
            "store": {
                "url": masked_url(self._spec.store_url),
                "up": all(stats.store_up for stats in self.metrics.workers.values()),
                "fallback": self._spec.fallback,
            },
            "blocks": {"active": len(self._blocks.items()), "synced": self._blocks.up},
            "config": self._config_status(),
            "restarts": self.restarts(),
            "workers": self._roster.public(),
            "records": {
                "collected": self._collector.collected,
                "dropped": self._collector.dropped,
                "file": None if sink is None else sink.public(),
            },
        }

    def _config_status(self) -> dict[str, Any]:
        last = self._settings.last
        return {
            "file": self._settings.file,
            "generation": self._settings.generation,
            "last_reload": last.public() | {"at": moment(last.at)},
        }

    def restarts(self) -> dict[str, int]:
        """How often the supervisor had to start each child again."""
        path = f"{self._spec.runtime_dir}/supervisor.json"
        with suppress(OSError, msgspec.DecodeError), open(path, "rb") as file:
            state = msgspec.json.decode(file.read(), type=dict[str, dict[str, int]])
            return state["restarts"]
        return {}

    def policies(self) -> list[dict[str, Any]]:
        """Each policy in force with the tenants under it."""
        resolved = self._settings.resolved
        found = [(tenant.name, tenant.policy) for tenant in resolved.tenants]
        if resolved.anonymous is not None:
            found.append(("anonymous", resolved.anonymous))
        tenants: dict[str, list[str]] = {}
        for name, policy in found:
            tenants.setdefault(policy.name, []).append(name)
        by_name = {policy.name: policy for _, policy in found}
        return [
            public_policy(by_name[name]) | {"tenants": tenants[name]}
            for name in sorted(by_name)
        ]

    async def limits_of(
        self, kind: str, id_: str, tenants: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Each limit of the subject, with what is used of it."""
        found = self._counters.cells(self._settings.resolved, kind, id_, tenants)
        if not found:
            return []
        try:
            sums = await self._counters.peek([cell for _, cell in found])
        except CallError as error:
            raise Refused(503, "store_unavailable", str(error)) from error
        return [
            public_limit(tenant, cell, used)
            for (tenant, cell), used in zip(found, sums, strict=True)
        ]

    # -- doing -------------------------------------------------------------------------

    async def reset(self, kind: str, id_: str, tenant: str | None) -> int:
        """Forget the subject's counters, and that anybody found it over them."""
        tenants = None if tenant is None else [tenant]
        found = self._counters.cells(self._settings.resolved, kind, id_, tenants)
        if not found:
            return 0
        cells = [cell for _, cell in found]
        try:
            await self._counters.reset(cells)
            await self._blocks.forget([cell.key for cell in cells])
        except (CallError, BlocksUnavailable) as error:
            raise Refused(503, "store_unavailable", str(error)) from error
        return len(cells)

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again."""
        result = self._reload()
        if not result.ok:
            raise Refused(422, "bad_config", "\n".join(result.errors))
        return result.public() | {"at": moment(result.at)}

    def blocks(self) -> list[Block]:
        """Blocks in force, oldest first."""
        return self._blocks.items()

    async def add_block(self, block: Block) -> None:
        """Block everywhere."""
        try:
            await self._blocks.add(block)
        except BlocksFull as error:
            text = f"there are {MAX_BLOCKS} blocks already; remove some first"
            raise Refused(507, "too_many_blocks", text) from error
        except BlocksUnavailable as error:
            raise Refused(503, "store_unavailable", str(error)) from error

    async def remove_block(self, kind: str, id_: str, tenant: str | None) -> bool:
        """Unblock everywhere."""
        try:
            return await self._blocks.remove(kind, id_, tenant)
        except BlocksUnavailable as error:
            raise Refused(503, "store_unavailable", str(error)) from error

    # -- metrics of control's own ------------------------------------------------------

    def families(self) -> Iterator[Metric]:
        """What neither records nor workers say."""
        yield from self._event_families()
        yield from self._record_families()
        yield from self._config_families()
        yield labelled_counter(
            "tidegate_restarts",
            "Children that died and were started again.",
            ("child",),
            self.restarts(),
        )
        ready = sum(worker.ready for worker in self._roster.workers)
        yield GaugeMetricFamily("tidegate_workers_ready", "Workers ready.", value=ready)
        yield GaugeMetricFamily(
            "tidegate_start_time_seconds",
            "When control started, epoch seconds.",
            value=self._started_at,
        )

    def _event_families(self) -> Iterator[Metric]:
        """Blocks, incidents, alerts. Detection is not part of this version: its two
        counters stand empty under their final names.
        """
        yield GaugeMetricFamily(
            "tidegate_blocks_active",
            "Subjects blocked now.",
            value=len(self._blocks.items()),
        )
        yield GaugeMetricFamily(
            "tidegate_blocks_synced",
            "1 when the block list is followed in the store.",
            value=self._blocks.up,
        )
        yield labelled_counter(
            "tidegate_incidents", "Incidents opened.", ("class", "severity"), {}
        )
        yield labelled_counter(
            "tidegate_alerts", "Alerts sent, by result.", ("type", "result"), {}
        )
        yield GaugeMetricFamily(
            "tidegate_alerts_pending", "Alerts waiting to be delivered.", value=0
        )

    def _record_families(self) -> Iterator[Metric]:
        collector, sink = self._collector, self._collector.sink
        yield CounterMetricFamily(
            "tidegate_records", "Records collected.", value=collector.collected
        )
        yield labelled_counter(
            "tidegate_records_dropped",
            "Records lost on their way, by reason.",
            ("reason",),
            {
                "ring_full": collector.dropped,
                "unreadable": collector.unreadable,
                "file": 0 if sink is None else sink.dropped,
            },
        )
        yield GaugeMetricFamily(
            "tidegate_records_waiting_bytes",
            "Records written by workers and not read yet.",
            value=collector.waiting_bytes,
        )
        yield GaugeMetricFamily(
            "tidegate_clients_tracked",
            "Rows in the table of clients.",
            value=len(self.clients),
        )
        yield CounterMetricFamily(
            "tidegate_clients_evicted",
            "Rows that left the table for want of room.",
            value=self.clients.evicted,
        )

    def _config_families(self) -> Iterator[Metric]:
        last = self._settings.last
        yield GaugeMetricFamily(
            "tidegate_config_reload_success",
            "1 when the last reading of the configuration succeeded.",
            value=last.ok,
        )
        yield GaugeMetricFamily(
            "tidegate_config_reload_timestamp_seconds",
            "When the configuration was last read, epoch seconds.",
            value=last.at,
        )
        yield CounterMetricFamily(
            "tidegate_config_reload_failures",
            "Configurations refused.",
            value=self._settings.failures,
        )
        yield GaugeMetricFamily(
            "tidegate_config_generation",
            "Counts the configurations applied since the start.",
            value=self._settings.generation,
        )


def public_policy(policy: Policy) -> dict[str, Any]:
    """A policy as the admin API shows it."""
    shown: dict[str, Any] = msgspec.to_builtins(policy)
    return shown | {"limits": [public_policy_limit(limit) for limit in policy.limits]}


def public_policy_limit(limit: Limit) -> dict[str, Any]:
    """A limit as the configuration writes it, under its name."""
    shown: dict[str, Any] = msgspec.to_builtins(limit)
    shown.pop("window_us")
    shown.pop("calendar")
    window = limit.name.rpartition(".")[2] if limit.meter != "concurrent" else None
    amount = limit.amount / 1e9 if limit.meter == "usd" else limit.amount
    return {"name": limit.name} | shown | {"amount": amount, "window": window}
