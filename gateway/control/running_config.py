"""The configuration in force, and its replacement: all of it or nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.config import Config, ConfigError, Loaded, Problem, load, resolve
from gateway.config.resolve import Resolved
from gateway.serve.link import Message
from gateway.serve.price_table import age_warning, load_table, refresh_table
from gateway.serve.runtime import Snapshot, load_snapshot, write_snapshot

# Settings that are bound at start: a reload lists those that changed and applies the rest.
NEEDS_RESTART: dict[str, Callable[[Config], Any]] = {
    "server.listen": lambda config: config.server.listen,
    "server.workers": lambda config: config.server.workers,
    "server.log": lambda config: config.server.log,
    "admin.listen": lambda config: config.admin.listen,
    "store": lambda config: config.store,
}


class ReloadResult(msgspec.Struct, frozen=True):
    """Result of an attempt to read the configuration."""

    ok: bool
    at: float
    generation: int
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    # Changed keys that take effect only at the next start.
    needs_restart: tuple[str, ...] = ()

    def public(self) -> dict[str, Any]:
        """The result in the form of the admin API."""
        return {
            "ok": self.ok,
            "generation": self.generation,
            "errors": list(self.errors),
            "warnings": list(self.warnings),
            "needs_restart": list(self.needs_restart),
        }


class RunningConfig:
    """The configuration that all processes run on, as text and as resolved values."""

    def __init__(
        self,
        runtime_dir: str,
        snapshot: Snapshot,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises ConfigError; the supervisor has validated the snapshot before."""
        self._runtime_dir = runtime_dir
        self._clock = clock
        self._snapshot = snapshot
        self._at_start: Config = load_snapshot(snapshot).config
        self.loaded: Loaded = load_snapshot(snapshot)
        self.resolved: Resolved = resolve(self.loaded.config)
        self.prices = load_table(runtime_dir)
        self.last = ReloadResult(True, clock(), snapshot.generation)
        self.failures = 0
        # Text that was read last, valid or not; None if it could not be read.
        self._tried = snapshot.text

    @property
    def config(self) -> Config:
        return self.loaded.config

    @property
    def generation(self) -> int:
        return self._snapshot.generation

    @property
    def file(self) -> str | None:
        return self._snapshot.config

    def message(self) -> Message:
        """Message to workers with the bytes that were validated here."""
        return {
            "type": "config",
            "generation": self.generation,
            "snapshot": self._snapshot,
        }

    def reload(self) -> ReloadResult:
        """Read the file again; an invalid one leaves the old configuration in force. All
        errors are in the result.
        """
        self._tried = None
        try:
            text = self._tried = read_text(self.file)
            snapshot = msgspec.structs.replace(
                self._snapshot, generation=self.generation + 1, text=text
            )
            loaded = load_snapshot(snapshot)
            resolved = resolve(loaded.config)
        except ConfigError as error:
            self.failures += 1
            problems = tuple(str(problem) for problem in error.problems)
            self.last = ReloadResult(False, self._clock(), self.generation, problems)
            return self.last
        self._snapshot, self.loaded, self.resolved = snapshot, loaded, resolved
        warnings = [str(warning) for warning in loaded.warnings]
        # At most a second, and only where a newer release was installed meanwhile.
        problem = refresh_table(self._runtime_dir)
        self.prices = load_table(self._runtime_dir)
        old = age_warning(self.prices)
        warnings += [f"prices: {words}" for words in (problem, old) if words]
        try:
            write_snapshot(self._runtime_dir, snapshot)
        except OSError as error:  # workers get it from this process nevertheless
            warnings.append(f"in force, but not saved for a restart: {error.strerror}")
        self.last = ReloadResult(
            True,
            self._clock(),
            self.generation,
            warnings=tuple(warnings),
            needs_restart=self._needs_restart(loaded.config),
        )
        return self.last

    def _needs_restart(self, config: Config) -> tuple[str, ...]:
        return tuple(
            key
            for key, read in NEEDS_RESTART.items()
            if read(config) != read(self._at_start)
        )

    def is_changed(self) -> bool:
        """Whether the file differs from the text that was last tried."""
        try:
            return read_text(self.file) != self._tried
        except ConfigError:
            return self._tried is not None


def read_text(path: str | None) -> str | None:
    """Text of the file; None without a file. Raises ConfigError."""
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            return file.read().decode()
    except OSError as error:
        message = f"cannot read it: {os.strerror(error.errno or 0)}"
        raise ConfigError((Problem(path, 0, "", message),)) from error
    except UnicodeDecodeError:
        load(path)  # raises ConfigError with the line
        return None
