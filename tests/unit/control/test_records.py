"""Records from the rings to metrics, client table and file."""

from __future__ import annotations

import json

import msgspec
import pytest

from gateway.admin.clients import ClientTable
from gateway.admin.metrics import Metrics
from gateway.control import records as module
from gateway.control.records import Collector
from gateway.core.model import CLOSED, OPENED
from gateway.serve.ring import RingWriter, create_ring
from gateway.sinks.file import FileSink
from tests.records import make_record

encode = msgspec.msgpack.encode


@pytest.fixture(name="rings")
def _rings(tmp_path):
    paths = [str(tmp_path / f"ring-{index}") for index in range(2)]
    for path in paths:
        create_ring(path, 65536)
    return paths


def open_collector(rings, file):
    collector = Collector(rings, Metrics("1"), ClientTable())
    collector.sink = FileSink(str(file), max_bytes=1 << 20, keep=1)
    collector.sink.start()
    return collector


def test_records_of_every_worker_are_collected(rings, tmp_path):
    """Records of every worker are counted and written, one line each."""
    file = tmp_path / "r.jsonl"
    collector = open_collector(rings, file)
    for index, path in enumerate(rings):
        RingWriter(path).append(encode(make_record(request_id=f"r{index}")))
    assert collector.drain() is False
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["request_id"] for line in lines] == ["r0", "r1"]
    assert (collector.collected, collector.waiting_bytes) == (2, 0)
    collector.close()


def test_batches_are_bounded(rings, tmp_path, monkeypatch):
    """A backlog is collected in bounded batches, and ``drain`` says whether records
    remain.
    """
    monkeypatch.setattr(module, "BATCH", 3)
    collector = open_collector(rings, tmp_path / "r.jsonl")
    writer = RingWriter(rings[0])
    for _ in range(5):
        writer.append(encode(make_record()))
    assert (collector.drain(), collector.collected) == (True, 3)
    assert (collector.drain(), collector.collected) == (False, 5)
    collector.close()


def test_a_record_that_ends_control_does_not_end_the_next_one(rings, tmp_path):
    """A record that raises in detection is written and not read again by the next
    control.
    """
    file = tmp_path / "r.jsonl"
    collector = open_collector(rings, file)

    def fail(_records):
        raise ZeroDivisionError

    collector._detect = fail
    RingWriter(rings[0]).append(encode(make_record(request_id="poison")))
    with pytest.raises(ZeroDivisionError):
        collector.drain()
    collector.close()
    after = open_collector(rings, file)
    assert (after.drain(), after.collected) == (False, 0)
    assert [
        json.loads(line)["request_id"] for line in file.read_text().splitlines()
    ] == ["poison"]
    collector.sink.close()
    after.sink.close()
    after.close()


def test_unreadable_records_are_counted(rings, tmp_path):
    """Unreadable ring entries are counted and skipped."""
    collector = open_collector(rings, tmp_path / "r.jsonl")
    writer = RingWriter(rings[0])
    for entry in (b"junk", b"", encode(make_record())):
        writer.append(entry)
    collector.drain()
    assert (
        collector.unreadable,
        len((tmp_path / "r.jsonl").read_bytes().splitlines()),
    ) == (2, 1)
    collector.close()


def test_a_killed_control_loses_and_repeats_no_line(rings, tmp_path):
    """Records written but not committed by a killed control are not written again by
    its successor.
    """
    file = tmp_path / "r.jsonl"
    writer = RingWriter(rings[0])
    for number in range(3):
        writer.append(encode(make_record(request_id=f"r{number}")))
    killed = open_collector(rings, file)
    entries = killed._readers[0].read(2)
    killed._take(entries)  # killed before the commit
    successor = open_collector(rings, file)
    successor.drain()
    successor.sink.caught_up()
    ids = [json.loads(line)["request_id"] for line in file.read_text().splitlines()]
    assert ids == ["r0", "r1", "r2"]
    assert successor.collected == 3
    killed.close()
    successor.close()


def test_without_a_file_records_still_count(rings):
    """Records are counted without a file."""
    collector = Collector(rings, Metrics("1"), ClientTable())
    RingWriter(rings[1]).append(encode(make_record()))
    collector.drain()
    assert collector.collected == 1
    collector.close()


def test_announced_requests_are_for_detection_alone(rings, tmp_path):
    """Opening records go to detection only; the closing one is counted and written."""
    seen = []
    clients = ClientTable()
    collector = Collector(rings, Metrics("1"), clients, seen.extend)
    file = tmp_path / "r.jsonl"
    collector.sink = FileSink(str(file), max_bytes=1 << 20, keep=1)
    collector.sink.start()
    writer = RingWriter(rings[0])
    writer.append(encode(make_record(phase=OPENED, status=0)))
    collector.drain()
    assert (collector.collected, len(clients), file.read_bytes()) == (0, 0, b"")
    writer.append(b"junk")
    writer.append(encode(make_record(phase=CLOSED)))
    collector.drain()
    assert [record.phase for record in seen] == [OPENED, CLOSED]
    assert (collector.collected, file.read_bytes().count(b"\n")) == (1, 1)
    collector.close()
