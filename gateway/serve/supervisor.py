"""The parent process: starts the store engine, control and the workers.

It restarts children that exit, forwards signals, and stops all in order: control
reports "not ready", the workers drain, control writes the remaining records, the engine
stops last. It handles no requests and stays small: standard library, msgspec and the
configuration. Its children die with it, even if it is killed.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NoReturn

import msgspec

from gateway.config import Config, ConfigError, Loaded, find_file, load, resolve
from gateway.serve.children import Child, child_environ, describe_status
from gateway.serve.ports import AddressTaken, HeldAddress, format_address
from gateway.serve.price_table import refresh_table
from gateway.serve.runtime import (
    CHILD_VARIABLE,
    SPEC_VARIABLE,
    ChildSpec,
    RuntimeDirectory,
    ServeSpec,
    Snapshot,
    load_snapshot,
    open_runtime,
    raise_file_limit,
    read_snapshot,
    runtime_base,
    serve_spec,
    write_private,
    write_snapshot,
)
from gateway.store.embedded import (
    EmbeddedEngine,
    EngineBusy,
    EngineFailed,
    EngineMissing,
)
from gateway.store.opening import MEMORY_URL, is_shared, open_backend

# Seconds beyond drain_timeout, for settling and closing.
GRACE_S = 5.0
# Seconds. The engine first reads its append-only file: about 1 s per 100 MB.
ENGINE_START_S = 60.0
# Seconds. Control reports "draining" within milliseconds unless it hangs.
DRAIN_ACK_S = 0.5
CONTROL_END_S = 10.0
ENGINE_END_S = 10.0
# Starts of one child before the gateway was ever ready; then the start is given up.
MAX_FAILED_STARTS = 5
_IDLE_S = 30.0
_STOP = frozenset({signal.SIGTERM, signal.SIGINT})


class StartError(Exception):
    """The gateway cannot start; the text says why."""


def write_line(line: str) -> None:
    """Write one line to standard error in one write: the children write there as well,
    and ``print`` would write the text and the line end separately.
    """
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class SupervisorLog:
    """Log lines on standard error, in the format of the children's logs."""

    def __init__(self, form: str) -> None:
        self._json = form == "json" or (form == "auto" and not sys.stderr.isatty())

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if self._json:
            line = {"timestamp": now, "level": level, "event": event} | fields
            text = msgspec.json.encode(line).decode()
        else:
            pairs = "".join(f" {key}={value}" for key, value in fields.items())
            text = f"{now} [{level:<7}] {event}{pairs}"
        write_line(text)


class SupervisedStore:
    """The effective store URL, and the embedded engine if it is used."""

    def __init__(self, url: str, log: SupervisorLog) -> None:
        self.url = url
        self.fallback = ""
        self.engine: EmbeddedEngine | None = None
        self.child: Child | None = None
        engine = open_backend(url).engine(runtime_base())
        if engine is not None:
            self._embed(engine, log)

    def _embed(self, engine: EmbeddedEngine, log: SupervisorLog) -> None:
        try:
            argv = engine.argv()
            engine.prepare()
        except EngineMissing as missing:
            self.url = MEMORY_URL
            self.fallback = str(missing)
            log(
                "warning",
                "store_engine_missing",
                reason=self.fallback,
                effect="one worker; limits of this process, lost at restart",
            )
            return
        except (EngineBusy, EngineFailed) as error:
            raise StartError(str(error)) from error
        self.engine = engine
        self.url = engine.url
        self.child = Child(
            "engine", lambda _: (argv, child_environ(), ()), signal.SIGTERM
        )

    def start(self, stop_asked: Callable[[], bool]) -> None:
        """Start the engine and wait until it serves. Raises StartError."""
        if self.child is None or self.engine is None:
            return
        self.child.start(time.monotonic())
        until = time.monotonic() + ENGINE_START_S
        while not self.engine.ready():
            status = self.child.reap(time.monotonic())
            if status is not None:
                msg = f"the store engine ended at once: {describe_status(status)}"
                raise StartError(msg)
            if stop_asked():
                msg = "stopped while the store engine was starting"
                raise StartError(msg)
            if time.monotonic() > until:
                msg = f"the store engine was not ready within {ENGINE_START_S:g} s"
                raise StartError(msg)
            time.sleep(0.005)


class Signals:
    """Signals as bytes on a socket, so that one ``select`` waits for all events."""

    HANDLED = (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGCHLD,
    )

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for signum in self.HANDLED:
            signal.signal(signum, _noted)

    def take(self) -> set[int]:
        """Signals received since the last call."""
        with suppress(BlockingIOError):
            return set(self.reader.recv(4096))
        return set()


def _noted(_signum: int, _frame: Any) -> None:
    """Does nothing: the signal number is written to the wake-up descriptor."""


class Supervisor:
    """The children and their state, from the first start to the last exit."""

    def __init__(self, spec: ServeSpec, loaded: Loaded, snapshot: Snapshot) -> None:
        self._spec = spec
        self._config: Config = loaded.config
        self.log = SupervisorLog(self._config.server.log.format)
        self._snapshot = snapshot
        self._signals = Signals()
        self._notify_reader, self._notify_writer = os.pipe()
        os.set_blocking(self._notify_reader, False)
        self._notices = b""
        self._listen = HeldAddress(*self._config.server.address)
        self._admin = HeldAddress(*self._config.admin.address)
        self._runtime = self._open_runtime()
        self._store = SupervisedStore(self._config.store.connection_url(), self.log)
        self._rings: tuple[str, ...] = ()
        self._control = Child("control", self._launch_control)
        self._workers: list[Child] = []
        self._ready = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._signals.reader, selectors.EVENT_READ)
        self._selector.register(self._notify_reader, selectors.EVENT_READ)

    def _open_runtime(self) -> RuntimeDirectory:
        parts = (
            self._snapshot.config or os.getcwd(),
            *map(str, self._listen.address + self._admin.address),
            self._config.store.url,
        )
        return open_runtime("\0".join(parts))

    # -- start -------------------------------------------------------------------------

    def start(self) -> None:
        """Start all children in order. Raises StartError, OSError."""
        files = raise_file_limit()
        write_snapshot(self._runtime.path, self._snapshot)
        problem = refresh_table(self._runtime.path)
        if problem:
            self.log("warning", "prices_not_compiled", why=problem)
        self._store.start(lambda: bool(self._signals.take() & _STOP))
        count = self._worker_count()
        self._rings = tuple(self._runtime.make_ring(i) for i in range(count))
        self._workers = [
            Child(f"worker-{index}", self._launch_worker(index))
            for index in range(count)
        ]
        self.log("info", "starting", workers=count, open_files=files)
        now = time.monotonic()
        for child in (self._control, *self._workers):
            child.start(now)
        self._write_state()

    def _worker_count(self) -> int:
        count = resolve(self._config).workers
        if not is_shared(self._store.url) and count > 1:
            self.log(
                "warning",
                "workers_reduced",
                configured=count,
                workers=1,
                reason="memory: counts within one process",
            )
            return 1
        return count

    def _launch_control(
        self, incarnation: int
    ) -> tuple[list[str], dict[str, str], tuple[int, ...]]:
        spec = self._child_spec("control", 0, incarnation)
        notify = self._notify_writer
        spec = msgspec.structs.replace(spec, rings=self._rings, notify_fd=notify)
        return self._command(spec), self._environ(spec), (notify,)

    def _launch_worker(
        self, index: int
    ) -> Callable[[int], tuple[list[str], dict[str, str], tuple[int, ...]]]:
        def launch(
            incarnation: int,
        ) -> tuple[list[str], dict[str, str], tuple[int, ...]]:
            spec = self._child_spec("worker", index, incarnation)
            spec = msgspec.structs.replace(spec, ring=self._rings[index])
            return self._command(spec), self._environ(spec), ()

        return launch

    def _child_spec(self, role: Any, index: int, incarnation: int) -> ChildSpec:
        return ChildSpec(
            role=role,
            index=index,
            incarnation=incarnation,
            runtime_dir=self._runtime.path,
            link=self._runtime.link,
            ring="",
            store_url=self._store.url,
            listen=self._listen.address,
            admin=self._admin.address,
            config=self._snapshot.config,
            overrides=self._spec.overrides,
            workers=len(self._workers),
            fallback=self._store.fallback,
        )

    def _command(self, spec: ChildSpec) -> list[str]:
        return [sys.executable, "-m", f"gateway.{spec.role}.{spec.role}"]

    def _environ(self, spec: ChildSpec) -> dict[str, str]:
        return child_environ(**{CHILD_VARIABLE: msgspec.json.encode(spec).decode()})

    # -- run ---------------------------------------------------------------------------

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; returns the exit status."""
        while True:
            seen = self._wait(self._until_next_start())
            if seen & _STOP:
                return self._stop()
            if signal.SIGHUP in seen:
                self._control.signal(signal.SIGHUP)
            if b"ready\n" in self._take_notices():
                self._report_ready()
            self._restart_due(self._children())
            failing = self._failing_child()
            if failing is not None:
                self.log("error", "start_abandoned", child=failing.name)
                self._stop()
                return 1

    def _children(self) -> tuple[Child, ...]:
        engine = () if self._store.child is None else (self._store.child,)
        return (*engine, self._control, *self._workers)

    def _wait(self, timeout_s: float) -> set[int]:
        self._selector.select(timeout_s)
        with suppress(BlockingIOError):
            self._notices += os.read(self._notify_reader, 4096)
        return self._signals.take()

    def _take_notices(self) -> bytes:
        """Lines that control wrote since the last call."""
        notices, self._notices = self._notices, b""
        return notices

    def _until_next_start(self) -> float:
        planned = [c.start_at for c in self._children() if c.start_at is not None]
        return max(
            0.0, min(planned, default=time.monotonic() + _IDLE_S) - time.monotonic()
        )

    def _restart_due(self, children: Iterable[Child]) -> None:
        """Reap children that exited and start those that are due."""
        changed = False
        for child in children:
            now = time.monotonic()
            status = child.reap(now)
            if status is not None:
                how = describe_status(status)
                self.log("error", "child_died", child=child.name, how=how)
            if child.start_at is not None and child.start_at <= now:
                self._restart(child, now)
                changed = True
        if changed:
            self._write_state()

    def _restart(self, child: Child, now: float) -> None:
        try:
            child.start(now)
        except OSError as error:  # no memory, no processes left
            child.start_at = now + 1.0
            self.log("error", "child_start_failed", child=child.name, why=str(error))
        else:
            self.log("info", "child_restarted", child=child.name, pid=child.pid)

    def _failing_child(self) -> Child | None:
        """A child that ended too often before the gateway was ready for the first time;
        None if there is none, or if the gateway was ready.
        """
        if self._ready:
            return None
        for child in self._children():
            if child.starts > MAX_FAILED_STARTS:
                return child
        return None

    def _report_ready(self) -> None:
        if self._ready:
            return
        self._ready = True
        scheme = "http" if self._config.server.tls is None else "https"
        listen = format_address(*self._listen.address)
        admin = format_address(*self._admin.address)
        admin_scheme = "http" if self._config.admin.tls is None else "https"
        line = f"tidegate ready {scheme}://{listen} admin {admin_scheme}://{admin}"
        write_line(line)

    def _write_state(self) -> None:
        """Write the number of restarts of each child, for control."""
        restarts = {child.name: max(0, child.starts - 1) for child in self._children()}
        with suppress(OSError):
            encoded = msgspec.json.encode({"restarts": restarts})
            write_private(f"{self._runtime.path}/supervisor.json", encoded)

    # -- stop --------------------------------------------------------------------------

    def _stop(self) -> int:
        """Stop all children in order; open exchanges may finish until drain_timeout."""
        drain_s = self._drain_timeout()
        self.log("info", "stopping", drain_timeout_s=drain_s)
        if self._control.pid is not None:
            self._control.signal(signal.SIGUSR1)
            self._await_drain()
        self._end(self._workers, drain_s + GRACE_S)
        self._end([self._control], CONTROL_END_S)
        if self._store.child is not None:
            self._end([self._store.child], ENGINE_END_S)
        if self._store.engine is not None:
            self._store.engine.release()
        self._runtime.remove()  # while the addresses are still reserved
        self._listen.close()
        self._admin.close()
        self.log("info", "stopped")
        return 0

    def _drain_timeout(self) -> float:
        """drain_timeout of the configuration in force, which may be newer than ours."""
        with suppress(OSError, ConfigError, msgspec.DecodeError):
            in_force = load_snapshot(read_snapshot(self._runtime.path))
            return float(in_force.config.server.drain_timeout)
        return float(self._config.server.drain_timeout)

    def _await_drain(self) -> None:
        """Wait until control has reported that this gateway is not ready."""
        until = time.monotonic() + DRAIN_ACK_S
        while time.monotonic() < until:
            if b"draining\n" in self._take_notices():
                return
            self._wait(max(0.0, until - time.monotonic()))
            if self._control.reap(time.monotonic()) is not None:
                return

    def _end(self, children: list[Child], patience_s: float) -> None:
        """Send SIGTERM, after ``patience_s`` SIGKILL, and wait until all have ended.
        Another SIGTERM or SIGINT to the supervisor ends the patience.
        """
        until = time.monotonic() + patience_s
        for child in children:
            child.signal(signal.SIGTERM)
        while any(child.pid is not None for child in children):
            now = time.monotonic()
            for child in children:
                child.reap(now)
                if now >= until:
                    self.log("warning", "child_killed", child=child.name)
                    child.signal(signal.SIGKILL)
            if all(child.pid is None for child in children):
                return
            left_s = until - now if now < until else 0.1
            if self._wait(max(0.01, left_s)) & _STOP:
                until = min(until, time.monotonic())


def read_spec(environ: Mapping[str, str]) -> tuple[ServeSpec, Loaded, Snapshot]:
    """Load and validate the configuration to serve. Raises ConfigError."""
    spec = serve_spec(environ)
    path = find_file(spec.config)
    path = os.path.abspath(path) if path else None
    text = None
    if path is not None:
        with suppress(OSError, UnicodeDecodeError), open(path, "rb") as file:
            text = file.read().decode()
    loaded = load(path, spec.overrides, text=text)
    return spec, loaded, Snapshot(1, path, spec.overrides, text)


def fail(status: int, message: str) -> NoReturn:
    """Exit before any child was started."""
    print(f"tidegate: {message}", file=sys.stderr, flush=True)  # noqa: T201
    raise SystemExit(status)


def main() -> NoReturn:
    """Entry of ``python -m gateway.serve.supervisor``. Exit status 2: invalid
    configuration, 1: cannot start, or a child failed at every start.
    """
    try:
        spec, loaded, snapshot = read_spec(os.environ)
    except (ConfigError, msgspec.DecodeError) as error:
        fail(2, str(error))
    os.environ.pop(SPEC_VARIABLE, None)
    try:
        supervisor = Supervisor(spec, loaded, snapshot)
        supervisor.start()
    except (AddressTaken, StartError, OSError) as error:
        fail(1, str(error))
    for warning in loaded.warnings:
        supervisor.log("warning", "configuration_warning", why=str(warning))
    raise SystemExit(supervisor.run())


if __name__ == "__main__":
    main()
