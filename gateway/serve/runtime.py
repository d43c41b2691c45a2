"""The runtime directory that the processes of one gateway share, and their specs.

It holds the socket of the link, the socket of the engine, the last valid configuration
and (without /dev/shm) the rings. Its name is a hash of the gateway's identity, so a
supervisor that is restarted after a SIGKILL finds the rings of its predecessor with
their unread records. The supervisor holds a lock on it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import shutil
import signal
import socket
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

import msgspec

from gateway.config import Loaded, load
from gateway.core.names import short_name
from gateway.serve.ring import create_ring

CHILD_VARIABLE = "TIDEGATE_CHILD"
SPEC_VARIABLE = "TIDEGATE_SPEC"
# A Unix socket's path has at most 107 bytes; the longest name below takes 14.
MAX_DIRECTORY_BYTES = 90
# Enough for 10,000 clients and as many upstream connections, several times over.
WANTED_FILES = 1_048_576
# Seconds after which the rings of a killed gateway, which hold memory, are removed.
ABANDONED_S = 86_400
_SLOTS = 16  # most gateways of the same identity on one machine
_PR_SET_PDEATHSIG = 1
_PRIVATE = 0o700
_NAME_DIGITS = 16


class ServeSpec(msgspec.Struct, frozen=True):
    """Arguments of the supervisor, from the command line (``TIDEGATE_SPEC``)."""

    config: str | None = None
    overrides: dict[str, Any] = {}


class ChildSpec(msgspec.Struct, frozen=True):
    """Arguments of a child, from the supervisor (``TIDEGATE_CHILD``).

    ``incarnation`` counts the starts of this child, from 0. ``listen`` and ``admin``
    are the resolved addresses, ``ring`` is "" for control (it reads them all:
    ``rings``), ``notify_fd`` is the pipe from control to the supervisor (lines).
    """

    role: Literal["control", "worker"]
    index: int
    incarnation: int
    runtime_dir: str
    link: str
    ring: str
    store_url: str
    listen: tuple[str, int]
    admin: tuple[str, int]
    config: str | None
    overrides: dict[str, Any]
    workers: int
    rings: tuple[str, ...] = ()
    notify_fd: int = -1
    # Why the configured store is not used ("" if it is).
    fallback: str = ""


def child_spec(environ: Mapping[str, str]) -> ChildSpec:
    """The spec of this process. Raises KeyError if no supervisor started it."""
    return msgspec.json.decode(environ[CHILD_VARIABLE], type=ChildSpec)


def serve_spec(environ: Mapping[str, str]) -> ServeSpec:
    """The spec of the supervisor; all defaults if the variable is absent."""
    return msgspec.json.decode(environ.get(SPEC_VARIABLE, "{}"), type=ServeSpec)


class Snapshot(msgspec.Struct, frozen=True):
    """The configuration in force: the validated text, not the current file.

    A worker that starts while the file on disk is invalid reads this.
    """

    generation: int
    config: str | None
    overrides: dict[str, Any]
    text: str | None


def write_snapshot(runtime_dir: str, snapshot: Snapshot) -> None:
    """Replace the snapshot atomically."""
    write_private(f"{runtime_dir}/config.mp", msgspec.msgpack.encode(snapshot))


def read_snapshot(runtime_dir: str) -> Snapshot:
    """The snapshot in force. Raises OSError if none was written."""
    with open(f"{runtime_dir}/config.mp", "rb") as file:
        return msgspec.msgpack.decode(file.read(), type=Snapshot)


def load_snapshot(snapshot: Snapshot) -> Loaded:
    """Load the configuration of a snapshot. Raises ConfigError."""
    return load(snapshot.config, snapshot.overrides, text=snapshot.text)


def write_private(path: str, content: bytes) -> None:
    """Replace a file atomically, with mode 0600. Raises OSError, also on a full disk,
    and then keeps the old file.
    """
    draft = f"{path}.{os.getpid()}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        try:
            _write_all(fd, content)
        finally:
            os.close(fd)
        os.replace(draft, path)
    except OSError:
        with suppress(OSError):
            os.unlink(draft)
        raise


def _write_all(fd: int, content: bytes) -> None:
    """Write in a loop: on a full disk the first write may be partial, without an error."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def gateway_name(runtime_dir: str) -> str:
    """Id of this gateway among those of its store, kept over restarts. Random, because
    two machines may have the same host name and paths.
    """
    path = f"{runtime_dir}.name"  # next to the directory, which a regular stop removes
    with suppress(OSError, ValueError), open(path, "rb") as file:
        text = file.read(_NAME_DIGITS + 1).decode("ascii")
        if len(bytes.fromhex(text)) * 2 == _NAME_DIGITS:
            return text
    name = os.urandom(_NAME_DIGITS // 2).hex()
    try:
        write_private(path, name.encode())
    except OSError:
        return short_name(f"{socket.gethostname()} {runtime_dir}".encode())
    return name


class RuntimeDirectory:
    """A private directory, locked while its supervisor runs."""

    def __init__(self, path: str, shared: str, lock_fd: int) -> None:
        self.path = path
        self._shared = shared  # its counterpart in /dev/shm, "" without one
        self._lock_fd = lock_fd

    @property
    def link(self) -> str:
        return f"{self.path}/link.sock"

    def make_ring(self, index: int) -> str:
        """Path of the worker's ring, created if missing.

        In /dev/shm if it has room, else in the directory. Raises OSError if neither
        has.
        """
        name = f"ring-{index}"
        if self._shared:
            with suppress(OSError):
                create_ring(f"{self._shared}/{name}")
                return f"{self._shared}/{name}"
        create_ring(f"{self.path}/{name}")
        return f"{self.path}/{name}"

    def remove(self) -> None:
        """Remove the directory after a clean stop."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._shared:
            shutil.rmtree(self._shared, ignore_errors=True)
        os.close(self._lock_fd)


def open_runtime(
    identity: str, environ: dict[str, str] | None = None
) -> RuntimeDirectory:
    """Open the directory of a gateway's ``identity`` (its file and addresses).

    A second gateway with the same identity gets the next free one. Raises OSError.
    """
    base = runtime_base(environ)
    _prune(base)
    digest = _short_hash(identity)
    for slot in range(_SLOTS):
        name = digest if slot == 0 else f"{digest}-{slot}"
        path = f"{base}/{name}"
        make_private(path)
        lock_fd = _try_lock(f"{path}/lock")
        if lock_fd is not None:
            return RuntimeDirectory(path, _shared_directory(path), lock_fd)
    raise OSError(errno.EBUSY, "all runtime directories are taken", f"{base}/{digest}")


def _prune(base: str) -> None:
    """Remove directories of gateways that were started more than a day ago and killed."""
    for entry in os.scandir(base):
        with suppress(OSError):
            lock = f"{entry.path}/lock"
            if os.stat(lock).st_mtime > time.time() - ABANDONED_S:
                continue
            fd = _try_lock(lock)
            if fd is not None:
                RuntimeDirectory(entry.path, _shared_directory(entry.path), fd).remove()


def runtime_base(environ: dict[str, str] | None = None) -> str:
    """Directory of this user's runtime directories, created if missing."""
    environ = dict(os.environ) if environ is None else environ
    own = f"/tmp/tidegate-{os.getuid()}"  # noqa: S108 - mode and owner are checked
    given = environ.get("XDG_RUNTIME_DIR", "")
    base = f"{given}/tidegate" if given else own
    if len(base) + 20 > MAX_DIRECTORY_BYTES or not os.access(given or "/tmp", os.W_OK):  # noqa: S108
        base = own
    make_private(base)
    return base


def _short_hash(text: str) -> str:
    return short_name(text.encode())


def _shared_directory(path: str) -> str:
    """The counterpart of a runtime directory in /dev/shm, "" if there is none. The lock
    of the former covers it, so its name is a hash of the whole path.
    """
    name = _short_hash(path)
    base = f"/dev/shm/tidegate-{os.getuid()}"  # noqa: S108 - mode and owner are checked
    try:
        make_private(base)
        make_private(f"{base}/{name}")
    except OSError:
        return ""
    return f"{base}/{name}"


def make_private(path: str) -> None:
    """Create a directory with mode 0700. Raises OSError if another user owns it."""
    with suppress(FileExistsError):
        os.mkdir(path, _PRIVATE)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise OSError(errno.EPERM, "not a directory of this user", path)
    if stat.S_IMODE(found.st_mode) != _PRIVATE:
        os.chmod(path, _PRIVATE)


def _try_lock(path: str) -> int | None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    os.utime(path)  # when its last owner started
    return fd


def raise_file_limit(wanted: int = WANTED_FILES) -> int:
    """Raise the limit of open files up to the hard limit; returns the new limit, which
    children inherit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class DeathSignal:
    """For a forked child: the kernel sends it ``signum`` when the supervisor dies."""

    def __init__(self, signum: signal.Signals) -> None:
        # Loaded before the fork: few calls are safe in the child.
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        self._signum = int(signum)
        self._parent = os.getpid()

    def __call__(self) -> None:
        self._prctl(_PR_SET_PDEATHSIG, self._signum, 0, 0, 0)
        if os.getppid() != self._parent:  # the supervisor died before the call
            os._exit(1)
