"""Input files of every format, read in pieces; unusable rows are reported."""

from __future__ import annotations

import gzip
import json

import polars as pl
import pytest

from gateway.offline import Choice, InputError, analyze_files
from gateway.offline import source as sources
from gateway.offline.columns import find_columns
from gateway.offline.source import LINE, open_source, parse_piece, read_pieces

HEADER = "ts,user,prompt_tokens,completion_tokens\n"
ROWS = [
    {"ts": f"2026-01-05T08:{n % 60:02}:00Z", "user": f"u{n % 3}",
     "prompt_tokens": 10 + n, "completion_tokens": n}
    for n in range(50)
]  # fmt: skip
TOTAL = sum(row["prompt_tokens"] + row["completion_tokens"] for row in ROWS)


def as_csv(rows=ROWS):
    """The rows as CSV."""
    return HEADER + "".join(",".join(map(str, row.values())) + "\n" for row in rows)


def as_jsonl(rows=ROWS):
    """The rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.parquet", "noname"]
)
def test_formats(tmp_path, name):
    """The format is detected from the content, and each gives the same sums."""
    path = tmp_path / name
    text = (as_jsonl() if "jsonl" in name else as_csv()).encode()
    if name.endswith("parquet"):
        pl.DataFrame(ROWS).write_parquet(path)
    else:
        path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    report = analyze_files([str(path)])
    assert (report.rows, report.users, report.skipped) == (50, 3, 0)
    assert report.timeline.tokens.sum() == TOTAL


def test_several_files(tmp_path):
    """The rows of several files are summed, in any order and format."""
    (tmp_path / "b.csv").write_text(as_csv(ROWS[25:]))
    (tmp_path / "a.jsonl").write_text(as_jsonl(ROWS[:25]))
    report = analyze_files([str(tmp_path / "b.csv"), str(tmp_path / "a.jsonl")])
    assert (report.rows, report.timeline.tokens.sum()) == (50, TOTAL)


@pytest.mark.parametrize("size", [64, 97, 1000])
def test_any_cut_gives_the_same_rows(tmp_path, monkeypatch, size):
    """Quoted cells with line ends are read for any piece size."""
    path = tmp_path / "a.csv"
    cells = [
        f'"note {n}\nsecond ""line"""' if n % 4 == 0 else f"n{n}" for n in range(60)
    ]
    body = "".join(f"{cell},2026-01-05T08:00:00Z,{n}\n" for n, cell in enumerate(cells))
    path.write_text("note,ts,tokens\n" + body)
    monkeypatch.setattr(sources, "CHUNK_BYTES", size)
    source = open_source(str(path))
    names = find_columns(source.columns).names
    frames = [parse_piece(source, piece, names) for piece in read_pieces(source)]
    joined = pl.concat(frames)
    assert joined["tokens"].to_list() == [str(n) for n in range(60)]
    assert frames[0][LINE][0] == 2


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_bad_rows_are_named(tmp_path, form):
    """Each unusable row is reported with line and reason, and the others count."""
    rows = [dict(row) for row in ROWS]
    rows[3]["ts"] = "yesterday"
    rows[7]["prompt_tokens"] = "many"
    rows[9]["completion_tokens"] = -4
    rows[11]["ts"] = ""
    rows[13] |= {"prompt_tokens": "", "completion_tokens": ""}
    path = tmp_path / "a"
    path.write_text(as_csv(rows) if form == "csv" else as_jsonl(rows))
    report = analyze_files([str(path)])
    first = 2 if form == "csv" else 1
    assert report.skipped == 5
    assert [(one.line - first, one.why) for one in report.skipped_rows] == [
        (3, "ts: 'yesterday' is not a time"),
        (7, "prompt_tokens: 'many' is not a count of tokens"),
        (9, "completion_tokens: '-4' is not a count of tokens"),
        (11, "ts: missing"),
        (13, "no count of tokens"),
    ]
    assert report.rows == 45


def test_broken_lines(tmp_path):
    """Malformed JSON or CSV lines do not affect other lines."""
    json_file = tmp_path / "a.jsonl"
    json_file.write_text(as_jsonl() + '{"ts": "2026-\n[]\n\n' + as_jsonl(ROWS[:1]))
    report = analyze_files([str(json_file)])
    assert (report.rows, [one.line for one in report.skipped_rows]) == (51, [51, 52])
    csv_file = tmp_path / "a.csv"
    csv_file.write_text(as_csv() + 'cut\n2026-01-05T09:00:00Z,u1,1,2,3,4\n"\xff,,\n')
    report = analyze_files([str(csv_file)])
    assert (report.rows, report.skipped) == (51, 2)


def test_fields_inside_objects(tmp_path):
    """Token counts in a nested ``usage`` object are found without an option."""
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(
            json.dumps({"created": 1_767_600_000 + n, "user": "a", "usage": usage})
            + "\n"
            for n, usage in enumerate(
                [{"prompt_tokens": 3, "completion_tokens": 4}, {"prompt_tokens": 5}]
            )
        )
    )
    assert analyze_files([str(path)]).timeline.tokens.sum() == 12


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        (HEADER, "a.csv: no usable row: nothing follows the names"),
        (
            HEADER + "x,y,z,1\n",
            "no usable row; 1 were .*line 2: ts: 'x'.*--time-format",
        ),
        ("1,2,3\n4,5,6\n", "names no columns"),
        ('[{"ts":1,"tokens":2},\n', "a JSON array"),
        ("[\n  {\n", "a JSON array"),
        ("when,who\n1,2\n", "no time column"),
    ],
)
def test_unusable_files(tmp_path, text, words):
    """An unusable file is one error with its name and the reason."""
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        analyze_files([str(path)])


def test_utf_16_is_named_as_such(tmp_path):
    """A UTF-16 file, as spreadsheets save it, is refused with a hint to UTF-8."""
    path = tmp_path / "a.csv"
    path.write_text(as_csv(), encoding="utf-16")
    with pytest.raises(InputError, match="UTF-16; save it as UTF-8"):
        analyze_files([str(path)])


def test_files_that_disagree(tmp_path):
    """Files with and without a user column cannot be analyzed together."""
    (tmp_path / "a.csv").write_text(as_csv())
    (tmp_path / "b.csv").write_text("ts,tokens\n1767600000,5\n")
    names = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    with pytest.raises(InputError, match=r"b\.csv: no user column"):
        analyze_files(names)
    assert analyze_files(names[1:], choice=Choice(total="tokens")).users == 0


def test_broken_archives(tmp_path):
    """A truncated gzip or Parquet file is an error without a traceback."""
    whole = gzip.compress(as_csv().encode())
    (tmp_path / "a.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing")
    for name in ("a.gz", "a.parquet", "none.csv", "."):
        with pytest.raises(InputError, match="cannot read"):
            analyze_files([str(tmp_path / name)])
