"""The wire form of the script's argument and answers; pure.

``lua/gate.lua`` specifies the format. A plan is packed once (``packed_plan``) and each
operation of a call refers to it by index, so that the per-request part is one
``struct.pack`` of the costs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Sequence
from enum import IntEnum
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

from gateway.core.model import CellKind
from gateway.limits.ports import Plan, Reserved
from gateway.limits.windows import is_firm

SCRIPT = files("gateway.store").joinpath("lua/gate.lua").read_bytes()
# The script's name for EVALSHA; not used for security.
SCRIPT_SHA = sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()

# An answer starts with four values: now, and the last call's seq, time and flags.
ANSWER_HEAD = 4

_FIRM = 4
_TWIN = 8
_EDGE = 16
_LOOK = 32
_CELL = struct.Struct("<BdddH")
_SEQ = struct.Struct("<d")
_PLANS = struct.Struct("<H")
_OP = struct.Struct("<BH")
_LEASE_BYTES = 16

# A queued operation: code, reservation, and argument (settle: the actual costs; reserve
# and peek: the callback).
Op = tuple[int, Reserved, Any]


class Code(IntEnum):
    """Operations of the script."""

    RESERVE = 1
    SETTLE = 2
    RENEW = 3
    HOLD = 4
    CHARGE = 5
    PEEK = 6


# Plain integers: looking up an enum member costs more than the comparison itself.
RESERVE, SETTLE, RENEW, HOLD, CHARGE, PEEK = (int(code) for code in Code)


class PackedPlan:
    """The packed form of a plan, and the packers of its operations.

    ``mark`` and ``index``: its position in the call that is being packed. ``distinct``:
    indices of the cells that are the first with their key, and that count.
    """

    __slots__ = (
        "charge",
        "distinct",
        "head",
        "hold",
        "index",
        "leased",
        "mark",
        "renew",
        "reserve",
        "settle",
    )

    def __init__(self, plan: Plan) -> None:
        cells = plan.cells
        keys = [cell.key for cell in cells]
        self.distinct = tuple(
            i
            for i, key in enumerate(keys)
            if keys.index(key) == i and i not in plan.looks
        )
        self.leased = any(cell.kind is CellKind.CONCURRENT for cell in cells)
        self.head = _pack_cells(plan, self.distinct)
        self.mark: object = None
        self.index = 0
        packers = _packers(len(cells), leased=self.leased)
        self.reserve, self.settle, self.renew, self.hold, self.charge = packers


@cache
def _packers(size: int, *, leased: bool) -> tuple[Callable[..., bytes], ...]:
    """Packers of reserve, settle, renew, hold and charge for plans of this shape."""
    # Without leases an empty field keeps the arguments of all packers the same.
    lease = "16s" if leased else "0s"
    layouts = (
        f"<BH{size}d{lease}{size}d",
        f"<BHd{2 * size}d{lease}",
        f"<BH{lease}",
        f"<BHd{size}d{lease}",
        f"<BHd{size}d",
    )
    return tuple(struct.Struct(layout).pack for layout in layouts)


def packed_plan(plan: Plan) -> PackedPlan:
    """The packed form of a plan, made on first use."""
    form: PackedPlan | None = plan.packed
    if form is None:
        form = plan.packed = PackedPlan(plan)
    return form


def _pack_cells(plan: Plan, distinct: Container[int]) -> bytes:
    parts = [bytes([len(plan.cells)])]
    for i, cell in enumerate(plan.cells):
        flags = int(cell.kind)
        flags |= _FIRM if is_firm(cell) else 0
        flags |= 0 if i in distinct else _TWIN
        flags |= _EDGE if i in plan.edges else 0
        flags |= _LOOK if i in plan.looks else 0
        window = cell.window_us
        if cell.kind is CellKind.CALENDAR:
            window = round(cell.ends_at * 1e6)
        size = len(cell.key)
        parts.append(_CELL.pack(flags, window, cell.amount, cell.overdraft, size))
        parts.append(cell.key)
    return b"".join(parts)


def number_call(seq: int, packed: bytes) -> bytes:
    """Prefix a packed call with its number: the script's argument."""
    return _SEQ.pack(seq) + packed


def encode_call(batch: Sequence[Op]) -> bytes:
    """Pack one call: each plan once, then the operations in order.

    Long on purpose: this is the hottest loop of the store client.
    """
    mark = object()
    heads: list[bytes] = []
    body: list[bytes] = []
    for code, reserved, argument in batch:
        form = reserved.plan.packed or packed_plan(reserved.plan)
        if form.mark is not mark:
            form.mark = mark
            form.index = len(heads)
            heads.append(form.head)
        if code == RESERVE:
            body.append(
                form.reserve(
                    1,
                    form.index,
                    *reserved.costs,
                    reserved.lease,
                    *reserved.least,
                )
            )
        elif code == SETTLE:
            body.append(
                form.settle(
                    2,
                    form.index,
                    reserved.at_us,
                    *reserved.costs,
                    *argument,
                    reserved.lease,
                )
            )
        else:
            body.append(_encode_rare(code, form, reserved))
    return b"".join((_PLANS.pack(len(heads)), *heads, *body))


def _encode_rare(code: int, form: PackedPlan, reserved: Reserved) -> bytes:
    if code == RENEW:
        return form.renew(code, form.index, reserved.lease)
    at_us, costs = reserved.at_us, reserved.costs
    if code == HOLD:
        return form.hold(code, form.index, at_us, *costs, reserved.lease)
    if code == CHARGE:
        return form.charge(code, form.index, at_us, *costs)
    return _OP.pack(code, form.index)


def read_reserve(
    answer: Sequence[int], at: int, reserved: Reserved, clock_s: float
) -> int:
    """Fill in one reserve from the answer at index ``at``; return the next index.

    ``clock_s``: the event loop's time of the answer.
    """
    plan = reserved.plan
    end = at + 1 + len(plan.cells)
    violated = answer[at]
    reserved.sums = plan.seen = answer[at + 1 : end]
    reserved.at_us = plan.seen_us = answer[0]
    if violated < 0:
        reserved.admitted = True
        return end
    wait_us, frees_us = answer[end], answer[end + 1]
    reserved.violated = violated
    reserved.retry_after = wait_us / 1e6 if wait_us >= 0 else -1.0
    reserved.frees_at = clock_s + frees_us / 1e6 if frees_us else 0.0
    return end + 2


def encode_replay(packed: bytes, at_us: int, refused: Sequence[int]) -> bytes:
    """Rewrite a packed call for a store that lost it after acknowledging it.

    Admitted reserves (all but the indices in ``refused``) become HOLD operations of
    their time ``at_us``, which are not checked against the limits; peeks are dropped.
    Empty: nothing is left to send.
    """
    sizes, at = _plan_sizes(packed)
    parts, reserves = [packed[:at]], -1
    while at < len(packed):
        code, index = _OP.unpack_from(packed, at)
        cells, lease = sizes[index]
        body = at + _OP.size
        at = body + _body_size(code, cells, lease)
        if code != RESERVE:
            parts += (packed[body - _OP.size : at],) if code != PEEK else ()
            continue
        reserves += 1
        if reserves not in refused:
            costs_and_lease = packed[body : body + 8 * cells + lease]
            parts += (_OP.pack(HOLD, index), struct.pack("<d", at_us), costs_and_lease)
    return b"".join(parts) if len(parts) > 1 else b""


def _plan_sizes(packed: bytes) -> tuple[list[tuple[int, int]], int]:
    """Per plan its number of cells and bytes of lease; and the end of the plans."""
    sizes: list[tuple[int, int]] = []
    at = _PLANS.size
    for _ in range(_PLANS.unpack_from(packed)[0]):
        cells, lease = packed[at], 0
        at += 1
        for _ in range(cells):
            kind, *_, key_bytes = _CELL.unpack_from(packed, at)
            lease = _LEASE_BYTES if kind & 3 == CellKind.CONCURRENT else lease
            at += _CELL.size + key_bytes
        sizes.append((cells, lease))
    return sizes, at


def _body_size(code: int, cells: int, lease: int) -> int:
    """Length of an operation after its code and plan index, in bytes."""
    if code == RESERVE:
        return 16 * cells + lease
    if code == SETTLE:
        return 8 + 16 * cells + lease
    if code == RENEW:
        return lease
    if code == PEEK:
        return 0
    return 8 + 8 * cells + (lease if code == HOLD else 0)
