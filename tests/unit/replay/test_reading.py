"""Reading files of records into requests in order of time."""

from __future__ import annotations

import gzip
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.replay.reading import NAMED, in_order, read_all
from gateway.replay.requests import request_from_record
from gateway.replay.sorting import Sorter
from gateway.stream.source import SourceError


def record(ts, **changes):
    """A record of one second."""
    plain = {
        "ts": ts, "client_ip": "10.0.0.1", "user": "u", "model": "m",
        "prompt_tokens": 10, "completion_tokens": 20, "usd": 0.5, "duration_ms": 1000,
    }  # fmt: skip
    return plain | changes


def jsonl(records):
    """Lines."""
    return "".join(json.dumps(one) + "\n" for one in records).encode()


def unheard(_place, _read):
    """A progress callback that does nothing."""


def read(*names, run=1000):
    """The reader and its requests."""
    with Sorter(run) as sorter:
        reader = read_all(tuple(map(str, names)), sorter, unheard)
        return reader, list(in_order(sorter))


@given(st.lists(st.integers(0, 50), max_size=300), st.integers(1, 40))
def test_any_order_is_put_right(times, run):
    """The order is the same with and without temporary runs; equal times stay stable."""
    requests = [
        request_from_record(record(1e9 + ts, user=f"u{n}"))
        for n, ts in enumerate(times)
    ]
    with Sorter(run) as sorter:
        for one in requests:
            sorter.add(one)
        assert len(sorter) == len(requests)
        assert list(sorter) == sorted(requests, key=lambda one: one.ts)


def test_overlapping_and_compressed_files(tmp_path):
    """Rotated files of several gateways become one stream in order of time."""
    chance = random.Random(1)
    times = [1e9 + chance.uniform(0, 1000) for _ in range(300)]
    (tmp_path / "a.jsonl").write_bytes(jsonl(map(record, times[:150])))
    (tmp_path / "b.jsonl.gz").write_bytes(
        gzip.compress(jsonl(map(record, times[150:])))
    )
    reader, requests = read(tmp_path / "b.jsonl.gz", tmp_path / "a.jsonl", run=64)
    assert [one.ts for one in requests] == sorted(times)
    assert (reader.lines, reader.skipped) == (300, 0)


def test_malformed_lines_are_counted_and_named(tmp_path):
    """Malformed lines are kept with file and line, up to a limit; blank lines and a BOM
    are accepted.
    """
    bad = b"nonsense\n" * (NAMED + 5)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + jsonl([record(1e9)]) + b"\n" + bad + b"[]")
    reader, requests = read(path)
    assert len(requests) == 1
    assert (reader.lines, reader.skipped) == (NAMED + 8, NAMED + 6)
    assert len(reader.named) == NAMED
    assert (reader.named[0].file, reader.named[0].line) == (str(path), 3)


@pytest.mark.parametrize(
    "line", [b"[" * 100_000, b" " + b"x" * (1 << 21), b"[1]", b'{"ts": NaN}', b"\xff"]
)
def test_no_line_breaks_the_reader(tmp_path, line):
    """Any malformed line is skipped and the next one is read."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b"\n" + jsonl([record(1e9)]))
    reader, requests = read(path)
    assert (reader.skipped, len(requests)) == (1, 1)


def test_nothing_usable_is_an_error(tmp_path):
    """Files without a usable record raise an error with the first reason."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"ts": 1}\n')
    with pytest.raises(SourceError, match=r"not one usable record \(line 1: client_ip"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(SourceError, match=r"not one usable record$"):
        read(path)
    with pytest.raises(SourceError, match="cannot read"):
        read(tmp_path / "none")


def refused(ts, **changes):
    """A record of a refused request, without usage."""
    lost = {"prompt_tokens": 0, "completion_tokens": 0, "usd": 0.0, "duration_ms": 1}
    said = {"action": "limit", "outcome": "refused", "status": 429}
    return record(ts, **lost, **said, usage_source="none", **changes)


def test_refusals_are_taken_to_be_like_the_users_others(tmp_path):
    """Usage is estimated from the same user and model, else from the tenant."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        jsonl(
            [
                refused(1e9),
                record(1e9 + 1),
                refused(1e9 + 2),
                refused(1e9 + 3, user="v"),
                refused(1e9 + 4, tenant="new"),
            ]
        )
    )
    _, (first, _, second, third, fourth) = read(path)
    assert (first.assumed, first.usage.total, first.source) == (True, 0, "none")
    for one in (second, third):
        assert (one.usage.total, one.usd, one.duration_s) == (30, 0.5, 1.0)
        assert (one.assumed, one.status, one.source) == (True, 200, "estimated")
    assert fourth.usage.total == 0
