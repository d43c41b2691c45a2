"""The newer of the packaged and the installed price table is used."""

import datetime as dt
import json
import subprocess
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import msgspec
import pytest

from gateway.metering.prices import packaged_prices
from gateway.serve import price_table
from gateway.serve.price_table import (
    age_days,
    age_warning,
    describe_table,
    load_table,
    newer_release,
    newest_table,
    packaged_table,
    refresh_table,
)


@pytest.fixture
def installed(monkeypatch):
    """Sets the installed release, None: not installed."""

    def set_release(release):
        def version(_name):
            if release is None:
                raise PackageNotFoundError
            return release

        monkeypatch.setattr(price_table, "version", version)

    return set_release


@pytest.mark.parametrize(
    ("release", "newer"),
    [(None, ""), ("0.2.3", ""), ("0.2.10", "0.2.10"), ("0.1.9", ""), ("1.0", "1.0")],
)
def test_releases_are_compared_by_number(release, newer, installed):
    """0.2.10 is newer than 0.2.3; without the library the package's table is used."""
    installed(release)
    assert newer_release() == newer


def test_the_package_needs_no_library(installed, tmp_path):
    """Without a newer release nothing is run, and a table of before is removed."""
    installed(None)
    (tmp_path / "prices.json").write_bytes(packaged_prices())
    assert refresh_table(str(tmp_path)) == ""
    assert list(tmp_path.iterdir()) == []
    assert newest_table() is packaged_table()
    assert load_table(str(tmp_path)) is packaged_table()
    assert load_table() is packaged_table()


def test_a_newer_release_is_compiled_once(installed, tmp_path, monkeypatch):
    """The result is in the runtime directory; the same release is not compiled again."""
    installed("0.3.0")
    runs = []

    def run(command, **_options):
        runs.append(command)
        content = json.loads(packaged_prices()) | {"version": "0.3.0"}
        with open(command[-1], "wb") as file:
            file.write(msgspec.json.encode(content))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    assert refresh_table(str(tmp_path)) == ""
    assert refresh_table(str(tmp_path)) == ""
    assert len(runs) == 1
    table = load_table(str(tmp_path))
    assert describe_table(table) == "genai-prices 0.3.0 of 2026-11-10"


def test_the_library_is_compiled_in_a_process_of_its_own(installed, tmp_path):
    """The program runs, and the command compiles the same in its own process."""
    installed("0.3.0")
    assert refresh_table(str(tmp_path)) == ""
    table = load_table(str(tmp_path))
    assert table is not packaged_table()
    assert table.knows("gpt-4o")
    assert newest_table().knows("gpt-4o")


@pytest.mark.parametrize(
    ("status", "stderr", "problem"),
    [(1, b"Traceback\nImportError: x\n", "ImportError: x"), (3, b"", "exit status 3")],
)
def test_a_failure_keeps_the_old_table(
    status, stderr, problem, installed, tmp_path, monkeypatch
):
    """What failed is returned; the table of the package stays in use."""
    installed("0.3.0")
    done = SimpleNamespace(returncode=status, stderr=stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_a, **_k: done)
    assert refresh_table(str(tmp_path)) == problem
    assert load_table(str(tmp_path)) is packaged_table()
    assert "No such file" in _broken(tmp_path, monkeypatch)


def _broken(tmp_path, monkeypatch):
    monkeypatch.setattr(
        subprocess, "run", lambda *_a, **_k: SimpleNamespace(returncode=0)
    )
    return refresh_table(str(tmp_path))


def test_old_tables_are_said():
    """A table is old after 90 days."""
    table = packaged_table()
    day = dt.date.fromisoformat(table.dated)
    assert age_days(table, day) == 0
    assert age_warning(table, day + dt.timedelta(days=90)) == ""
    assert "91 days old" in age_warning(table, day + dt.timedelta(days=91))
    assert age_days(table) >= 0
