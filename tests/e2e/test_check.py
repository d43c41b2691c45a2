"""``check`` and usage errors as a shell sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture(name="tidegate")
def _tidegate(repository, tmp_path):
    """Run the command in an empty directory."""

    def run(*args, **env):
        return subprocess.run(
            [sys.executable, "-m", "gateway", *args],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(repository)} | env,
            input="",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


def test_the_example_is_valid(tidegate, repository):
    """The example file is valid; in a pipe the output is plain text."""
    done = tidegate("check", "--config", str(repository / "config.example.toml"))
    assert done.returncode == 0
    assert done.stderr == ""
    assert "600 requests in 1m per client_ip" in done.stdout
    assert "│" not in done.stdout


def test_faults_are_exit_2_with_file_line_key(tidegate, tmp_path):
    """Each fault is one line: file, line, key, what is wrong, what is allowed."""
    (tmp_path / "tidegate.toml").write_text('[server]\nlistn = ""\nworkers = "x"\n')
    done = tidegate("check")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        'tidegate: tidegate.toml:2: server.listn: unknown key; did you mean "listen"?',
        'tidegate: tidegate.toml:3: server.workers: "x" is not usable here '
        '(allowed: a whole number or "auto")',
    ]


def test_unknown_flags_are_exit_2(tidegate):
    """An unknown flag is reported with a suggestion."""
    done = tidegate("serve", "--upstrem", "http://x")
    assert done.returncode == 2
    assert "--upstream" in done.stderr


def test_keys_hash_reads_a_pipe(tidegate):
    """``keys hash`` without a key on standard input exits with 2."""
    assert tidegate("keys", "hash").returncode == 2


def test_serve_refuses_a_bad_file_before_it_starts(tidegate):
    """``serve`` validates the configuration before it starts."""
    done = tidegate("serve", TIDEGATE_UPSTREAM__0__URL="ftp://x")
    assert done.returncode == 2
    assert "TIDEGATE_UPSTREAM__0__URL" in done.stderr


def test_keys_list_shows_names_and_states(tidegate, tmp_path):
    """``keys list`` names each key with its tenant, policy and state."""
    hashes = ["sha256:" + digit * 64 for digit in "012"]
    (tmp_path / "tidegate.toml").write_text(
        '[[upstream]]\nurl = "http://llm:8000"\n[policy.small]\n[[tenant]]\n'
        f'name = "acme"\napi_keys = ["{hashes[0]}",\n'
        f'{{ name = "ci", hash = "{hashes[1]}", policy = "small" }},\n'
        f'{{ name = "old", hash = "{hashes[2]}", expires = 2020-01-01 }}]\n'
    )
    done = tidegate("keys", "list", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["items"]
    shown = [(one["name"], one["policy"], one["state"]) for one in found]
    assert shown == [
        ("", "default", "valid"),
        ("ci", "small", "valid"),
        ("old", "default", "expired"),
    ]
    assert "old" in tidegate("keys", "list").stdout
