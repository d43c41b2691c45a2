"""Work that was accepted and is paid later: what is reserved for it, as it is saved.

A background response, a run of an assistant, a batch: the answer that accepts it states
no usage. Its reservation stays until a later call shows the end, perhaps to another
worker, which settles it with what is kept here.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.core.model import CellKind, Limit, Meter, Usage
from gateway.limits.ports import Cell, Plan
from gateway.metering.usage import weigh

# Raised when the fields below change; other numbers are not read.
SCHEMA = 1


class PendingCell(msgspec.Struct, array_like=True, frozen=True):
    """One cell of the reservation, and what it holds."""

    key: bytes
    kind: CellKind
    meter: Meter
    window_us: int
    amount: int
    ends_at: float
    overdraft: int
    cost: int


class PendingWork(msgspec.Struct, array_like=True):
    """One call whose work is paid later. ``at_us``: store clock of its reservation.

    ``prompt``, ``completion``, ``units``: what it is assumed to use. ``continues``: the
    call goes on with earlier work, whose end states the usage of both.
    """

    schema: int
    request_id: str
    tenant: str
    user: str
    client_ip: str
    endpoint: str
    path: str
    model: str
    at_us: int
    cells: tuple[PendingCell, ...]
    weights: dict[str, float]
    prompt: int
    completion: int
    batch: bool = False
    continues: bool = False
    units: tuple[tuple[str, float], ...] = ()

    @property
    def usage(self) -> Usage:
        """What it is assumed to use."""
        total = self.prompt + self.completion
        return Usage(
            self.prompt,
            self.completion,
            total,
            source="estimated",
            batch=self.batch,
            units=self.units,
        )

    @property
    def plan(self) -> Plan:
        """The plan of its cells, to settle them."""
        return Plan(tuple(_cell(one) for one in self.cells))

    @property
    def costs(self) -> tuple[int, ...]:
        """What its cells hold."""
        return tuple(one.cost for one in self.cells)

    def actual(self, usage: Usage, nanos: int) -> tuple[int, ...]:
        """What its cells are settled at; ``nanos``: the price in nano-dollars. Requests
        stay as they were counted.
        """
        amounts: dict[Meter, int] = {
            "tokens": weigh(usage, self.weights),
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "usd": nanos,
        }
        return tuple(amounts.get(one.meter, one.cost) for one in self.cells)


def pending_cells(
    cells: Sequence[Cell], costs: Sequence[int]
) -> tuple[PendingCell, ...]:
    """The cells to keep: all but the leases, which end with the call."""
    return tuple(
        PendingCell(
            cell.key,
            cell.kind,
            cell.limit.meter,
            cell.window_us,
            cell.amount,
            cell.ends_at,
            cell.overdraft,
            cost,
        )
        for cell, cost in zip(cells, costs, strict=True)
        if cell.kind is not CellKind.CONCURRENT
    )


def _cell(kept: PendingCell) -> Cell:
    limit = Limit("", kept.meter, kept.amount, kept.window_us)
    return Cell(
        kept.key,
        kept.kind,
        kept.window_us,
        kept.amount,
        limit,
        kept.ends_at,
        kept.overdraft,
    )


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PendingWork).decode


def pack_work(work: PendingWork) -> bytes:
    """The note to keep; surrogates in names, which JSON allows, are replaced."""
    try:
        return _encode(work)
    except UnicodeEncodeError:
        names = ("tenant", "user", "model", "path")
        plain = {name: _plain(getattr(work, name)) for name in names}
        return _encode(msgspec.structs.replace(work, **plain))


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def unpack_work(note: bytes) -> PendingWork | None:
    """The work of a note; None: another version wrote it."""
    try:
        work = _decode(note)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return work if work.schema == SCHEMA else None


__all__ = ["PendingCell", "PendingWork", "pack_work", "pending_cells", "unpack_work"]
