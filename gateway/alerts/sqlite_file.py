"""The SQLite file of an outbox: opening, transactions, full disks, damaged files.

Write-ahead log mode, ``synchronous = NORMAL``: a commit is one write to the log
without fsync, so it survives a SIGKILL of every process; a power failure may cost the
last commits, but does not damage the file. All calls block: ``SqliteOutbox`` runs them
in its own thread.

When the disk is full the tables are copied into memory and work goes on there. The
copy is written back every ``RETRY_CHANGES`` changes until that succeeds.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.resources import files
from typing import Concatenate, ParamSpec, TypeVar

import structlog

from gateway.alerts import old_journal

# ``PRAGMA user_version``: raise it with every change of schema.sql.
SCHEMA = 1
# Changes in memory between two attempts to write the file of a full disk again.
RETRY_CHANGES = 100
# The write-ahead log is cut to this size after a checkpoint.
_LOG_BYTES = 4 << 20
_MAGIC = b"SQLite format 3\0"
_SUFFIXES = ("", "-wal", "-shm")
_DISK_ERRORS = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
    }
)

_log = structlog.get_logger()
# The log may be a file on the same full disk.
_LOGGING = suppress(OSError)
_P = ParamSpec("_P")
_T = TypeVar("_T")
Work = Callable[Concatenate[sqlite3.Connection, _P], _T]


class UnreadableFile(Exception):  # noqa: N818 - what the file is
    """The file is damaged or was written by another version."""


class SqliteFile:
    """``path`` "": in memory only. Raises OSError if an existing file cannot be read."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._changes = 0
        self._db = _memory()
        self.is_durable = False
        """Whether commits reach the file."""
        if path:
            self._open()
        else:
            _create(self._db)

    def _open(self) -> None:
        """Take up what the file holds: a database, an old journal, or neither."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self._path}.new")
        kind = _kind_of(self._path)
        if kind == "database" and self._open_database():
            return
        _create(self._db)
        if kind == "journal":
            self._import()
        self._write_file()

    def _open_database(self) -> bool:
        """Open the file, or on a full disk a copy of it in memory; False: unreadable."""
        try:
            try:
                self._db = _checked(_connect(self._path))
                self.is_durable = True
            except sqlite3.OperationalError as error:
                if not _is_disk_error(error):
                    raise
                self._db = _checked(_load(self._path))
        except (sqlite3.DatabaseError, UnreadableFile) as error:
            if "locked" in str(error):
                raise OSError(errno.EBUSY, str(error), self._path) from error
            self._set_aside(str(error))
            return False
        return True

    def _import(self) -> None:
        """Read the journal of version 0.1; ``_write_file`` then replaces it."""
        if old_journal.import_journal(self._path, self._db):
            with _LOGGING:
                _log.info("alert_journal_imported", file=self._path)
            return
        kept = f"{self._path}.unreadable"
        with suppress(OSError):
            os.link(self._path, kept)
        with _LOGGING:
            _log.warning("alert_journal_imported_in_part", file=self._path, kept=kept)

    def _set_aside(self, why: str) -> None:
        """Keep a file that cannot be read under another name, and start without it."""
        kept = f"{self._path}.unreadable"
        for suffix in _SUFFIXES:
            with suppress(FileNotFoundError):
                os.replace(self._path + suffix, kept + suffix)
        with _LOGGING:
            _log.warning("alert_outbox_set_aside", file=kept, reason=why)

    # -- transactions --------------------------------------------------------------------

    def read(self, work: Work[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call ``work`` outside a transaction of its own."""
        return work(self._db, *args, **kwargs)

    def change(self, work: Work[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call ``work`` in one transaction; raises sqlite3.Error."""
        self._changes += 1
        if self._path and not self.is_durable and self._changes > RETRY_CHANGES:
            self._write_file()
        try:
            with _transaction(self._db):
                return work(self._db, *args, **kwargs)
        except sqlite3.OperationalError as error:
            if not self.is_durable or not _is_disk_error(error):
                raise
        self._move_to_memory()
        with _transaction(self._db):
            return work(self._db, *args, **kwargs)

    # -- full disks ----------------------------------------------------------------------

    def _move_to_memory(self) -> None:
        memory = _memory()
        try:
            self._db.backup(memory)
        except sqlite3.OperationalError:  # no room for the -shm file
            memory.close()
            memory = _load(self._path)
        self._db.close()
        self._db, self.is_durable, self._changes = memory, False, 0
        with _LOGGING:
            _log.warning("alert_outbox_not_written", file=self._path)

    def _write_file(self) -> None:
        """Write the tables in memory to the file and go on there; on a full disk what
        the file held before stays.
        """
        self._changes = 0
        if self.is_durable:
            return
        try:
            if _kind_of(self._path) != "database":
                self._replace_file()
            else:
                with closing(_connect(self._path)) as file:
                    self._db.backup(file)
            opened = _checked(_connect(self._path))
        except (sqlite3.Error, OSError) as error:
            with _LOGGING:
                _log.warning(
                    "alert_outbox_not_written", file=self._path, reason=str(error)
                )
            return
        self._db.close()
        self._db, self.is_durable = opened, True

    def _replace_file(self) -> None:
        """Write a new file and rename it: a crash leaves the old one or the new one."""
        draft = f"{self._path}.new"
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        with closing(sqlite3.connect(draft, isolation_level=None)) as file:
            self._db.backup(file)
        # The log of a file that is gone would be applied to the new one.
        for suffix in _SUFFIXES[1:]:
            with suppress(FileNotFoundError):
                os.unlink(self._path + suffix)
        os.replace(draft, self._path)

    # -- end -----------------------------------------------------------------------------

    def close(self, *, remove: bool) -> None:
        """Close the file, or delete it."""
        if self._path and not self.is_durable and not remove:
            self._write_file()
        self._db.close()
        if self._path and remove:
            for suffix in _SUFFIXES:
                with suppress(OSError):
                    os.unlink(self._path + suffix)


def _memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def _connect(path: str) -> sqlite3.Connection:
    """Open an existing database; its log gets the mode of the file (0600)."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _load(path: str) -> sqlite3.Connection:
    """Copy a file into memory."""
    memory = _memory()
    # Exclusive: needs no -shm file, which a full disk would refuse.
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("PRAGMA locking_mode = EXCLUSIVE")
        file.backup(memory)
    return memory


def _checked(db: sqlite3.Connection) -> sqlite3.Connection:
    """Raises UnreadableFile for a damaged file or one of another version."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if version != SCHEMA or state != "ok":
        db.close()
        raise UnreadableFile(f"schema version {version}, integrity check: {state}")
    return db


def _create(db: sqlite3.Connection) -> None:
    db.executescript((files("gateway.alerts") / "schema.sql").read_text())
    db.execute(f"PRAGMA user_version = {SCHEMA}")


def _kind_of(path: str) -> str:
    """``database``, ``journal`` (any other content), or "" without a file."""
    try:
        with open(path, "rb") as file:
            head = file.read(len(_MAGIC))
    except FileNotFoundError:
        return ""
    return "database" if head == _MAGIC else "journal" if head else ""


def _is_disk_error(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in _DISK_ERRORS


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # some errors have rolled back already
            db.execute("ROLLBACK")
        raise
