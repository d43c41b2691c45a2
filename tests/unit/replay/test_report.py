"""The report of a replay: totals, worst subjects, notes."""

from __future__ import annotations

import io
import json

import msgspec

from gateway.config import load_config
from gateway.replay.reading import read_all
from gateway.replay.run import run
from gateway.replay.simulate import Simulation
from gateway.replay.sorting import Sorter
from gateway.replay.table import write_tables

HEAD = '[[upstream]]\nurl = "https://api.example"\n[policy.default]\n'
STRICT = 'limits = [{ per = "user", requests = 2, window = "1m" }]\n'
LOOSE = 'mode = "observe"\nlimits = [{ per = "tenant", requests = 5, window = "1m" }]\n'


def record(ts, user, **changes):
    """A record of the tenant ``default``."""
    return {
        "ts": 1e9 + ts, "client_ip": "10.0.0.1", "user": user, "model": "gpt-4o",
        "prompt_tokens": 10, "completion_tokens": 20, "usd": 0.5, "duration_ms": 10,
    } | changes  # fmt: skip


# A calm user, a greedy one, one that was refused then, an odd id, a stranger.
RECORDS = [
    record(0, "calm"),
    *(record(n, "greedy") for n in range(6)),
    record(7, "late", action="limit", limit="user.tokens.1m", outcome="refused"),
    record(8, "\x1b[31mred"),
    record(9, "anonymous", tenant="", status=401, outcome="refused"),
]


def replayed(tmp_path, **configs):
    """The report of RECORDS."""
    path = tmp_path / "r.jsonl"
    lines = [json.dumps(one) for one in RECORDS]
    path.write_text("\n".join([*lines, "broken"]))
    loaded = {
        column: Simulation(load_config(text=HEAD + policy, env={}))
        for column, policy in configs.items()
    }
    with Sorter() as sorter:
        reader = read_all((str(path),), sorter, lambda _place, _read: None)
        return run(reader, loaded, {column: f"{column}.toml" for column in configs})


def test_the_shape_is_fixed(tmp_path):
    """The report has the documented keys and is plain JSON."""
    report = replayed(tmp_path, current=LOOSE, draft=STRICT)
    found = json.loads(msgspec.json.encode(report.to_dict()))
    assert set(found) == {
        "records", "lines", "span", "tokens", "draft", "current", "assumed",
        "passed_over", "totals", "tenants", "subjects", "subjects_left_out",
        "unmatched_tenants", "skipped", "skipped_lines", "notes",
    }  # fmt: skip
    assert set(found["totals"]) == {"then", "current", "draft"}
    assert set(found["totals"]["draft"]) == {
        "allowed", "tagged", "throttled", "limited", "blocked", "observed_only",
        "newly_refused", "newly_passed", "tokens_saved", "usd_saved", "by", "first",
        "last", "subjects", "incidents", "unpriced",
    }  # fmt: skip
    assert (found["records"], found["lines"], found["skipped"]) == (10, 11, 1)
    assert found["skipped_lines"][0]["line"] == 11


def test_sums_and_the_worst_first(tmp_path):
    """The report has requests, tokens and cost saved, subjects, limits and times."""
    found = replayed(tmp_path, draft=STRICT).to_dict()
    draft, then = found["totals"]["draft"], found["totals"]["then"]
    assert (draft["limited"], draft["newly_refused"]) == (4, 4)
    assert (draft["newly_passed"], then["limited"]) == (1, 1)
    assert draft["tokens_saved"] == 120
    assert draft["subjects"]["limited"] == 1
    worst = found["subjects"][0]
    assert worst["subject"] == {"kind": "user", "id": "greedy"}
    assert worst["requests"] == 6
    assert worst["draft"]["by"] == {"user.requests.1m": 4}
    assert worst["draft"]["first"] == "2001-09-09T01:46:42.000Z"
    assert worst["then"]["limited"] == 0


def test_draft_and_current_file_are_counted_separately(tmp_path):
    """Draft and current file are counted separately, for subjects of each kind."""
    found = replayed(tmp_path, current=LOOSE, draft=STRICT).to_dict()
    assert found["totals"]["current"]["limited"] == 4
    tenants = {one["tenant"]: one for one in found["tenants"]}
    assert tenants["default"]["policies"]["current"] == {
        "name": "default",
        "mode": "observe",
    }
    (tenant,) = [s for s in found["subjects"] if s["subject"]["kind"] == "tenant"]
    assert tenant["requests"] == tenants["default"]["requests"] == 9


def test_notes_say_what_is_open(tmp_path):
    """Notes name skipped lines, estimated usage, misfits and observe mode."""
    notes = " ".join(replayed(tmp_path, current=LOOSE, draft=STRICT).notes())
    for words in (
        "1 of 11 lines were malformed",
        "1 requests were refused when recorded",
        "1 requests were answered by the gateway itself",
        "policy 'default' of current.toml is in observe mode",
        "(tenant 'anonymous', 'default')",
    ):
        assert words in notes


def test_tenants_that_a_draft_lacks_are_listed_once(tmp_path):
    """One note lists all tenants that the draft lacks."""
    key = "sha256:" + "0" * 64
    acme = f'[[tenant]]\nname = "acme"\napi_keys = ["{key}"]\n'
    found = replayed(tmp_path, draft=STRICT + acme)
    (note,) = [one for one in found.notes() if "no tenant" in one]
    assert note.startswith("draft.toml has no tenant 'default': 9 requests were")
    assert found.to_dict()["unmatched_tenants"] == {"draft": ["default"]}


def test_the_table_for_people(tmp_path):
    """The table escapes control characters of ids and counts the rows left out."""
    out = io.StringIO()
    write_tables(replayed(tmp_path, draft=STRICT), out, 1)
    text = out.getvalue()
    assert "4 limited (user.requests.1m)" in text
    assert "1 more subjects" in text
    assert "\x1b" not in text


def test_a_report_without_affected_subjects(tmp_path):
    """The table says so if no subject is limited, throttled or blocked."""
    RECORDS[7]["action"], saved = "allow", RECORDS[7]["action"]
    try:
        out = io.StringIO()
        write_tables(replayed(tmp_path, draft="limits = []\n"), out, 10)
    finally:
        RECORDS[7]["action"] = saved
    assert "No subject is limited, throttled or blocked." in out.getvalue()
