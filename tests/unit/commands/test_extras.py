"""Commands that need packages of the extra ``tidegate[analyze]``."""

from __future__ import annotations

import sys

import pytest

from gateway.commands.cli import run


@pytest.mark.parametrize(
    "command", [["analyze", "x.csv"], ["learn", "x", "--out", "b"]]
)
def test_a_missing_package_is_exit_2(command, capsys, monkeypatch):
    """Without polars the command names the extra that installs it, and exits with 2."""
    monkeypatch.setitem(sys.modules, "polars", None)
    assert run(command) == 2
    assert capsys.readouterr().err == (
        f"tidegate: {command[0]} needs polars; install with: "
        "pip install 'tidegate[analyze]'\n"
    )


@pytest.mark.parametrize("command", ["watch", "replay", "serve", "analyze", "learn"])
def test_help_needs_no_extra(command, capsys, monkeypatch):
    """Every command prints its help in a base installation."""
    monkeypatch.setitem(sys.modules, "polars", None)
    assert run([command, "--help"]) == 0
    assert f"tidegate {command}" in capsys.readouterr().out
