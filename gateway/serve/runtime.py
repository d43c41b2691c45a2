"""What the processes of one gateway share on this machine.

The runtime directory holds the link's socket, the engine's socket, the last good
configuration and (where there is no /dev/shm) the rings. Its name is a hash of what the
gateway is, so a supervisor that comes back after a SIGKILL finds the rings of its
predecessor and the records in them; a lock tells which supervisor lives in it.
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
# Rings hold memory; a gateway that is to come back does so sooner than this.
ABANDONED_S = 86_400
_SLOTS = 16  # gateways that are alike in every word, on one machine
_PR_SET_PDEATHSIG = 1
_PRIVATE = 0o700
_NAME_DIGITS = 16


class ServeSpec(msgspec.Struct, frozen=True):
    """What the command line hands to the supervisor (``TIDEGATE_SPEC``)."""

    config: str | None = None
    overrides: dict[str, Any] = {}


class ChildSpec(msgspec.Struct, frozen=True):
    """What the supervisor hands to each child (``TIDEGATE_CHILD``).

    ``incarnation`` counts the starts of this child, from 0. ``listen`` and ``admin``
    are the resolved addresses, ``ring`` is "" for control (it reads them all:
    ``rings``), ``notify_fd`` is where control writes lines for the supervisor.
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
    # Why the store is not the one asked for ("" when it is).
    fallback: str = ""


def child_spec(environ: Mapping[str, str]) -> ChildSpec:
    """The spec of this process; raises KeyError when a supervisor did not start it."""
    return msgspec.json.decode(environ[CHILD_VARIABLE], type=ChildSpec)


def serve_spec(environ: Mapping[str, str]) -> ServeSpec:
    """What to serve; an absent variable means all defaults."""
    return msgspec.json.decode(environ.get(SPEC_VARIABLE, "{}"), type=ServeSpec)


class Snapshot(msgspec.Struct, frozen=True):
    """The configuration in force: the bytes that were validated, not the file's now.

    A worker that starts while a broken file lies on the disk reads this.
    """

    generation: int
    config: str | None
    overrides: dict[str, Any]
    text: str | None


def write_snapshot(runtime_dir: str, snapshot: Snapshot) -> None:
    """Replace the snapshot in one step."""
    write_private(f"{runtime_dir}/config.mp", msgspec.msgpack.encode(snapshot))


def read_snapshot(runtime_dir: str) -> Snapshot:
    """The configuration in force; raises OSError when none was ever written."""
    with open(f"{runtime_dir}/config.mp", "rb") as file:
        return msgspec.msgpack.decode(file.read(), type=Snapshot)


def load_snapshot(snapshot: Snapshot) -> Loaded:
    """The configuration that these bytes make. Raises ConfigError."""
    return load(snapshot.config, snapshot.overrides, text=snapshot.text)


def write_private(path: str, content: bytes) -> None:
    """A file for this user only, replaced in one step. Raises OSError, a full disk's
    too, and then the old file stays.
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
    """A disk that fills up takes a part first, and only then says so."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def gateway_name(runtime_dir: str) -> str:
    """What this gateway is called among those of its store, over restarts. Made up
    once: two machines may have the same host name and paths.
    """
    path = f"{runtime_dir}.name"  # beside the directory, which a clean end removes
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
    """A private directory, locked for as long as its supervisor lives."""

    def __init__(self, path: str, shared: str, lock_fd: int) -> None:
        self.path = path
        self._shared = shared  # the same in /dev/shm, "" where there is none
        self._lock_fd = lock_fd

    @property
    def link(self) -> str:
        return f"{self.path}/link.sock"

    def make_ring(self, index: int) -> str:
        """Path of the worker's ring, made where it is missing.

        In memory (/dev/shm) where there is room, else among the other files: raises
        OSError when there is none anywhere.
        """
        name = f"ring-{index}"
        if self._shared:
            with suppress(OSError):
                create_ring(f"{self._shared}/{name}")
                return f"{self._shared}/{name}"
        create_ring(f"{self.path}/{name}")
        return f"{self.path}/{name}"

    def remove(self) -> None:
        """After a clean end: nothing in it is needed any more."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._shared:
            shutil.rmtree(self._shared, ignore_errors=True)
        os.close(self._lock_fd)


def open_runtime(
    identity: str, environ: dict[str, str] | None = None
) -> RuntimeDirectory:
    """The directory of the gateway called ``identity`` (its file and addresses).

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
    """Remove what gateways that were killed, and never came back, left a day ago."""
    for entry in os.scandir(base):
        with suppress(OSError):
            lock = f"{entry.path}/lock"
            if os.stat(lock).st_mtime > time.time() - ABANDONED_S:
                continue
            fd = _try_lock(lock)
            if fd is not None:
                RuntimeDirectory(entry.path, _shared_directory(entry.path), fd).remove()


def runtime_base(environ: dict[str, str] | None = None) -> str:
    """Where the runtime directories of this user are, made if need be."""
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
    """The twin of a runtime directory in memory, "" where there is no memory to use.
    The lock in the former covers the latter, so the name is that of the whole path.
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
    """A directory of ours with mode 0700. One that somebody else put there: OSError."""
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
    os.utime(path)  # when its last owner came
    return fd


def raise_file_limit(wanted: int = WANTED_FILES) -> int:
    """As many open files as the hard limit gives (children inherit it); the result."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class DeathSignal:
    """Runs in a forked child: the kernel sends ``signum`` when the supervisor dies."""

    def __init__(self, signum: signal.Signals) -> None:
        # Loaded before the fork: the child may do very little.
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        self._signum = int(signum)
        self._parent = os.getpid()

    def __call__(self) -> None:
        self._prctl(_PR_SET_PDEATHSIG, self._signum, 0, 0, 0)
        if os.getppid() != self._parent:  # it died before the call
            os._exit(1)
