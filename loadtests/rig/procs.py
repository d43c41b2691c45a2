"""Processes of a measurement: started on a core, looked at, ended by their ids."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SOCKET_PATH_BYTES = 107
WRK_MISSING = "wrk is missing: apt-get install wrk (or https://github.com/wg/wrk)"


class RigError(Exception):
    """Something could not be started or measured; the text says what."""


def two_cores() -> tuple[int | None, int | None]:
    """(load and upstream, proxy); both None where there is one core only."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


class Crew:
    """Child processes. All of them end when the block ends, however it ends."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._running):
            self.end(child)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        core: int | None = None,
        *,
        cwd: Path | None = None,
        environ: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start it on ``core``; what it says goes to ``<logs>/<name>.log``."""

        def pin() -> None:
            if core is not None:
                os.sched_setaffinity(0, {core})

        with open(self._logs / f"{name}.log", "ab") as log:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env=os.environ | (environ or {}),
                preexec_fn=pin,  # noqa: PLW1509 - there is one thread
            )
        self._running.append(child)
        return child

    def end(self, child: subprocess.Popen[bytes], patience_s: float = 10.0) -> None:
        """SIGTERM, and SIGKILL when it does not end."""
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(patience_s)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def wait_until(
    what: str, ready: Callable[[], bool], child: subprocess.Popen[bytes], most_s: float
) -> None:
    """Poll; raises RigError when the child ends or time is up."""
    until = time.monotonic() + most_s
    while not ready():
        if child.poll() is not None:
            raise RigError(f"{what} ended with status {child.returncode}; see its log")
        if time.monotonic() > until:
            raise RigError(f"{what} was not ready within {most_s:g} s; see its log")
        time.sleep(0.05)


def listens(port: int) -> bool:
    """Whether somebody accepts on this port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


# -- looking -------------------------------------------------------------------------


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text.rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """``root`` and all below it."""
    below: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                below.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
    found = [root]
    for pid in found:  # grows while it is walked
        found += below.get(pid, [])
    return found


def command(pid: int) -> str:
    """Its command line, words between blanks; "" when it is gone."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words).decode(errors="replace").strip()
    return ""


def cpu_s(pids: Sequence[int]) -> float:
    """Processor seconds (user and system) that they used so far."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = _stat(pid)
            total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def memory_bytes(pids: Sequence[int]) -> int:
    """Their memory; a page that several share counts once (in parts), where the kernel
    tells (smaps_rollup), else for each.
    """
    return sum(map(_memory_bytes, pids))


def _memory_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return resident_bytes(pid)


def resident_bytes(pid: int) -> int:
    """Resident set of one process, shared pages included; 0 when it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return 0


# -- load ----------------------------------------------------------------------------


class Shot:
    """What one run of wrk saw. Times in microseconds."""

    def __init__(self, words: Sequence[str]) -> None:
        numbers = [int(word) for word in words]
        self.requests, took_us, self.refused, self.errors, self.p50, self.p99 = numbers
        self.per_s = self.requests / (took_us / 1e6)


def wrk(
    url: str, connections: int, seconds: float, core: int | None, **environ: str
) -> Shot:
    """Run the load of ``chat.lua``. Raises RigError."""
    found = shutil.which("wrk")
    if found is None:
        raise RigError(WRK_MISSING)
    script = Path(__file__).with_name("chat.lua")
    argv = [found, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
    argv += ["--timeout", "10s", "-s", str(script), url]

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    done = subprocess.run(
        argv,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 30,
        preexec_fn=pin,
    )
    for line in done.stdout.splitlines():
        if line.startswith("WRK "):
            return Shot(line.split()[1:])
    raise RigError(f"wrk said nothing: {done.stdout}{done.stderr}")


def engine_argv(folder: Path) -> tuple[list[str], Path]:
    """A store without persistence on a socket in ``folder``: command line, socket."""
    from gateway.store.embedded import find_engine  # noqa: PLC0415

    path = folder / "store.sock"
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise RigError(f"{folder} is too long a name for a socket in it")
    path.unlink(missing_ok=True)
    argv = [find_engine(), "--port", "0", "--unixsocket", str(path), "--save", ""]
    return [*argv, "--dir", str(folder), "--maxmemory-policy", "noeviction"], path


def median(values: Iterator[float] | Sequence[float]) -> float:
    """The middle one (of an even number the upper of the two)."""
    row = sorted(values)
    return row[len(row) // 2] if row else float("nan")
