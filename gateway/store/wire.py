"""The wire form of the script's argument and answers; pure.

``lua/gate.lua`` states the format. A plan is packed once (``compile_plan``) and named
by its index in every operation of a call, so that the per-request part is one
``struct.pack`` of the costs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from hashlib import sha1
from importlib.resources import files
from typing import Any

from gateway.core.model import CellKind
from gateway.core.ports import Plan, Reserved
from gateway.core.windows import is_firm

SCRIPT = files("gateway.store").joinpath("lua/gate.lua").read_bytes()
# The name under which the store knows the script; not a matter of security.
SCRIPT_SHA = sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()

# Answers open with now, the last call's seq, its time, its flags.
ANSWER_HEAD = 4

_FIRM = 4
_TWIN = 8
_CELL = struct.Struct("<BddB")
_CALL = struct.Struct("<dH")

# One operation as it waits in the queue: code, reservation, and its argument (settle:
# the actual costs; reserve and peek: whom to answer).
Op = tuple[int, Reserved, Any]


class Code(IntEnum):
    """Operations of the script."""

    RESERVE = 1
    SETTLE = 2
    RENEW = 3
    HOLD = 4
    CHARGE = 5
    PEEK = 6


# Plain integers: an enum member's look-up costs more than the comparison it serves.
RESERVE, SETTLE, RENEW, HOLD, CHARGE, PEEK = (int(code) for code in Code)


class PackedPlan:
    """A plan as the script reads it, and the packers of its operations.

    ``mark`` and ``index`` say where it stands in the call that is being packed.
    """

    __slots__ = (
        "charge",
        "head",
        "hold",
        "index",
        "leased",
        "mark",
        "renew",
        "reserve",
        "settle",
        "size",
    )

    def __init__(self, plan: Plan) -> None:
        size = self.size = len(plan.cells)
        self.leased = any(cell.kind is CellKind.CONCURRENT for cell in plan.cells)
        self.head = _pack_cells(plan)
        self.mark: object = None
        self.index = 0
        # A lease of no bytes where the plan has none keeps the calls alike.
        lease = "16s" if self.leased else "0s"
        self.reserve = _packer(f"<BH{size}d{lease}")
        self.settle = _packer(f"<BHd{2 * size}d{lease}")
        self.renew = _packer(f"<BH{lease}")
        self.hold = _packer(f"<BHd{size}d{lease}")
        self.charge = _packer(f"<BHd{size}d")


def _packer(layout: str) -> Callable[..., bytes]:
    return struct.Struct(layout).pack


def _pack_cells(plan: Plan) -> bytes:
    parts, keys = [bytes([len(plan.cells)])], set[bytes]()
    for cell in plan.cells:
        flags = int(cell.kind)
        flags |= _FIRM if is_firm(cell) else 0
        flags |= _TWIN if cell.key in keys else 0
        keys.add(cell.key)
        window = cell.window_us
        if cell.kind is CellKind.CALENDAR:
            window = round(cell.ends_at * 1e6)
        parts += (_CELL.pack(flags, window, cell.amount, len(cell.key)), cell.key)
    return b"".join(parts)


def encode_call(seq: int, batch: Sequence[Op]) -> bytes:
    """Pack one call: every plan once, then the operations in their order.

    Longer than most, for it is the inner loop of the whole gateway.
    """
    mark = object()
    heads: list[bytes] = []
    body: list[bytes] = []
    for code, reserved, argument in batch:
        plan = reserved.plan
        form = plan.packed
        if form is None:
            form = plan.packed = PackedPlan(plan)
        if form.mark is not mark:
            form.mark = mark
            form.index = len(heads)
            heads.append(form.head)
        if code == RESERVE:
            body.append(form.reserve(1, form.index, *reserved.costs, reserved.lease))
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
    return b"".join((_CALL.pack(seq, len(heads)), *heads, *body))


def _encode_rare(code: int, form: PackedPlan, reserved: Reserved) -> bytes:
    if code == RENEW:
        return form.renew(code, form.index, reserved.lease)
    at_us, costs = reserved.at_us, reserved.costs
    if code == HOLD:
        return form.hold(code, form.index, at_us, *costs, reserved.lease)
    if code == CHARGE:
        return form.charge(code, form.index, at_us, *costs)
    return struct.pack("<BH", code, form.index)


def read_reserve(
    answer: Sequence[int], at: int, reserved: Reserved, clock_s: float
) -> int:
    """Fill in one reserve from the answer, from index ``at``; returns the next index.

    ``clock_s`` is the event loop's time of the answer.
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
