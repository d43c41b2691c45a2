"""Real store engines for tests and load tests: plain, TLS and with a Sentinel."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.store.embedded import EngineMissing, find_engine
from tests.ports import free_port


def engine_binaries() -> dict[str, str]:
    """Paths of the installed store engines by name; empty without any."""
    found: dict[str, str] = {}
    with contextlib.suppress(EngineMissing):
        found["embedded"] = find_engine()
    on_path = shutil.which("redis-server")
    if on_path:
        found["redis"] = on_path
    return found


class Engine:
    """One server process on a Unix socket, optionally with loopback ports."""

    def __init__(
        self, binary: str, directory: Path, *extra: str, sentinel: bool = False
    ) -> None:
        self.directory = directory
        self.socket_path = str(directory / "s")
        self._sentinel = sentinel
        self._argv = [binary, *extra] if sentinel else [
            binary, "--port", "0", "--unixsocket", self.socket_path,
            "--dir", str(directory), "--save", "", "--appendonly", "yes",
            "--loglevel", "warning", *extra,
        ]  # fmt: skip
        self.child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address of the Unix socket."""
        return f"unix://{self.socket_path}"

    def start(self) -> None:
        """Start the process, and wait until it answers."""
        self.child = subprocess.Popen(
            self._argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if not self._sentinel:
            self.wait()

    def wait(self, timeout_s: float = 30.0) -> None:
        """Wait until a PING is answered; raises at once if the process has ended."""
        until = time.monotonic() + timeout_s
        while not self.command(b"PING").startswith((b"+PONG", b"-NOAUTH")):
            status = self.child.poll() if self.child else None
            assert status is None, f"the engine ended with status {status}"
            assert time.monotonic() < until, "the engine does not answer"
            time.sleep(0.01)

    def command(self, line: bytes, timeout_s: float = 10.0) -> bytes:
        """Send one inline command; the first chunk of its answer, or b"" when
        unreachable.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            try:
                connection.connect(self.socket_path)
                connection.sendall(line + b"\r\n")
                return connection.recv(65536)
            except OSError:
                return b""

    def freeze(self) -> None:
        """Stop the process with SIGSTOP: the socket stays, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue the process with SIGCONT."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process with SIGKILL, and reap it."""
        if self.child is not None:
            self._signal(signal.SIGKILL)
            self.child.wait()
            self.child = None

    def forget(self) -> None:
        """Remove the append-only file of a stopped engine."""
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)

    def _signal(self, number: int) -> None:
        assert self.child is not None
        os.kill(self.child.pid, number)


@contextlib.contextmanager
def running_engine(binary: str, *extra: str) -> Iterator[Engine]:
    """Run an engine with an append-only file in its own directory."""
    with tempfile.TemporaryDirectory(prefix="tg-", dir="/tmp") as directory:
        engine = Engine(binary, Path(directory), *extra)
        try:
            engine.start()
            yield engine
        finally:
            engine.kill()


@contextlib.contextmanager
def running_sentinel(binary: str, master_port: int) -> Iterator[int]:
    """Run a Sentinel that monitors one master named ``main``; yields its port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tg-", dir="/tmp") as directory:
        conf = Path(directory) / "sentinel.conf"
        conf.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor main 127.0.0.1 {master_port} 1\n"
        )
        engine = Engine(binary, Path(directory), str(conf), "--sentinel", sentinel=True)
        try:
            engine.start()
            _wait_port(port)
            yield port
        finally:
            engine.kill()


def _wait_port(port: int) -> None:
    until = time.monotonic() + 30
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < until, "the sentinel does not start"
        time.sleep(0.01)
