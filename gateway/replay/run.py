"""``tidegate replay``: records through a draft policy, compared with their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from gateway.config import Config, load
from gateway.detect.packed_baselines import BaselinesError
from gateway.replay.reading import RecordReader, in_order, read_all
from gateway.replay.report import ReplayReport
from gateway.replay.simulate import ReplayDecision, Simulation, recorded_decision
from gateway.replay.sorting import Sorter
from gateway.replay.totals import Column, ReplayTotals
from gateway.stream.run import read_baselines
from gateway.stream.source import STDIN, SourceError
from gateway.stream.watch import printable

# Malformed lines reported on the terminal; --json has more of them.
NAMED_ON_TERMINAL = 5
_EVERY = 2000
Advance = Callable[[int], None]


def replay(
    names: tuple[str, ...],
    config: str,
    current: str | None = None,
    *,
    baselines: str | None = None,
    as_json: bool = False,
    top: int = 20,
) -> None:
    """Write the report to standard output and errors to standard error.

    Raises ConfigError for the configurations, SourceError for the records and
    baselines.
    """
    loaded: dict[Column, Config] = {}
    files: dict[Column, str] = {"draft": config}
    if current is not None:
        files = {"current": current, "draft": config}
    for column, file in files.items():
        loaded[column] = load(file).config
    state = None if baselines is None else read_baselines(baselines)
    simulations = {
        column: _simulation(one, state, baselines) for column, one in loaded.items()
    }
    with Sorter() as sorter, progress_bar() as bar:
        try:
            reader = read_all(names, sorter, bar.reading(names))
        except OSError as error:  # temporary files
            raise SourceError(f"cannot sort the records: {error}") from None
        report = run(reader, simulations, files, bar.counting("deciding", len(sorter)))
    for one in reader.named[:NAMED_ON_TERMINAL]:
        shown = "standard input" if one.file == STDIN else one.file
        print_error(f"{shown} line {one.line}: {printable(one.why)}; skipped")
    for note in report.notes():
        print_error(printable(note))
    _write(report, as_json=as_json, top=top)


def _simulation(config: Config, state: bytes | None, name: str | None) -> Simulation:
    try:
        return Simulation(config, state)
    except BaselinesError as error:
        raise SourceError(f"{name}: {error}") from None


def run(
    reader: RecordReader,
    simulations: dict[Column, Simulation],
    files: dict[Column, str],
    advance: Advance = lambda _count: None,
) -> ReplayReport:
    """Decide every request, in order of time, by each configuration."""
    tally = ReplayTotals(("then", *simulations))
    for number, request in enumerate(in_order(reader.sorter), 1):
        decisions: dict[Column, ReplayDecision] = {"then": recorded_decision(request)}
        for column, simulation in simulations.items():
            decisions[column] = simulation.take(request)
        tally.count(request, decisions)
        if number % _EVERY == 0:
            advance(number)
    for simulation in simulations.values():
        simulation.close()
    return ReplayReport(reader, tally, simulations, files)


def _write(report: ReplayReport, *, as_json: bool, top: int) -> None:
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(report.to_dict()) + b"\n")
        sys.stdout.buffer.flush()
        return
    from gateway.replay.table import write_tables  # noqa: PLC0415 - rich is for people

    write_tables(report, sys.stdout, top)


def print_error(sentence: str) -> None:
    """Write a message to standard error."""
    sys.stderr.write(f"tidegate: {sentence}\n")


# -- progress ------------------------------------------------------------------------


class Bar:
    """Progress bars of the two phases."""

    def __init__(self, show: Callable[[str, int], Callable[[int], None]]) -> None:
        self._show = show

    def reading(self, names: tuple[str, ...]) -> Callable[[int, int], None]:
        """The progress callback of ``read_all``."""
        sizes = [_size(name) for name in names]
        update = self._show("reading", sum(sizes))
        return lambda place, read: update(sum(sizes[:place]) + read)

    def counting(self, title: str, requests: int) -> Advance:
        """The progress callback of a phase that counts requests."""
        return self._show(title, requests)


def _size(name: str) -> int:
    return os.path.getsize(name) if os.path.isfile(name) else 0


@contextmanager
def progress_bar() -> Iterator[Bar]:
    """A progress bar on standard error if that is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield Bar(lambda _title, _total: lambda _done: None)
        return
    from rich.console import Console  # noqa: PLC0415 - only for terminals
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as progress:

        def show(title: str, total: int) -> Callable[[int], None]:
            task = progress.add_task(title, total=total or None)
            return lambda done: progress.update(task, completed=done)

        yield Bar(show)
