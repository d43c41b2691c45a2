"""``tidegate learn``: past logs and records in, baselines out."""

from __future__ import annotations

import os
from collections.abc import Callable

from gateway.config import Config, find_file, load
from gateway.config.structs import StoreTable
from gateway.replay.learning import learn_from
from gateway.replay.logs import LogOptions, read_log
from gateway.replay.reading import RecordReader, check_usable, file_progress
from gateway.replay.run import NAMED_ON_TERMINAL, print_error, progress_bar
from gateway.replay.saving import SaveError, check_store, write_file, write_store
from gateway.replay.sorting import Sorter
from gateway.stream.source import STDIN, SourceError
from gateway.stream.watch import printable


def learn(
    names: tuple[str, ...],
    options: LogOptions,
    *,
    out: str | None,
    store: str | None,
    config: str | None,
) -> None:
    """Learn baselines and save them; messages go to standard error. Raises
    ConfigError, SourceError and InputError for the input, SaveError for the target.
    """
    table = _store_table(out, store, config)
    if out is not None and os.path.isdir(out):
        raise SaveError(f"--out: {out} is a directory", usage=True)
    with Sorter() as sorter, progress_bar() as bar:
        try:
            reader = _read(names, options, sorter, bar.reading(names))
        except OSError as error:  # temporary files
            raise SourceError(f"cannot sort the records: {error}") from None
        state, learned = learn_from(sorter, bar.counting("learning", len(sorter)))
    for one in reader.named[:NAMED_ON_TERMINAL]:
        shown = "standard input" if one.file == STDIN else one.file
        print_error(f"{shown} line {one.line}: {printable(one.why)}; skipped")
    if reader.skipped:
        lines = f"{reader.skipped} of {reader.lines} lines"
        print_error(f"{lines} were malformed and skipped")
    for sentence in learned.sentences():
        print_error(sentence)
    _save(state, out, table)


def _read(
    names: tuple[str, ...],
    options: LogOptions,
    sorter: Sorter,
    passed: Callable[[int, int], None],
) -> RecordReader:
    reader = RecordReader(sorter, options.tenant)
    for place, name in enumerate(names):
        if name == STDIN:
            reader.read(name, file_progress(passed, place))
        else:
            read_log(name, reader, options, file_progress(passed, place))
    check_usable(names, reader)
    return reader


def _store_table(
    out: str | None, store: str | None, config: str | None
) -> StoreTable | None:
    """The store to write to, checked before any input is read; None: file only.

    Raises SaveError, ConfigError.
    """
    if out is not None and store is None and config is None:
        return None
    overrides = {} if store is None else {"store.url": store}
    if store is not None and not find_file(config):
        overrides["upstream"] = "http://127.0.0.1"  # required in a file, not used here
    elif not find_file(config):
        raise SaveError(
            "no target: name a file (--out F), a store (--store URL), or the"
            " configuration of the gateway (--config F)",
            usage=True,
        )
    loaded: Config = load(config, overrides).config
    check_store(loaded.store)
    return loaded.store


def _save(state: bytes, out: str | None, table: StoreTable | None) -> None:
    if out is not None:
        size = write_file(out, state)
        print_error(f"wrote {out} ({_size(size)}): watch --baselines {out} reads it")
    if table is not None:
        shown, size = write_store(table, state)
        print_error(
            f"wrote the baselines ({_size(size)}) to {shown}: gateways load them"
            " when they start"
        )


def _size(size: int) -> str:
    return (
        f"{size / 1024:,.0f} KiB" if size < 1 << 20 else f"{size / (1 << 20):,.1f} MiB"
    )
