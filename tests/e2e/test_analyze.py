"""``tidegate analyze`` in a shell: JSON, files, exit codes."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys

import pytest

FLOOD = ("2026-01-07T10:00:00Z", "2026-01-07T10:30:00Z")
KEYS = ["rows", "users", "span", "window_s", "threshold", "windows", "skipped", "skipped_rows"]  # fmt: skip
WINDOW_KEYS = ["from", "to", "subject", "tokens", "expected", "score", "severity", "class", "top_users"]  # fmt: skip


@pytest.fixture(name="week", scope="module")
def _week(tmp_path_factory):
    """Four quiet days of twenty users, half an hour of flood, two bad rows."""
    chance = random.Random(5)
    lines = []
    for minute in range(4 * 1440):
        day, hour, rest = 5 + minute // 1440, minute // 60 % 24, minute % 60
        stamp = f"2026-01-{day:02}T{hour:02}:{rest:02}"
        users = [f"user-{chance.randrange(20)}" for _ in range(4)]
        if stamp >= FLOOD[0][:16] and stamp < FLOOD[1][:16]:
            users += ["user-7"] * 60
        lines += [
            f"{stamp}:{chance.randrange(60):02}Z,{user},{chance.randrange(100, 900)},90"
            for user in users
        ]
    chance.shuffle(lines)
    lines[100:100] = ["soon,user-1,5,5", "2026-01-05T00:00:00Z,user-1,few,5"]
    path = tmp_path_factory.mktemp("logs") / "week.csv"
    header = "timestamp,user_id,prompt_tokens,completion_tokens"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.fixture(name="analyze")
def _analyze(repository, tmp_path):
    """Run ``analyze`` in an empty directory."""

    def run(*args):
        return subprocess.run(
            [sys.executable, "-m", "gateway", "analyze", *map(str, args)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(repository)},
            capture_output=True,
            check=False,
            timeout=120,
        )

    return run


def test_json(analyze, week):
    """The JSON has the documented shape and the windows of the flood."""
    done = analyze(week, "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    told = json.loads(done.stdout)
    assert list(told) == KEYS
    assert {tuple(window) for window in told["windows"]} == {tuple(WINDOW_KEYS)}
    for kind, subject in (("all", "*"), ("user", "user-7")):
        mine = [
            w for w in told["windows"] if w["subject"] == {"kind": kind, "id": subject}
        ]
        assert [w["from"] for w in mine] == [
            f"2026-01-07T10:{minute:02}:00Z" for minute in range(0, 30, 5)
        ]
    assert told["windows"][0]["top_users"][0]["user"] == "user-7"
    assert told["skipped"] == 2
    assert [one["line"] for one in told["skipped_rows"]] == [102, 103]
    assert (told["window_s"], told["users"]) == (300, 20)


def test_table(analyze, week):
    """The text lists the worst episodes first, with the responsible users."""
    text = analyze(week).stdout.decode()
    first = text.splitlines()[1]
    for words in ("critical", "Wed 2026-01-07 10:00", "30m", "user-7"):
        assert words in first
    assert "2 rows could not be used" in text


def test_page_and_picture(analyze, week, tmp_path):
    """Page and picture are one file each, without scripts or external resources."""
    done = analyze(week, "--html", "r.html", "--plot", "r.png")
    assert (done.returncode, done.stderr) == (0, b"")
    page = (tmp_path / "r.html").read_text()
    assert "<svg" in page
    assert "user-7" in page
    assert not re.search(r"<script|src=|href=|https?://", page)
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_names_are_escaped(analyze, tmp_path, week):
    """User names are escaped in the page."""
    text = week.read_text().replace("user-7", "<b onload=x>")
    (tmp_path / "odd.csv").write_text(text)
    analyze("odd.csv", "--html", "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<b onload" not in page
    assert "&lt;b onload" in page


def test_fail_on(analyze, week, tmp_path):
    """--fail-on exits with 1 at abnormal windows."""
    assert analyze(week, "--fail-on", "critical").returncode == 1
    quiet = [line for line in week.read_text().splitlines() if ",user-7," not in line]
    (tmp_path / "quiet.csv").write_text("\n".join(quiet))
    assert analyze("quiet.csv", "--fail-on", "critical").returncode == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "name one or more log files"),
        (["none.csv"], "cannot read none.csv: No such file"),
        (["WEEK", "--user-column", "who"], "no column 'who'"),
        (["WEEK", "--timezone", "Mars/Base"], "unknown time zone 'Mars/Base'"),
        (["WEEK", "--window", "7m"], "does not divide a day"),
        (["WEEK", "--time-format", "%d/%m/%Y"], "no usable row"),
        (["WEEK", "--html", "no/such/r.html"], "cannot write no/such/r.html"),
        (["WEEK", "--plot", "no/such/r.png"], "cannot write no/such/r.png"),
        (["WEEK", "--fail-on", "info"], "warning"),
    ],
)
def test_unusable_input_is_exit_2(analyze, week, args, words):
    """Unusable input is exit 2 with one error line and no output."""
    done = analyze(*[str(week) if one == "WEEK" else one for one in args])
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr
