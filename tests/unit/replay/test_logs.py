"""Reading logs of other systems for ``learn``."""

from __future__ import annotations

import gzip
import json

import polars as pl
import pytest

from gateway.offline.columns import Choice
from gateway.offline.errors import InputError
from gateway.replay.logs import LogOptions, read_log
from gateway.replay.reading import RecordReader
from gateway.replay.sorting import Sorter

CSV = (
    b"created_at,User ID,ip,model,input_tokens,output_tokens,cost,status_code\n"
    b"2026-01-05 08:00:02,ann,10.0.0.1,gpt-4o,30,20,0.5,200\n"
    b"2026-01-05 08:00:01,bob,10.0.0.2,gpt-4o,10,5,0.1,401\n"
    b"someday,bob,10.0.0.2,gpt-4o,10,5,0.1,200\n"
    b"2026-01-05 08:00:03,,10.0.0.3,gpt-4o,1,,,\n"
)


def read(path, guide=LogOptions()):  # noqa: B008 - frozen
    """The requests of a file in order of time."""
    with Sorter() as sorter:
        reader = RecordReader(sorter, guide.tenant)
        read_log(str(path), reader, guide, lambda _bytes: None)
        return reader, list(sorter)


def test_csv_with_usual_names(tmp_path):
    """Columns of time, user, address, model, tokens, cost and status are found."""
    path = tmp_path / "week.csv"
    path.write_bytes(CSV)
    reader, (bob, ann, nobody) = read(path)
    assert (bob.user, bob.client_ip, bob.status) == ("bob", "10.0.0.2", 401)
    assert (ann.usage.prompt, ann.usage.total, ann.usd) == (30, 50, 0.5)
    assert ann.ts - bob.ts == 1.0
    assert (nobody.user, nobody.usage.total) == ("anonymous", 1)
    assert (reader.lines, reader.skipped) == (4, 1)
    assert (reader.named[0].line, reader.named[0].file) == (4, str(path))


def test_formats_give_the_same(tmp_path):
    """CSV, gzip CSV, Parquet and JSON lines of the same rows."""
    rows = {
        "time": ["2026-01-05T08:00:01Z", "2026-01-05T08:00:02Z"],
        "user": ["a", "b"],
        "ip": ["10.0.0.1", "10.0.0.2"],
        "tokens": [5, 7],
    }
    frame = pl.DataFrame(rows)
    frame.write_csv(tmp_path / "a.csv")
    (tmp_path / "a.csv.gz").write_bytes(
        gzip.compress((tmp_path / "a.csv").read_bytes())
    )
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_ndjson(tmp_path / "a.jsonl")
    names = ("a.csv", "a.csv.gz", "a.parquet", "a.jsonl")
    found = [read(tmp_path / name)[1] for name in names]
    assert len(found[0]) == 2
    assert all(one == found[0] for one in found)


def test_the_gateways_records_go_their_own_way(tmp_path):
    """JSON lines with ``client_ip`` and ``ts`` are read as records: by every field."""
    path = tmp_path / "r.jsonl"
    record = {"ts": 1e9, "client_ip": "10.0.0.1", "action": "limit", "prompt_tokens": 3}
    path.write_text(json.dumps(record) + "\n")
    _, (one,) = read(path, LogOptions(tenant="acme"))
    assert (one.action, one.refused, one.tenant) == ("limit", True, "acme")


def test_a_broken_first_line_is_one_line(tmp_path):
    """A malformed first line does not change how a JSON lines file is read."""
    path = tmp_path / "r.jsonl"
    path.write_text('broken\n{"ts": 1e9, "client_ip": "10.0.0.1"}\n')
    reader, requests = read(path)
    assert (len(requests), reader.skipped) == (1, 1)


def test_the_users_word_counts(tmp_path):
    """Options set columns, format and zone of times, and the default tenant."""
    path = tmp_path / "odd.csv"
    path.write_text("wann;wer;wo;wieviel\n05/01/2026 08:00;ann;10.0.0.1;9\n")
    guide = LogOptions(
        Choice(time="wann", user="wer", total="wieviel"),
        address="wo",
        zone="Europe/Berlin",
        form="%d/%m/%Y %H:%M",
        tenant="acme",
    )
    _, (one,) = read(path, guide)
    assert (one.user, one.client_ip, one.tenant) == ("ann", "10.0.0.1", "acme")
    assert (one.ts, one.usage.total) == (1_767_596_400.0, 9)


def test_without_addresses_each_user_has_one(tmp_path):
    """Without an address column each user gets an address of its own."""
    path = tmp_path / "a.csv"
    path.write_text("ts,user,tokens\n1767600000,a,1\n1767600001,b,1\n")
    assert [one.client_ip for one in read(path)[1]] == ["a", "b"]


def test_a_row_that_is_no_event_is_named(tmp_path):
    """Rows that the event mapping refuses are skipped as well."""
    path = tmp_path / "a.csv"
    path.write_text(
        "ts,user,tokens,fingerprint\n1767600000,a,1,zz\n1767600001,b,1,00ff00ff00ff00ff\n"
    )
    reader, requests = read(path)
    assert (len(requests), reader.skipped) == (1, 1)
    assert (reader.named[0].line, "fingerprint" in reader.named[0].why) == (2, True)


@pytest.mark.parametrize(
    ("text", "guide", "why"),
    [
        ("ts,tokens\n1767600000,1\n", LogOptions(), "neither a user nor an address"),
        ("user,tokens\na,1\n", LogOptions(), "no time column"),
        ("ts,user\n1767600000,a\n", LogOptions(), "no token column"),
        (
            "ts,user,tokens\n1767600000,a,1\n",
            LogOptions(address="ip"),
            "no column 'ip'",
        ),
        ("ts,user,tokens\n1767600000,a,1\n", LogOptions(zone="Mars/X"), "time zone"),
        ("", LogOptions(), "empty"),
    ],
)
def test_what_is_missing_is_said(tmp_path, text, guide, why):
    """Unusable files and options raise an error that names the file or the flag."""
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=why):
        read(path, guide)
