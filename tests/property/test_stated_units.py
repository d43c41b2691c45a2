"""Whatever an answer states, its usage is finite, bounded and adds up."""

from __future__ import annotations

import json
import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.model import UNITS, RequestFacts, Usage
from gateway.metering.dialects import CountTask, find_endpoint
from gateway.metering.dialects.fields import MAX_COUNT, Details, Stated, UsageEnvelope
from gateway.metering.usage import estimate_usage

PATHS = [
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/images/generations",
    "/v1/audio/transcriptions",
    "/v1/videos",
    "/v1/ocr",
    "/v2/rerank",
    "/generate",
    "/v1beta/interactions",
    "/v1beta/models/m:generateContent",
    "/v1beta/models/imagen-4:predict",
    "/model/m/converse",
]


def names(*shapes: type[msgspec.Struct]) -> list[str]:
    """The members that these structs read."""
    fields = (field for shape in shapes for field in msgspec.structs.fields(shape))
    return sorted({field.encode_name for field in fields})


NAMES = [
    *names(UsageEnvelope, Stated, Details),
    *("data", "duration", "seconds", "size", "quality", "usage_info", "predictions"),
    *("steps", "type", "arguments", "queries", "groundingMetadata", "image_gen"),
    *("webSearchQueries", "modality", "tokenCount", "num_requests", "total_cost"),
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(
        ["", "x", "7", "1e999", "nan", "duration", "web_search_call", "😀"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=20,
)
ANSWERS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PATHS), ANSWERS | st.lists(ANSWERS, max_size=3), st.booleans())
def test_any_answer(path, answer, streamed):
    """No answer breaks a meter, or has a usage that cannot be stored or priced."""
    match = find_endpoint("POST", path)
    facts = RequestFacts(match.endpoint, "m", stream=streamed, units=(("images", 1),))
    kind = b"text/event-stream" if streamed else b"application/json"
    meter = match.dialect.open_meter(match, facts, 200, {}.get, kind)
    text = json.dumps(answer).encode()
    meter.feed(b"data: %b\n\n" % text if streamed else text)
    usage = meter.finish(complete=True)
    if usage is None:
        task = meter.unstated()
        assert isinstance(task, CountTask)
        usage = estimate_usage(task)
    assert isinstance(usage, Usage)
    msgspec.msgpack.encode(usage)
    assert 0 <= usage.prompt <= 16 * MAX_COUNT
    assert usage.prompt + usage.completion <= usage.total
    assert usage.cached + usage.cache_write <= usage.prompt
    assert usage.cost_usd is None or 0 <= usage.cost_usd < math.inf
    for unit, amount in usage.units:
        assert unit.partition(":")[0] in UNITS
        assert 0 < amount < math.inf
    parts = dict(usage.units)
    assert sum(parts.get(f"input_{kind}_tokens", 0) for kind in KINDS) <= usage.prompt
    generated = usage.total - usage.prompt
    assert sum(parts.get(f"output_{kind}_tokens", 0) for kind in KINDS) <= generated


KINDS = ("audio", "image", "video")
