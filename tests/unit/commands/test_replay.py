"""The command line of ``replay`` and ``learn``: errors and results."""

from __future__ import annotations

import json

import pytest

from gateway.commands.cli import run
from gateway.detect.packed_baselines import pack_baselines
from gateway.sinks.records import RecordWriter
from tests.records import make_record

DRAFT = '[[upstream]]\nurl = "https://api.example"\n'


@pytest.fixture(name="folder", autouse=True)
def _folder(tmp_path, monkeypatch):
    """A folder with records, a draft and a file that is neither."""
    monkeypatch.chdir(tmp_path)
    line = RecordWriter().line(make_record())
    (tmp_path / "r.jsonl").write_bytes(line + b"\n" + line + b"\n")
    (tmp_path / "new.toml").write_text(DRAFT)
    (tmp_path / "bad.toml").write_text("upstrem = 1\n")
    (tmp_path / "bad.jsonl").write_text("nonsense\n")
    (tmp_path / "odd").write_bytes(pack_baselines(b"nothing of ours"))
    return tmp_path


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["replay", "r.jsonl"], "--config"),
        (["replay", "--config", "new.toml"], "name a file of records"),
        (["replay", "none", "--config", "new.toml"], "cannot read none"),
        (["replay", "r.jsonl", "--config", "none.toml"], "none.toml"),
        (["replay", "r.jsonl", "--config", "bad.toml"], "bad.toml:1: upstrem"),
        (["replay", "bad.toml", "--config", "new.toml"], "not one usable record"),
        (["replay", "r.jsonl", "--config", "new.toml", "--jsn"], "--jsn"),
        (["replay", "r.jsonl", "--config", "new.toml", "--top", "0"], "--top"),
        (["replay", "r.jsonl", "-c", "new.toml", "--baselines", "x"], "cannot read x"),
        (["replay", "r.jsonl", "-c", "new.toml", "--baselines", "odd"], "no baselines"),
        (["learn", "--out", "b"], "name a file of past traffic"),
        (["learn", "r.jsonl"], "no target"),
        (["learn", "r.jsonl", "--store", "memory:"], "would not keep the baselines"),
        (["learn", "r.jsonl", "--store", "ftp://a"], "ftp"),
        (["learn", "r.jsonl", "--config", "missing.toml"], "missing.toml"),
        (["learn", "none", "--out", "b"], "cannot read none"),
        (["learn", "bad.toml", "--out", "b"], "no time column"),
        (["learn", "bad.jsonl", "--out", "b"], "not one usable"),
        (["learn", "r.jsonl", "--out", "b", "--timezone", "Mars"], "time zone"),
        (["learn", "r.jsonl", "--out", "."], "is a directory"),
    ],
)
def test_what_cannot_be_used_is_exit_2(capsys, args, hint):
    """Unusable input gives one error on stderr and nothing on stdout."""
    assert run(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert hint in err


def test_a_store_that_is_away_is_exit_1(capsys):
    """An unreachable store is a failure (1), not bad usage (2)."""
    assert run(["learn", "r.jsonl", "--store", "redis://127.0.0.1:1"]) == 1
    assert "cannot save to the store" in capsys.readouterr().err


def test_a_report_and_baselines(capfdbinary, folder):
    """Both commands succeed: JSON on standard output, baselines in the named file."""
    assert run(["replay", "r.jsonl", "-c", "new.toml", "--json"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["records"] == 2
    assert run(["learn", "r.jsonl", "--out", "b"]) == 0
    assert (folder / "b").stat().st_size > 0
    draft = ["-c", "new.toml", "--baselines", "b", "--json"]
    assert run(["replay", "r.jsonl", *draft]) == 0


def test_the_table_has_as_many_subjects_as_asked(capsys, folder):
    """``--top`` limits the rows of the table."""
    limits = (
        '[policy.default]\nlimits = [{ per = "user", requests = 1, window = "1m" }]'
    )
    (folder / "none.toml").write_text(DRAFT + limits)
    lines = [
        RecordWriter().line(make_record(tenant="default", user=f"u{n}"))
        for n in "aabbcc"
    ]
    (folder / "three.jsonl").write_bytes(b"\n".join(lines))
    assert run(["replay", "three.jsonl", "-c", "none.toml", "--top", "2"]) == 0
    assert "1 more subjects" in capsys.readouterr().out
