"""Usage meters: bounds, ends and formats beyond the recorded answers."""

import json

import pytest

from gateway.core.model import RequestFacts, Usage
from gateway.metering.dialects import find_endpoint
from gateway.metering.dialects.meters import (
    BODY_BYTES,
    EVENT_BYTES,
    KEPT_BYTES,
    TEXT_CHARS,
    JsonMeter,
    NullMeter,
    SniffMeter,
    StreamMeter,
    read_envelope,
)

MATCH = find_endpoint("POST", "/v1/chat/completions")
OTHER = find_endpoint("POST", "/unknown")
FACTS = RequestFacts("chat.completions", "gpt-4o", stream=True)
USAGE = b'"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}'
EVENT = b'data: {"choices":[{"delta":{"content":"word "}}]}\n\n'


def fed(meter, *pieces, complete=True):
    for piece in pieces:
        meter.feed(piece)
    return meter.finish(complete)


def test_null_meter():
    """Errors and free endpoints cost nothing, whatever they contain."""
    meter = NullMeter()
    assert fed(meter, b"{" + USAGE + b"}") == Usage()
    assert meter.unstated() is None


def test_json_bodies():
    """A body's usage is read."""
    meter = JsonMeter(FACTS, MATCH)
    usage = fed(meter, b'{"a":1,', USAGE, b"}")
    assert usage == Usage(3, 4, 7, source="upstream")


@pytest.mark.parametrize(
    "body",
    [
        b'{"usage":{"prompt_tokens":3,"completion_tokens":4,"cached_tokens":1}}',
        b"[{" + USAGE + b"},{" + USAGE + b"}]",
        b'{"usage":{"prompt_tokens":"3","completion_tokens":4}}',
        b"{" + USAGE + b"} {}",
        b'{"x":"\xff",' + USAGE + b"}",
        b'{"message":3,' + USAGE + b"}",
    ],
)
def test_unexpected_json(body):
    """Arrays, unexpected types, trailing text and bad UTF-8 still give the figures."""
    usage = fed(JsonMeter(FACTS, MATCH), body)
    assert usage is not None
    assert usage.total == 7


def test_nothing_stated():
    """Without usage a metered answer must be counted; another one costs nothing."""
    meter = JsonMeter(FACTS, MATCH)
    assert fed(meter, b'{"usage":{}}') is None
    task = meter.unstated()
    assert task is not None
    assert task.answer == [b'{"usage":{}}']
    assert fed(JsonMeter(FACTS, OTHER), b"{}") == Usage()


@pytest.mark.parametrize("where", ["head", "tail"])
def test_huge_bodies(where):
    """Usage is found at either end of a body far larger than what is kept."""
    data = b'"data":[' + b"0.25," * 1_000_000 + b"1]"
    parts = [USAGE, data] if where == "head" else [data, USAGE]
    body = b"{" + b",".join(parts) + b"}"
    meter = JsonMeter(FACTS, MATCH)
    usage = fed(meter, *(body[at : at + 60_000] for at in range(0, len(body), 60_000)))
    assert usage == Usage(3, 4, 7, source="upstream")


def test_huge_body_without_usage():
    """The size of the dropped part of a body is known."""
    meter = JsonMeter(FACTS, MATCH)
    assert fed(meter, b'{"x":"' + b"a" * (2 * BODY_BYTES) + b'"}') is None
    task = meter.unstated()
    assert task is not None
    assert task.lost_bytes > BODY_BYTES
    assert len(task.answer) == 2


def test_stream_with_repeated_usage():
    """The last usage counts (DeepSeek, continuous usage)."""
    meter = StreamMeter(FACTS, MATCH)
    early = b'data: {"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
    usage = fed(meter, early + EVENT + b"data: {" + USAGE + b"}\n\ndata: [DONE]\n\n")
    assert usage is not None
    assert usage.total == 7


def test_stream_of_json_over_several_lines():
    """A payload over several data lines is joined."""
    event = b'data: {"usage": {\ndata: "prompt_tokens": 3,\ndata: "total_tokens": 7}}'
    usage = fed(StreamMeter(FACTS, MATCH), event + b"\n\n")
    assert usage is not None
    assert usage.total == 7


def test_stream_cut_short():
    """Of a truncated Anthropic stream the prompt is kept and the completion counted."""
    match = find_endpoint("POST", "/v1/messages")
    meter = StreamMeter(FACTS, match)
    start = b'data: {"type":"message_start","message":{"usage":{"input_tokens":10,'
    start += b'"output_tokens":1}}}\n\n'
    assert fed(meter, start, b'data: {"delta":{"text":"Hel', complete=False) is None
    task = meter.unstated()
    assert task is not None
    assert task.stated is not None
    assert task.stated.prompt == 10
    assert task.answer[-1].endswith(b"Hel")
    assert fed(StreamMeter(FACTS, OTHER), start) == Usage(10, 1, 11, source="upstream")


def test_gemini_cut_short():
    """A prompt count alone suffices for a complete answer, not for a truncated one."""
    event = b'data: {"usageMetadata":{"promptTokenCount":8}}\n\n'
    match = find_endpoint("POST", "/v1beta/models/g:streamGenerateContent")
    assert fed(StreamMeter(FACTS, match), event, complete=False) is None
    usage = fed(StreamMeter(FACTS, match), event)
    assert usage is not None
    assert usage.prompt == 8


def test_long_streams_keep_only_text():
    """Beyond 64 KiB only the text of older records is kept, then only their size."""
    meter = StreamMeter(FACTS, MATCH)
    count = 3 * KEPT_BYTES // len(EVENT)
    assert fed(meter, *([EVENT] * count)) is None
    task = meter.unstated()
    assert task is not None
    assert sum(map(len, task.answer)) <= KEPT_BYTES
    kept = b"".join(task.text).count(b"word") + b"".join(task.answer).count(b"word")
    assert (kept, task.lost_bytes) == (count, 0)


def test_endless_streams_are_measured():
    """Beyond 1 MiB of text only sizes are kept; empty text is not stored."""
    meter = StreamMeter(FACTS, MATCH)
    big = b'data: {"choices":[{"delta":{"content":"' + b"x" * 9000 + b'"}}]}\n\n'
    for _ in range(TEXT_CHARS // 9000 + 20):
        meter.keep(big)
    meter.keep(b": nothing\n\n" * 7000)
    meter.keep(big)
    task = meter.unstated()
    assert task is not None
    assert task.lost_bytes > 0


def test_empty_records_leave_no_text():
    """Comments leave no text when a stream is reduced."""
    meter = StreamMeter(FACTS, MATCH)
    meter.keep(b": nothing\n\n" * 7000)
    task = meter.unstated()
    assert task is not None
    assert task.text == []


def test_oversized_events():
    """Usage at the end of an event of megabytes is found; the rest is dropped."""
    meter = StreamMeter(FACTS, MATCH)
    body = b'data: {"type":"response.completed","response":{"output":[{"result":"'
    body += b"A" * (EVENT_BYTES + 300_000) + b'"}],' + USAGE + b"}}\n\n"
    usage = fed(meter, *(body[at : at + 65_536] for at in range(0, len(body), 65_536)))
    assert usage is not None
    assert usage.total == 7


def test_lines():
    """Lines of JSON are records too."""
    meter = StreamMeter(FACTS, MATCH, "ndjson")
    assert fed(meter, b'{"a":1}\n{', USAGE + b"}") == Usage(3, 4, 7, source="upstream")


@pytest.mark.parametrize(
    ("pieces", "total"),
    [
        ([b"\n", b"{" + USAGE + b"}"], 7),
        ([b"[{" + USAGE + b"}]"], 7),
        ([b"ev", b"ent: x\ndata: {" + USAGE + b"}\n\n"], 7),
        ([b"\xef\xbb\xbfdata: {" + USAGE + b"}\n\n"], 7),
        ([b": hello\n\n", b"data: {" + USAGE + b"}\n\n"], 7),
    ],
)
def test_sniffing(pieces, total):
    """Without a conclusive content type the first bytes decide."""
    meter = SniffMeter(FACTS, MATCH, MATCH.dialect.searcher[0])
    assert not meter.implausible
    usage = fed(meter, *pieces)
    assert usage is not None
    assert usage.total == total


def test_sniffing_text_and_nothing():
    """Plain text and empty answers state no usage but can be counted."""
    for pieces in ([b"hello"], []):
        meter = SniffMeter(FACTS, MATCH, MATCH.dialect.searcher[0])
        assert fed(meter, *pieces) is None
        task = meter.unstated()
        assert task is not None
        assert task.model == "gpt-4o"


def test_envelopes_of_invalid_json():
    """Invalid JSON has no envelope; unexpected types have one."""
    assert read_envelope(b"junk") is None
    assert read_envelope(json.dumps({"usage": 3}).encode()) is not None


def test_no_usage_is_never_implausible():
    """A meter that reads no usage reports none as implausible."""
    assert not NullMeter().implausible


def test_text_of_a_stream_so_far():
    """A stream's meter tells how many events and bytes of text it has kept."""
    meter = StreamMeter(FACTS, MATCH)
    for _ in range(3):
        meter.feed(EVENT)
    assert meter.events_kept() == 3
    assert meter.text_bytes() == 3 * len("word ")
