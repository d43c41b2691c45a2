"""Recorded provider answers: the stated tokens, exactly, however the bytes arrive.

Runs over ``../shared/cassettes`` or the folder that TIDEGATE_CASSETTES names (an
``index.json`` and the files it lists).
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.core.model import RequestFacts, Usage
from gateway.metering.dialects import UsageFilter, UsageMeter, find_endpoint
from gateway.metering.dialects.filter import is_usage_only
from gateway.metering.inflate import Inflater
from gateway.metering.usage import count_usage

_DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "cassettes"
FOLDER = Path(os.environ.get("TIDEGATE_CASSETTES", _DEFAULT))
# Every single split of longer answers would take minutes: these are split by prime
# strides and, like all, byte by byte.
ALL_SPLITS_BYTES = 4000


def recordings(wanted: Callable[[Any], bool] = lambda _entry: True) -> list[Any]:
    if not (FOLDER / "index.json").is_file():
        reason = pytest.mark.skip(reason=f"no recorded answers in {FOLDER.name}")
        return [pytest.param(None, marks=reason)]
    entries = json.loads((FOLDER / "index.json").read_text())
    return [pytest.param(entry, id=entry["id"]) for entry in entries if wanted(entry)]


every_recording = pytest.mark.parametrize("entry", recordings())


def body_of(entry: dict[str, Any]) -> bytes:
    return (FOLDER / entry["response"]).read_bytes()


def facts_of(entry: dict[str, Any]) -> RequestFacts:
    match = find_endpoint("POST", entry["path"])
    request = (FOLDER / entry["request"]).read_bytes() if entry["request"] else b"{}"
    if not match.metered:
        return RequestFacts(match.endpoint, billable=match.billable)
    return match.dialect.read_request(match, request, "", "application/json")


def open_meter(entry: dict[str, Any]) -> UsageMeter:
    match = find_endpoint("POST", entry["path"])
    fields = {k.encode(): v.encode() for k, v in entry["response_headers"].items()}
    kind = (entry["content_type"] or "").encode()
    return match.dialect.open_meter(
        match, facts_of(entry), entry["status"], fields.get, kind
    )


def metered(entry: dict[str, Any], pieces: list[bytes]) -> Usage | None:
    meter = open_meter(entry)
    for piece in pieces:
        meter.feed(piece)
    return meter.finish(complete=True)


def check(entry: dict[str, Any], usage: Usage | None) -> None:
    expected = entry["expected"]
    if expected is not None:
        assert usage is not None
        assert usage.source == "upstream"
        stated = (usage.prompt, usage.completion, usage.total)
        assert stated == (
            expected["prompt"],
            expected["completion"],
            expected["total"],
        )
    elif entry["expected_source"] == "none_not_reported":
        assert usage is None
    else:
        assert usage == Usage()


def strides(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@every_recording
def test_whole(entry):
    """An answer in one piece gives the stated usage; errors cost nothing."""
    check(entry, metered(entry, [body_of(entry)]))


@every_recording
def test_byte_by_byte(entry):
    """An answer byte by byte, or in pieces of odd sizes, gives the same usage."""
    body = body_of(entry)
    for size in (1, 7, 61, 997):
        check(entry, metered(entry, strides(body, size)))


@every_recording
def test_split_anywhere(entry):
    """An answer in two pieces, split at any byte, gives the same usage."""
    body = body_of(entry)
    step = 1 if len(body) <= ALL_SPLITS_BYTES else 37
    for at in range(0, len(body), step):
        check(entry, metered(entry, [body[:at], body[at:]]))


@every_recording
def test_other_line_ends(entry):
    """CRLF and LF line ends give the same usage, also when split."""
    plain = body_of(entry).replace(b"\r\n", b"\n")
    crlf = plain.replace(b"\n", b"\r\n")
    for body in (plain, crlf):
        for size in (1, 53, len(body) or 1):
            check(entry, metered(entry, strides(body, size)))


@every_recording
def test_compressed(entry):
    """A gzip answer, decoded incrementally, gives the same usage."""
    coded = gzip.compress(body_of(entry))
    for size in (1, 100, len(coded)):
        inflater = Inflater("gzip", 1 << 24)
        meter = open_meter(entry)
        for piece in strides(coded, size):
            for plain in inflater.pieces(piece):
                meter.feed(plain)
        check(entry, meter.finish(complete=True))


@pytest.mark.parametrize(
    "entry", recordings(lambda e: e["content_type"].startswith("text/event-stream"))
)
def test_filter_passes_all_else(entry):
    """Only usage-only events are withheld from a stream; the meter reads them."""
    body = body_of(entry)
    parts = body.replace(b"\r\n", b"\n").split(b"\n\n")
    kept = b"\n\n".join(part for part in parts if not is_usage_only(part))
    for size in (1, 13, 500, len(body)):
        meter = open_meter(entry)
        sift = UsageFilter(meter)
        passed = b"".join(sift.feed(piece) for piece in strides(body, size))
        passed += sift.flush()
        assert passed.replace(b"\r\n", b"\n") == kept
        check(entry, meter.finish(complete=True))


@pytest.mark.parametrize(
    "entry", recordings(lambda e: e["expected_source"] == "none_not_reported")
)
def test_unstated_is_counted(entry):
    """Usage that the provider did not state is counted from the text, never 0."""
    meter = open_meter(entry)
    meter.feed(body_of(entry))
    assert meter.finish(complete=True) is None
    task = meter.unstated()
    assert task is not None
    task.body = (FOLDER / entry["request"]).read_bytes()
    usage = count_usage(task, lambda text: len(text.split()), exact=True)
    assert usage.prompt > 0
    assert usage.source == "counted"
    assert usage.total == usage.prompt + usage.completion
