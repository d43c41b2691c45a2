"""``tidegate watch`` between the process's own streams and the detector."""

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
from gateway.stream.watch import Tally, Watch, open_rooms, settings_from

Write = Callable[[bytes], object]
Passed = Callable[[int], None]


def watch(
    name: str,
    config: Config | None,
    *,
    as_json: bool,
    follow: bool,
    baselines: str | None,
) -> Tally:
    """Findings of ``name`` (``-``: standard input) to standard output, complaints to
    standard error. Raises SourceError for input that cannot be used.
    """
    check_name(name, follow=follow)
    rooms = open_rooms(
        settings_from(config), read_baselines(baselines) if baselines else None
    )
    with _shown(name, follow=follow) as (write, passed):
        room = Watch(rooms, write=write, complain=_complain, as_json=as_json)
        room.run(_lines(name, passed, follow=follow))
    for sentence in room.summary():
        _complain(sentence)
    # A followed file that nobody wrote to was not wrong.
    if not room.tally.events and (room.tally.lines or not follow):
        shown = "standard input" if name == STDIN else name
        raise SourceError(f"{shown}: not one usable event")
    return room.tally


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
    """How findings are written and how far a file is shown: a bar on a terminal."""
    plain = name == STDIN or follow or not os.path.isfile(name)
    if plain or not sys.stderr.isatty():
        yield _write, lambda _bytes: None
        return
    from rich.console import Console  # noqa: PLC0415 - only for terminals
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(os.path.basename(name), total=os.path.getsize(name))

        def above(line: bytes) -> None:
            """Both on one terminal: the bar makes room for a line."""
            text = line.decode().rstrip("\n")
            bar.console.out(text, highlight=False)

        write = above if sys.stdout.isatty() else _write
        yield write, lambda passed: bar.update(task, completed=passed)


def _write(line: bytes) -> None:
    """At once: who reads a pipe waits for it."""
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _complain(sentence: str) -> None:
    sys.stderr.write(f"tidegate: {sentence}\n")
