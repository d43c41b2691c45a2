"""A child process of the supervisor: start, reap, restart with a delay."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence

from gateway.serve.runtime import DeathSignal

# A child that ran for this long is restarted without a delay, seconds. (Starting takes
# half a second, several seconds on a busy machine.)
EARLY_EXIT_S = 5.0
# Delays in seconds before the restart after the first, second, … early exit in a row.
# With one second to start, a child is back within two.
DELAYS_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.0)


class Child:
    """A process that is restarted until the supervisor ends it.

    ``launch`` returns the command, the environment and the descriptors to pass for an
    incarnation (0, 1, …). ``dies_by``: signal that the kernel sends to the child when the
    supervisor dies.
    """

    def __init__(
        self,
        name: str,
        launch: Callable[[int], tuple[Sequence[str], dict[str, str], tuple[int, ...]]],
        dies_by: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self._launch = launch
        self._on_orphaned = DeathSignal(dies_by)
        self._running: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self.starts = 0
        self.early_exits = 0
        """Exits in a row within EARLY_EXIT_S of the start."""
        self.start_at: float | None = None
        """Time of the next start (monotonic seconds); None: running, or ended for good."""

    @property
    def pid(self) -> int | None:
        return None if self._running is None else self._running.pid

    def start(self, now: float) -> None:
        """Start the process. Raises OSError."""
        argv, environ, descriptors = self._launch(self.starts)
        self.start_at = None
        self._started_at = now
        self.starts += 1
        self._running = subprocess.Popen(  # noqa: S603 - our own commands
            argv,
            env=environ,
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            # Ctrl-C in a terminal reaches the supervisor only, which stops all in order.
            process_group=0,
            preexec_fn=self._on_orphaned,  # noqa: PLW1509 - single-threaded
        )

    def reap(self, now: float) -> int | None:
        """The exit status if it ended since the last call, None otherwise; schedules the
        next start.
        """
        if self._running is None:
            return None
        status = self._running.poll()
        if status is None:
            return None
        self._running = None
        early = now - self._started_at < EARLY_EXIT_S
        self.early_exits = self.early_exits + 1 if early else 0
        count = min(self.early_exits, len(DELAYS_S) - 1)
        self.start_at = now + (DELAYS_S[count - 1] if count else 0.0)
        return status

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal if the process runs."""
        if self._running is not None:
            self._running.send_signal(signum)


def describe_status(status: int) -> str:
    """Text of an exit status: a signal name or a number."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def child_environ(**variables: str) -> dict[str, str]:
    """This process's environment with some variables set."""
    # One malloc arena: with few threads, further arenas only cost memory.
    return {"MALLOC_ARENA_MAX": "1", **os.environ, **variables}
