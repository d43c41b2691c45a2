"""The record ring: no entry is lost, repeated or torn."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.serve.ring import RingError, RingReader, RingWriter, create_ring

SMALL = 4096


@pytest.fixture(name="path")
def _path(tmp_path):
    path = str(tmp_path / "ring")
    create_ring(path, SMALL)
    return path


def test_entries_come_out_as_they_went_in(path):
    """Entries are read whole and in order, also an empty one."""
    writer, reader = RingWriter(path), RingReader(path)
    entries = [b"", b"a", b"bb" * 40, bytes(range(256))]
    assert all(writer.append(entry) for entry in entries)
    assert reader.read() == entries
    assert reader.read() == []


def test_full_ring_refuses_and_counts(path):
    """A full ring drops and counts entries; a commit makes room again."""
    writer, reader = RingWriter(path), RingReader(path)
    accepted = sum(writer.append(b"x" * 100) for _ in range(100))
    assert accepted < 100
    assert reader.dropped == 100 - accepted
    assert len(reader.read()) == accepted
    assert not writer.append(b"y" * 100), "read is not committed"
    reader.commit()
    assert writer.append(b"y" * 100)


def test_entry_too_large_for_the_ring_is_dropped(path):
    """An entry larger than its share of the ring is dropped."""
    writer = RingWriter(path)
    assert not writer.append(b"x" * (SMALL // 8 + 1))
    assert writer.append(b"x" * (SMALL // 8))
    assert writer.dropped == 1


def test_next_reader_goes_on_at_the_commit(path):
    """Uncommitted entries are read again after control is killed."""
    writer, reader = RingWriter(path), RingReader(path)
    writer.append(b"one")
    reader.read()
    reader.commit()
    writer.append(b"two")
    assert reader.read() == [b"two"]
    assert RingReader(path).read() == [b"two"]


def test_restarted_writer_goes_on_at_the_tail(path):
    """A restarted writer appends after the entries of its predecessor."""
    RingWriter(path).append(b"old")
    RingWriter(path).append(b"new")
    assert RingReader(path).read() == [b"old", b"new"]


def test_record_of_a_killed_worker_is_read(path):
    """An entry survives a SIGKILL right after the append."""
    code = (
        "import os,signal,sys\nfrom gateway.serve.ring import RingWriter\n"
        "RingWriter(sys.argv[1]).append(b'last words')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert RingReader(path).read() == [b"last words"]


def test_torn_entry_is_waited_for_then_given_up(path):
    """Entries with a wrong checksum are never returned."""
    writer, reader = RingWriter(path), RingReader(path)
    writer.append(b"torn")
    with open(path, "r+b") as file:
        file.seek(4096 + 8)
        file.write(b"T")
    for _ in range(9):
        assert reader.read() == []
        assert reader.waiting_bytes == 16
    reader.read()
    assert (reader.damaged, reader.waiting_bytes) == (1, 0)
    writer.append(b"sound")
    assert reader.read() == [b"sound"]


def test_limit_bounds_a_batch(path):
    """A read returns at most ``limit`` entries, the next one the rest."""
    writer, reader = RingWriter(path), RingReader(path)
    for number in range(5):
        writer.append(b"%d" % number)
    assert reader.read(2) == [b"0", b"1"]
    assert reader.read(9) == [b"2", b"3", b"4"]


def test_existing_ring_is_kept_and_junk_is_replaced(path):
    """Creating an existing ring keeps its entries; any other file is replaced."""
    RingWriter(path).append(b"kept")
    create_ring(path, SMALL)
    assert RingReader(path).read() == [b"kept"]
    with open(path, "wb") as file:
        file.write(b"junk" * 4096)
    with pytest.raises(RingError):
        RingReader(path)
    create_ring(path, SMALL)
    assert RingReader(path).read() == []


def test_no_room_on_the_disk_is_an_error_at_once(tmp_path, monkeypatch):
    """On a full disk the creation fails: a sparse file would cost a SIGBUS later."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        create_ring(str(tmp_path / "ring"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("capacity", [0, 5000, 2048])
def test_capacity_is_a_power_of_two(tmp_path, capacity):
    """A capacity that is not a power of two is refused."""
    with pytest.raises(ValueError, match="power of two"):
        create_ring(str(tmp_path / "ring"), capacity)


def test_short_file_is_no_ring(tmp_path):
    """A file that cannot hold a header is refused."""
    path = tmp_path / "ring"
    path.write_bytes(struct.pack("<Q", 0))
    with pytest.raises(RingError):
        RingWriter(str(path))


class RingMachine(RuleBasedStateMachine):
    """Any order of appends, reads, commits and restarts behaves like a list."""

    def __init__(self):
        super().__init__()
        folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"
        self.path = f"{folder}/ring-test-{os.getpid()}-{id(self)}"
        create_ring(self.path, SMALL)
        self.writer, self.reader = RingWriter(self.path), RingReader(self.path)
        self.uncommitted: list[bytes] = []
        self.unread: list[bytes] = []
        self.refused = 0

    @rule(size=st.integers(0, 600), letter=st.integers(0, 255))
    def append(self, size, letter):
        entry = bytes([letter]) * size
        if self.writer.append(entry):
            self.unread.append(entry)
        else:
            self.refused += 1

    @rule(limit=st.integers(1, 20))
    def read(self, limit):
        entries = self.reader.read(limit)
        assert entries == self.unread[:limit]
        self.uncommitted += entries
        del self.unread[: len(entries)]

    @rule()
    def commit(self):
        self.reader.commit()
        self.uncommitted.clear()

    @rule()
    def restart_writer(self):
        self.writer.close()
        self.writer = RingWriter(self.path)

    @rule()
    def restart_reader(self):
        self.reader.close()
        self.reader = RingReader(self.path)
        self.unread = self.uncommitted + self.unread
        self.uncommitted = []

    @invariant()
    def drops_are_counted(self):
        assert self.reader.dropped == self.refused

    @invariant()
    def an_empty_ring_has_room(self):
        if not self.unread and not self.uncommitted:
            self.reader.read()
            self.reader.commit()
            assert self.writer.append(b"z" * 500)
            assert self.reader.read() == [b"z" * 500]
            self.reader.commit()

    def teardown(self):
        self.writer.close()
        self.reader.close()
        os.unlink(self.path)


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(max_examples=40, stateful_step_count=40)
