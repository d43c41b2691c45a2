"""``tidegate watch`` in a shell: outputs, malformed lines, exit codes."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
from datetime import datetime

import pytest

from gateway.detect.model import format_time

T = 1_767_600_000.0
FLOOD_AT = T + 1200
FIELDS = {
    "type", "id", "ts", "severity", "class", "score", "subject", "tenant", "action",
    "until", "window", "observed", "expected", "reasons", "subjects",
}  # fmt: skip


def event(ts, ip, user=None, prompt="hello"):
    """A bare event with a prompt."""
    return {
        "timestamp": format_time(ts),
        "client_ip": ip,
        "model_name": "m",
        "prompt_tokens": 300,
        "completion_tokens": 200,
        "user_id": user,
        "prompt": prompt,
    }


@pytest.fixture(name="stream", scope="module")
def _stream():
    """Twenty minutes of thirty ordinary clients, then one minute with one address that
    floods.
    """
    chance = random.Random(7)
    words = [f"{chance.getrandbits(40):x}" for _ in range(900)]
    events = [
        event(
            T + chance.uniform(0, 1320),
            f"10.0.{n}.7",
            f"key_{n}",
            " ".join(chance.sample(words, 20)),
        )
        for n in range(30)
        for _ in range(60)
    ]
    events += [
        event(FLOOD_AT + n / 20, "203.0.113.9", None, "the same question again")
        for n in range(1200)
    ]
    events.sort(key=lambda one: one["timestamp"])
    return "".join(json.dumps(one) + "\n" for one in events).encode()


@pytest.fixture(name="watch")
def _watch(repository, tmp_path):
    """Run ``watch`` in an empty directory."""

    def run(*args, given=b""):
        return subprocess.run(
            [sys.executable, "-m", "gateway", "watch", *args],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(repository)},
            input=given,
            capture_output=True,
            check=False,
            timeout=120,
        )

    return run


def test_a_flood_is_found_within_its_minute(watch, stream):
    """Only the flooding address is blocked; the JSON has the documented shape."""
    done = watch("-", "--json", given=stream)
    assert (done.returncode, done.stderr) == (0, b"")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {frozenset(one) for one in found} == {frozenset(FIELDS)}
    opened = next(one for one in found if one["type"] == "incident.opened")
    assert opened["class"] in {"ddos", "scraping"}
    blocked = [one for one in found if one["type"] == "client.blocked"]
    assert {one["subject"]["id"] for one in blocked} == {"203.0.113.9"}
    first = datetime.fromisoformat(blocked[0]["ts"]).timestamp()
    assert FLOOD_AT < first < FLOOD_AT + 60


def test_a_bare_flood_is_found_within_its_minute(watch):
    """Time, address, model, tokens and nothing else: thirty clients, one floods."""
    chance = random.Random(5)
    moments = [
        (T + chance.uniform(0, 420), f"10.0.{n}.7")
        for n in range(30)
        for _ in range(21)
    ]
    moments += [(T + 240 + n / 2, "203.0.113.9") for n in range(200)]
    bare = [
        {
            "timestamp": format_time(ts),
            "client_ip": ip,
            "model_name": "m",
            "prompt_tokens": 300,
            "completion_tokens": 200,
        }
        for ts, ip in sorted(moments)
    ]
    lines = "".join(json.dumps(one) + "\n" for one in bare).encode()
    found = [
        json.loads(line) for line in watch("--json", given=lines).stdout.splitlines()
    ]
    opened = next(one for one in found if one["type"] == "incident.opened")
    assert datetime.fromisoformat(opened["ts"]).timestamp() < T + 300
    assert {one["subject"]["id"] for one in found} == {"203.0.113.9"}
    assert "block" not in {one["action"] for one in found}


def test_any_source_gives_the_same(watch, stream, tmp_path):
    """A file, a compressed file, a pipe with or without ``-``: the same bytes out."""
    (tmp_path / "a.jsonl").write_bytes(stream)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(stream))
    outs = {
        watch("a.jsonl", "--json").stdout,
        watch("--json", "a.jsonl.gz").stdout,
        watch("--json", given=stream).stdout,
    }
    assert len(outs) == 1
    assert outs.pop()


def test_any_split_of_a_pipe_gives_the_same(watch, stream, repository, tmp_path):
    """Outputs do not depend on how a pipe splits the lines."""
    whole = watch("--json", given=stream).stdout
    chance = random.Random(3)
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "watch", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repository)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        at = 0
        while at < len(stream):
            size = chance.randrange(1, 20_000)
            os.write(child.stdin.fileno(), stream[at : at + size])
            at += size
        child.stdin.close()
        assert child.stdout.read() == whole


def test_lines_for_people(watch, stream):
    """Without --json an output is one line: time, severity, class, subject, action."""
    lines = watch(given=stream).stdout.decode().splitlines()
    opened = next(line for line in lines if " opened " in line)
    assert opened.startswith("2026-01-05T08:2")
    for words in ("203.0.113.9 of default", " critical "):
        assert words in opened


def test_malformed_lines_are_named_counted_skipped(watch, stream):
    """The first five malformed lines are reported, all are counted, outputs remain."""
    bad = b'{"timestamp": 1}\nnot json\n[]\n\xff\n{"client_ip": "a"}\n{\n\n'
    done = watch("--json", given=bad + stream)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 0
    assert [line.split(": ")[1] for line in lines[:5]] == [
        f"line {number}" for number in range(1, 6)
    ]
    assert "client_ip: missing" in lines[0]
    total = (bad + stream).count(b"\n")
    assert lines[5:] == [f"tidegate: 6 of {total} lines were malformed and skipped"]
    assert done.stdout == watch("--json", given=stream).stdout


@pytest.mark.parametrize(
    ("args", "given", "hint"),
    [
        (["none.jsonl"], b"", "cannot read none.jsonl: No such file"),
        (["."], b"", "cannot read .: Is a directory"),
        (["broken.gz"], b"", "cannot read broken.gz: "),
        (["-"], b"", "standard input: not one usable event"),
        ([], b"nonsense\n", "standard input: not one usable event"),
        (["kafka://b:9092/t"], b"", "comes with a later version"),
        (["-", "-f"], b"", "--follow needs a file"),
        (["x.gz", "-f"], b"", "cannot be followed"),
        (["--baselines", "broken.gz"], b"", "no baselines"),
        (["--baselines", "none"], b"", "cannot read none"),
        (["--config", "none.toml"], b"", "none.toml"),
        (["--jsn"], b"", "unknown option: --jsn"),
        (["--fail-on", "info"], b"", "warning"),
    ],
)
def test_input_that_cannot_be_used_is_exit_2(watch, tmp_path, args, given, hint):
    """One clear error at the end of stderr, nothing on stdout."""
    (tmp_path / "broken.gz").write_bytes(b"this is not gzip")
    done = watch(*args, given=given)
    assert (done.returncode, done.stdout) == (2, b"")
    assert hint in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_fail_on(watch, stream):
    """``--fail-on`` exits with 1 at outputs of that severity or above, else with 0."""
    quiet = b"".join(stream.splitlines(keepends=True)[:500])
    assert watch("--fail-on", "critical", given=stream).returncode == 1
    assert watch("--fail-on", "warning", given=quiet).returncode == 0


def test_the_configuration_counts(watch, stream, tmp_path):
    """No outputs with detection off; no action on an allowed address."""
    head = '[[upstream]]\nurl = "https://api.example"\n[policy.default]\n'
    file = tmp_path / "tidegate.toml"
    file.write_text(head + "anomaly = { enabled = false }\n")
    assert watch("--json", given=stream).stdout == b""
    file.write_text(head + 'allow = ["203.0.113.9"]\n')
    found = watch("--json", given=stream).stdout.splitlines()
    assert {json.loads(line)["action"] for line in found} == {"allow"}


def test_follow_reads_what_is_added(stream, repository, tmp_path):
    """-f reports appended events and exits cleanly on interrupt."""
    path, cut = tmp_path / "grows.jsonl", len(stream) // 3 + 5
    path.write_bytes(stream[:cut])
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "watch", "-f", "--json", str(path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        late = event(FLOOD_AT + 200, "10.0.1.7", "key_1")
        with path.open("ab") as file:
            file.write(stream[cut:] + json.dumps(late).encode() + b"\n")
        first = json.loads(child.stdout.readline())
        child.send_signal(signal.SIGINT)
        _out, err = child.communicate(timeout=60)
    assert first["subject"]["id"] == "203.0.113.9"
    assert (child.returncode, err) == (0, b"")
