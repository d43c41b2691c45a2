"""The SQLite file of an outbox: full disks, damaged files, permissions."""

from __future__ import annotations

import sqlite3

import pytest

from gateway.alerts import sqlite_file
from gateway.alerts.model import report_of
from gateway.alerts.sqlite_file import SqliteFile
from gateway.alerts.sqlite_outbox import SqliteOutbox
from tests.disks import full_disk
from tests.unit.alerts.test_outbox import NOW, said


@pytest.fixture(name="path")
def _path(tmp_path):
    return tmp_path / "run.alerts"


def put(db: sqlite3.Connection, name: str) -> None:
    db.execute("INSERT INTO silences VALUES (?, x'00')", (name,))


def names(db: sqlite3.Connection) -> list[str]:
    return [name for (name,) in db.execute("SELECT id FROM silences ORDER BY id")]


def stored(path) -> list[str]:
    """What another process reads in the file."""
    db = sqlite3.connect(path)
    try:
        return names(db)
    finally:
        db.close()


def test_only_this_user_can_read_the_file(path):
    """The database and its log have mode 0600: payloads name clients."""
    file = SqliteFile(str(path))
    file.change(put, "a")
    modes = {one.name: one.stat().st_mode & 0o777 for one in path.parent.iterdir()}
    assert set(modes) == {"run.alerts", "run.alerts-wal", "run.alerts-shm"}
    assert set(modes.values()) == {0o600}
    file.close(remove=True)
    assert list(path.parent.iterdir()) == []


def test_a_failed_change_leaves_nothing_behind(path):
    """A change is one transaction."""

    def fail(db: sqlite3.Connection) -> None:
        put(db, "a")
        raise ValueError

    file = SqliteFile(str(path))
    with pytest.raises(ValueError):  # noqa: PT011 - raised above
        file.change(fail)
    assert file.read(names) == []
    file.close(remove=True)


def test_a_full_disk_costs_durability_and_no_change(path, monkeypatch):
    """On a full disk changes continue in memory, and the whole state is written once
    there is room again.
    """
    monkeypatch.setattr(sqlite_file, "RETRY_CHANGES", 2)
    file = SqliteFile(str(path))
    file.change(put, "a")
    with full_disk(20):
        file.change(put, "b")
        assert not file.is_durable
        for name in "cde":
            file.change(put, name)
    assert file.read(names) == ["a", "b", "c", "d", "e"]
    assert stored(path) == ["a"]
    for name in "fgh":
        file.change(put, name)
    assert file.is_durable
    assert stored(path) == ["a", "b", "c", "d", "e", "f", "g", "h"]
    file.close(remove=True)


def test_a_full_disk_at_the_start_costs_durability_alone(path, monkeypatch):
    """On a full disk an existing file is read at the start, and a missing one is
    written later.
    """
    monkeypatch.setattr(sqlite_file, "RETRY_CHANGES", 1)
    with full_disk(20):
        file = SqliteFile(str(path))
        file.change(put, "a")
    assert not file.is_durable
    file.change(put, "b")
    assert file.is_durable
    file.close(remove=False)
    with full_disk(20):
        again = SqliteFile(str(path))
        assert again.read(names) == ["a", "b"]
        again.change(put, "c")
        assert not again.is_durable
    again.close(remove=False)
    assert stored(path) == ["a", "b", "c"]


async def test_alerts_are_durable_again_after_a_full_disk(path, monkeypatch):
    """Changes that a full disk refused are in the file afterwards."""
    monkeypatch.setattr(sqlite_file, "RETRY_CHANGES", 2)
    outbox = SqliteOutbox(str(path))
    with full_disk(20):
        await outbox.report(report_of(said("inc_1"), "gw"), NOW)
    for n in range(3):
        await outbox.put_silence(f"s{n}", b"x")
    again = SqliteOutbox(str(path))
    assert await again.incidents() == await outbox.incidents()
    assert await again.silences() == await outbox.silences()
    for one in (outbox, again):
        await one.close()


@pytest.mark.parametrize("damage", ["head", "middle", "version"])
def test_a_file_that_cannot_be_read_is_set_aside(path, damage):
    """A file that cannot be read is renamed, and the gateway starts with an empty
    outbox.
    """
    file = SqliteFile(str(path))
    file.change(put, "a")
    file.close(remove=False)
    if damage == "version":
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version = 99")
        db.close()
    else:
        content = bytearray(path.read_bytes())
        start = 20 if damage == "head" else 4096
        content[start : start + 4096] = b"\xff" * 4096
        path.write_bytes(content)
    again = SqliteFile(str(path))
    assert again.read(names) == []
    again.change(put, "b")
    assert again.is_durable
    assert (path.parent / "run.alerts.unreadable").exists()
    again.close(remove=True)


def test_a_file_without_permission_is_an_error(path, monkeypatch):
    """A file that another user owns ends the start with OSError."""

    def refuse(*_args: object) -> None:
        raise PermissionError

    path.write_bytes(b"x")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError):  # noqa: PT011 - raised above
        SqliteFile(str(path))
