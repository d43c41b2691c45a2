"""The record file: rotation by size, full disks and killed writers."""

from __future__ import annotations

import os

import pytest

from gateway.sinks.file import FileSink


@pytest.fixture(name="path")
def _path(tmp_path):
    return tmp_path / "deep" / "records.jsonl"


def open_sink(path, **options):
    sink = FileSink(str(path), **{"max_bytes": 1 << 20, "keep": 2} | options)
    sink.start()
    return sink


def test_each_batch_is_in_the_file_at_once(path):
    """Each batch is in the file when ``write`` returns."""
    sink = open_sink(path)
    sink.write([b'{"a":1}', b'{"b":2}'])
    assert path.read_bytes() == b'{"a":1}\n{"b":2}\n'
    assert (sink.written, sink.dropped, sink.error) == (2, 0, "")
    sink.close()


def test_file_is_rotated_by_size(path):
    """A full file is rotated to ``.1``, and ``keep`` rotated files are kept."""
    sink = open_sink(path, max_bytes=10)
    for number in range(5):
        sink.write([b"%d" % number * 10])
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == ["records.jsonl", "records.jsonl.1", "records.jsonl.2"]
    assert (path.parent / "records.jsonl.1").read_bytes() == b"3" * 10 + b"\n"
    sink.close()


def test_keep_nothing_starts_over(path):
    """With ``keep = 0`` a full file is truncated."""
    sink = open_sink(path, max_bytes=5, keep=0)
    sink.write([b"first"])
    sink.write([b"second"])
    assert path.read_bytes() == b"second\n"
    assert len(list(path.parent.iterdir())) == 1
    sink.close()


def test_full_disk_drops_whole_batches_and_recovers(path, monkeypatch):
    """On a full disk a partly written batch is cut off, its records count as dropped,
    and the next batch is written.
    """
    sink = open_sink(path)
    sink.write([b"kept"])
    real = os.write

    def short(fd, batch):
        if len(batch) < 8:
            raise OSError(28, "No space left on device")
        return real(fd, batch[:4])

    monkeypatch.setattr(os, "write", short)
    sink.write([b"lost1", b"lost2"])
    assert path.read_bytes() == b"kept\n"
    assert (sink.dropped, sink.written) == (2, 1)
    assert "No space left" in sink.error
    monkeypatch.setattr(os, "write", real)
    sink.write([b"again"])
    assert path.read_bytes() == b"kept\nagain\n"
    assert sink.error == ""
    sink.close()


def test_unusable_path_is_no_reason_to_fail(tmp_path):
    """With a directory at the path every record counts as dropped, and nothing is
    raised.
    """
    sink = open_sink(tmp_path)
    sink.write([b"x"])
    assert sink.dropped == 1
    assert sink.public()["error"]
    sink.close()


def test_successor_does_not_write_twice(path):
    """A successor skips records that its killed predecessor wrote and that are still in
    the rings.
    """
    first = open_sink(path)
    first.write([b"one", b"two"])
    second = open_sink(path)
    second.write([b"two", b"three"])
    second.caught_up()
    second.write([b"one"])
    assert path.read_bytes() == b"one\ntwo\nthree\none\n"
    first.close()
    second.close()


def test_half_a_line_is_cut(path):
    """An incomplete last line, as after a power failure, is removed."""
    path.parent.mkdir()
    path.write_bytes(b'{"a":1}\n{"b":')
    sink = open_sink(path)
    sink.write([b'{"c":3}'])
    assert path.read_bytes() == b'{"a":1}\n{"c":3}\n'
    sink.close()
