"""The usage of batches that have ended, summed over the answers to their requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from msgspec import Raw

from gateway.core.model import Usage
from gateway.metering.dialects.base import UsageMeter
from gateway.metering.dialects.meters import NullMeter

# A result kept until its end has come; and a whole answer that is one object. A larger
# one is not read, so that the work stays charged at its reservation.
LINE_BYTES = 4 * 1024 * 1024
BODY_BYTES = 16 * 1024 * 1024

_object = msgspec.json.Decoder(dict[str, Raw]).decode
_list = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

MakeMeter = Callable[[], UsageMeter]


def sum_usage(usages: Iterable[Usage]) -> Usage:
    """One usage for several answers; the model and tier of the first."""
    total = Usage()
    units: dict[str, float] = {}
    costs: list[float] = []
    total.answers = 0
    for usage in usages:
        total.answers += usage.answers
        if total.source == "none":
            total.model, total.tier = usage.model, usage.tier
        total.source = usage.source
        total.prompt += usage.prompt
        total.completion += usage.completion
        total.total += usage.total
        total.cached += usage.cached
        total.reasoning += usage.reasoning
        total.cache_write += usage.cache_write
        total.tools += usage.tools
        for unit, quantity in usage.units:
            units[unit] = units.get(unit, 0) + quantity
        if usage.cost_usd is not None:
            costs.append(usage.cost_usd)
    total.units = tuple(units.items())
    total.cost_usd = sum(costs) if costs else None
    return total


class _SumMeter(NullMeter):
    """Sums what one meter for each answer reads; nothing if any could not be read."""

    __slots__ = ("_make", "_usages", "_whole")

    def __init__(self, make: MakeMeter) -> None:
        super().__init__()
        self._make = make
        self._usages: list[Usage] = []
        self._whole = True

    def _add(self, answer: Raw) -> None:
        meter = self._make()
        meter.feed(bytes(answer))
        usage = meter.finish(True)
        if usage is None or meter.implausible:
            self._whole = False
        elif usage.source != "none":
            self._usages.append(usage)
            if len(self._usages) > 1:
                self._usages = [sum_usage(self._usages)]

    def _sum(self) -> Usage:
        return sum_usage(self._usages) if self._whole else Usage()


class ResultsMeter(_SumMeter):
    """Anthropic's results: one JSON object in each line."""

    __slots__ = ("_line",)

    def __init__(self, make: MakeMeter) -> None:
        super().__init__(make)
        self._line = bytearray()

    def feed(self, data: bytes) -> None:
        """Read the lines that have ended."""
        line = self._line
        if b"\n" not in data:
            line += data
            if len(line) > LINE_BYTES:
                self._whole = False
                del line[:]
            return
        *lines, rest = (bytes(line) + data).split(b"\n")
        for one in lines:
            self._read(one)
        line[:] = rest

    def _read(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            result = _object(_object(line)["result"])
            if "message" in result:
                self._add(result["message"])
        except (*_UNREADABLE, KeyError):
            self._whole = False

    def finish(self, complete: bool) -> Usage | None:  # noqa: FBT001
        """The sum; nothing of an answer that was cut short."""
        self._read(bytes(self._line))
        del self._line[:]
        return self._sum() if complete else Usage()


class GoogleBatchMeter(_SumMeter):
    """Google's operation of a batch, which holds the answers when it has ended."""

    __slots__ = ("_pieces", "_size")

    def __init__(self, make: MakeMeter) -> None:
        super().__init__(make)
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Keep the body, unless it is too large."""
        self._size += len(data)
        if self._size <= BODY_BYTES:
            self._pieces.append(data)
        else:
            self._pieces.clear()

    def finish(self, complete: bool) -> Usage | None:  # noqa: FBT001
        """The sum; nothing of an answer that was cut short or is too large."""
        try:
            for answer in _inlined(b"".join(self._pieces)):
                self._add(answer)
        except _UNREADABLE:
            return Usage()
        return self._sum() if complete else Usage()


def _inlined(body: bytes) -> list[Raw]:
    """The answers in an operation; one that failed has none."""
    operation = _object(body)
    for holder in ("response", "metadata"):
        if holder not in operation:
            continue
        members = _object(operation[holder])
        output = _object(members["output"]) if "output" in members else members
        for name in ("inlinedResponses", "inlinedEmbedContentResponses"):
            if name in output:
                items = _object(output[name])
                listed = _list(items[name]) if name in items else []
                return [one["response"] for one in listed if "response" in one]
    return []
