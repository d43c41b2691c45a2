"""Reads files of records into a sorter; malformed lines are counted and reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from gateway.detect.model import EventError
from gateway.replay.requests import Request, request_from_record
from gateway.replay.sorting import Sorter
from gateway.stream.source import (
    LINE_LIMIT_BYTES,
    STDIN,
    SourceError,
    check_name,
    read_file,
    read_stdin,
)

# Malformed lines that are kept with their reason.
NAMED = 20
_BOM = b"\xef\xbb\xbf"


class SkippedLine(msgspec.Struct, frozen=True):
    """A malformed line and the reason. ``line`` counts from 1."""

    file: str
    line: int
    why: str


class RecordReader:
    """Reads files of records into ``sorter``. Records without a tenant belong to
    ``tenant``.
    """

    def __init__(self, sorter: Sorter, tenant: str = "default") -> None:
        self.sorter = sorter
        self._tenant = tenant
        self.lines = 0
        self.skipped = 0
        self.named: list[SkippedLine] = []
        self._decode = msgspec.json.Decoder().decode

    def read(self, name: str, passed: Callable[[int], None]) -> None:
        """Read every line of a file (``-``: standard input). Raises SourceError."""
        check_name(name, follow=False)
        lines = read_stdin() if name == STDIN else read_file(name, passed)
        number = 0
        for line in lines:
            number += 1
            self._take(name, number, line)
        self.lines += number

    def _take(self, name: str, number: int, line: bytes) -> None:
        try:
            request = self._request(line, first=number == 1)
        except (ValueError, RecursionError) as error:
            self.skipped += 1
            if len(self.named) < NAMED:
                why = str(error) or "nested too deep"
                self.named.append(SkippedLine(name, number, why))
            return
        if request is not None:
            self.sorter.add(request)

    def _request(self, line: bytes, *, first: bool) -> Request | None:
        if len(line) > LINE_LIMIT_BYTES:
            raise EventError("longer than 1 MiB")
        if first:
            line = line.removeprefix(_BOM)
        if not line or line.isspace():
            return None
        record: Any = self._decode(line)
        if not isinstance(record, dict):
            raise EventError("not a JSON object")
        request = request_from_record(record)
        if record.get("tenant") is None:
            request.tenant = self._tenant
        return request


def read_all(
    names: tuple[str, ...], sorter: Sorter, passed: Callable[[int, int], None]
) -> RecordReader:
    """Read all files; ``passed`` is called with the index of a file and its bytes read.

    Raises SourceError if one cannot be read, or none has a usable record.
    """
    reader = RecordReader(sorter)
    for place, name in enumerate(names):
        reader.read(name, file_progress(passed, place))
    check_usable(names, reader)
    return reader


def check_usable(names: tuple[str, ...], reader: RecordReader) -> None:
    """Raise SourceError if no usable record was read."""
    if len(reader.sorter):
        return
    shown = ", ".join("standard input" if n == STDIN else n for n in names)
    first = next((f" (line {n.line}: {n.why})" for n in reader.named), "")
    raise SourceError(f"{shown}: not one usable record{first}")


def file_progress(
    passed: Callable[[int, int], None], place: int
) -> Callable[[int], None]:
    """The progress callback of one file among several."""
    return lambda read: passed(place, read)


class UsageEstimates:
    """Estimates usage of requests that were refused when recorded: moving averages of
    the same user and model, else of the tenant and model, else of the tenant.
    """

    _ALPHA = 0.05
    _MOST = 100_000

    def __init__(self) -> None:
        # averages of prompt tokens, completion tokens, dollars, seconds
        self._known: dict[tuple[str, ...], list[float]] = {}

    def complete(self, request: Request) -> None:
        """Learn the usage of an answered request; fill in that of a refused one."""
        keys = (
            (request.tenant, request.user, request.model),
            (request.tenant, request.model),
            (request.tenant,),
        )
        if request.refused:
            self._assume(request, keys)
        elif request.source != "none":
            for key in keys:
                self._learn(key, request)

    def _learn(self, key: tuple[str, ...], request: Request) -> None:
        seen = (
            float(request.prompt_tokens),
            float(request.completion_tokens),
            request.usd,
            request.duration_s,
        )
        known = self._known.get(key)
        if known is not None:
            for place, value in enumerate(seen):
                known[place] += self._ALPHA * (value - known[place])
        elif len(self._known) < self._MOST:
            self._known[key] = list(seen)

    def _assume(self, request: Request, keys: tuple[tuple[str, ...], ...]) -> None:
        known = next((self._known[key] for key in keys if key in self._known), None)
        request.status = 200
        request.assumed = True
        if known is None:
            return
        request.prompt_tokens, request.completion_tokens = map(round, known[:2])
        request.total_tokens = request.prompt_tokens + request.completion_tokens
        request.usd, request.duration_s = known[2], known[3]
        request.source = "estimated"


def in_order(sorter: Sorter) -> Iterator[Request]:
    """The requests, oldest first, with estimated usage for refused ones."""
    usual = UsageEstimates()
    for request in sorter:
        usual.complete(request)
        yield request
