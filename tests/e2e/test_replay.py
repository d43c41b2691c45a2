"""``replay`` and ``learn`` in a shell, on records of a real gateway."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys

import pytest

from gateway.detect.model import format_time
from tests.engines import engine_binaries
from tests.gateway_process import call, key_hash, running_gateway, until

T = 1_767_600_000.0
POLICY = (
    '[policy.default]\nlimits = [{{ per = "user", requests = {amount},'
    ' window = "1h" }}]\n[[tenant]]\nname = "acme"\napi_keys = ["{key}"]\n'
)
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "one two three"}]}


def policy(amount):
    """A policy that limits the requests per hour of each user of tenant ``acme``."""
    return POLICY.format(amount=amount, key=key_hash("sk-acme"))


def draft(amount):
    """A whole configuration with that policy."""
    return f'[[upstream]]\nurl = "https://api.example"\n{policy(amount)}'


@pytest.fixture(name="tidegate")
def _tidegate(repository, tmp_path):
    """Run a command in an empty directory."""

    def run(*args, given=b""):
        return subprocess.run(
            [sys.executable, "-m", "gateway", *args],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(repository)},
            input=given,
            capture_output=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.fixture(name="records", scope="module")
def _records(mock):
    """Records of eight calls under a limit of three."""
    config = f'[[upstream]]\nurl = "{mock.url}"\n{policy(3)}'
    with running_gateway(config) as gateway:
        for _ in range(8):
            call(
                "POST",
                f"{gateway.url}/v1/chat/completions",
                BODY,
                headers={"Authorization": "Bearer sk-acme"},
            )
        until(lambda: len(gateway.records()) == 8, why="eight records")
        return gateway.records_file.read_bytes()


def totals(done, column="draft"):
    """The allowed and limited totals of one policy in a JSON report."""
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["totals"][column]
    return found["allowed"], found["limited"]


def test_replay_of_the_recorded_policy_gives_the_recorded_decisions(
    tidegate, records, tmp_path
):
    """Replay under the recorded policy gives the recorded decisions."""
    (tmp_path / "new.toml").write_text(draft(3))
    (tmp_path / "r.jsonl").write_bytes(records)
    done = tidegate("replay", "r.jsonl", "--config", "new.toml", "--json")
    assert totals(done, "then") == totals(done) == (3, 5)
    found = json.loads(done.stdout)["totals"]["draft"]
    assert (found["newly_refused"], found["newly_passed"]) == (0, 0)


def test_a_draft_is_compared_with_the_current_file(tidegate, records, tmp_path):
    """A stricter draft and a looser current file are replayed side by side, with the
    same result from a pipe and a compressed file.
    """
    (tmp_path / "new.toml").write_text(draft(2))
    (tmp_path / "old.toml").write_text(draft(6))
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(records))
    flags = ("--config", "new.toml", "--current", "old.toml", "--json")
    done = tidegate("replay", "r.jsonl.gz", *flags)
    assert totals(done) == (2, 6)
    assert totals(done, "current") == (6, 2)
    found = json.loads(done.stdout)
    assert found["assumed"] == 5
    assert found["totals"]["current"]["newly_passed"] == 3
    piped = json.loads(tidegate("replay", "-", *flags, given=records).stdout)
    assert piped == found


def test_a_table_for_people(tidegate, records, tmp_path):
    """The text report has totals, subjects and limits; errors go to stderr."""
    (tmp_path / "new.toml").write_text(draft(2))
    done = tidegate("replay", "-", "--config", "new.toml", given=records + b"x\n")
    text = done.stdout.decode()
    assert "dollars saved" in text
    assert "6 limited (user.requests.1h)" in text
    assert "key_" in text
    assert "standard input line 9" in done.stderr.decode()


def events(start, hours):
    """Ten clients, some requests an hour each, varied prompts."""
    chance = random.Random(hours)
    times = sorted(chance.uniform(0, hours * 3600) for _ in range(hours * 100))
    return "".join(
        json.dumps(
            {
                "timestamp": format_time(start + at),
                "client_ip": f"10.0.{n % 10}.1",
                "user_id": f"u{n % 10}",
                "model_name": "gpt-4o",
                "prompt_tokens": 300,
                "completion_tokens": 200,
                "fingerprint": f"{chance.getrandbits(64):016x}",
            }
        )
        + "\n"
        for n, at in enumerate(times)
    ).encode()


def test_what_was_learned_can_be_watched_with(tidegate, tmp_path):
    """``watch --baselines`` reads the output of ``learn --out`` and has no output for
    ordinary traffic.
    """
    (tmp_path / "week.jsonl").write_bytes(events(T, 48))
    learned = tidegate("learn", "week.jsonl", "--out", "b")
    assert (learned.returncode, learned.stdout) == (0, b"")
    assert b"learned 4,800 requests" in learned.stderr
    done = tidegate("watch", "--baselines", "b", "--json", given=events(T + 2e5, 5))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.skipif(not engine_binaries(), reason="no store engine here")
def test_a_gateway_starts_with_what_was_learned(tidegate, mock, tmp_path):
    """A gateway loads the baselines that ``learn`` wrote into its embedded store."""
    (tmp_path / "week.jsonl").write_bytes(events(T, 24))
    store = f"embedded:{tmp_path}/data"
    learned = tidegate("learn", "week.jsonl", "--store", store)
    assert learned.returncode == 0, learned.stderr
    config = f'[[upstream]]\nurl = "{mock.url}"\n'
    with running_gateway(config, store=store) as gateway:
        taken_up = '"event":"baselines_loaded","role":"control","found":true'
        until(lambda: taken_up in gateway.log())
        # ``learn`` can also write through the engine of the running gateway.
        assert tidegate("learn", "week.jsonl", "--store", store).returncode == 0
