"""``tidegate watch``: input file or stream, standard output, progress bar."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.config import Config
from gateway.detect.packed_baselines import BaselinesError, unpack_baselines
from gateway.stream.source import (
    STDIN,
    SourceError,
    check_name,
    follow_file,
    read_file,
    read_stdin,
)
from gateway.stream.watch import Watch, WatchCounts, open_detectors, settings_from

Write = Callable[[bytes], object]
Passed = Callable[[int], None]


def watch(
    name: str,
    config: Config | None,
    *,
    as_json: bool,
    follow: bool,
    baselines: str | None,
) -> WatchCounts:
    """Write what the detector finds in ``name`` (``-``: standard input) to standard
    output and errors about the input to standard error. Raises SourceError for input
    that cannot be used.
    """
    check_name(name, follow=follow)
    detectors = open_detectors(
        settings_from(config), read_baselines(baselines) if baselines else None
    )
    with _shown(name, follow=follow) as (write, passed):
        watching = Watch(
            detectors, write=write, print_error=_print_error, as_json=as_json
        )
        watching.run(_lines(name, passed, follow=follow))
    for sentence in watching.summary():
        _print_error(sentence)
    # A followed file without any line is no error.
    if not watching.counts.events and (watching.counts.lines or not follow):
        shown = "standard input" if name == STDIN else name
        raise SourceError(f"{shown}: not one usable event")
    return watching.counts


def _lines(name: str, passed: Passed, *, follow: bool) -> Iterator[bytes]:
    if follow:
        return follow_file(name)
    if name == STDIN:
        return read_stdin()
    return read_file(name, passed)


def read_baselines(name: str) -> bytes:
    """The state in a file that ``learn`` wrote. Raises SourceError."""
    try:
        with open(name, "rb") as file:
            return unpack_baselines(file.read())
    except OSError as error:
        raise SourceError(f"cannot read {name}: {error.strerror}") from None
    except BaselinesError as error:
        raise SourceError(f"{name}: {error}") from None


@contextmanager
def _shown(name: str, *, follow: bool) -> Iterator[tuple[Write, Passed]]:
    """The function that writes outputs, and one that shows progress (terminals only)."""
    plain = name == STDIN or follow or not os.path.isfile(name)
    if plain or not sys.stderr.isatty():
        yield _write, lambda _bytes: None
        return
    from rich.console import Console  # noqa: PLC0415 - only for terminals
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(os.path.basename(name), total=os.path.getsize(name))

        def above(line: bytes) -> None:
            """Write a line above the progress bar of the same terminal."""
            text = line.decode().rstrip("\n")
            bar.console.out(text, highlight=False)

        write = above if sys.stdout.isatty() else _write
        yield write, lambda passed: bar.update(task, completed=passed)


def _write(line: bytes) -> None:
    """Write and flush, so that the reader of a pipe gets each line at once."""
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _print_error(sentence: str) -> None:
    sys.stderr.write(f"tidegate: {sentence}\n")
