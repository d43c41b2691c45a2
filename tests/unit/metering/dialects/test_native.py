"""Native APIs of inference servers: prompts, caps and counts."""

import json

import pytest
from msgspec import Raw

from gateway.core.model import Usage
from gateway.metering.dialects import CountTask, DialectError, find_endpoint
from gateway.metering.dialects.native import _objects
from gateway.metering.usage import count_usage, estimate_usage

SSE = b"text/event-stream"
JSON = b"application/json"


def request(path, body):
    """Match and facts of a request."""
    match = find_endpoint("POST", path)
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return match, match.dialect.read_request(match, text, "", "application/json")


REQUESTS = {
    "tgi": (
        "/generate",
        {"inputs": "Hello", "parameters": {"max_new_tokens": 20, "best_of": 2}},
        ("generate", False, 20, 2, 7),
    ),
    "tgi stream": (
        "/generate_stream",
        {"inputs": "Hello"},
        ("generate", True, None, 1, 7),
    ),
    "sglang": (
        "/generate",
        {
            "text": ["a", "b"],
            "sampling_params": {"max_new_tokens": 9, "n": 3},
            "stream": True,
        },
        ("generate", True, 9, 6, 10),
    ),
    "sglang, parameters for each prompt": (
        "/generate",
        {
            "text": ["a", "b"],
            "sampling_params": [{"max_new_tokens": 9}, {"max_new_tokens": 30}],
        },
        ("generate", False, 30, 2, 10),
    ),
    "vllm": (
        "/generate",
        {"prompt": "Hello", "max_tokens": 5, "n": 2},
        ("generate", False, 5, 2, 7),
    ),
    "llama.cpp": (
        "/completion",
        {"prompt": "Hello", "n_predict": 7},
        ("completion", False, 7, 1, 7),
    ),
    "llama.cpp, endless": (
        "/completion",
        {"prompt": "Hello", "n_predict": -1},
        ("completion", False, None, 1, 7),
    ),
    "infill": (
        "/infill",
        {"input_prefix": "ab", "input_suffix": "cd", "n_predict": 7},
        ("infill", False, 7, 1, 8),
    ),
    "tei": ("/embed", {"inputs": "Hello"}, ("embed", False, None, 1, 7)),
}


@pytest.mark.parametrize(("path", "body", "facts"), REQUESTS.values(), ids=REQUESTS)
def test_requests(path, body, facts):
    """Endpoint, stream, cap, answers and prompt of each server's request."""
    match, read = request(path, body)
    assert match.endpoint == facts[0]
    assert (read.stream, read.max_tokens, read.n, read.prompt_bytes) == facts[1:]


def test_token_arrays():
    """SGLang takes tokens in place of text."""
    _, facts = request("/generate", {"input_ids": [1, 2, 3], "sampling_params": {}})
    assert facts.prompt_tokens_known == 3


def test_a_prefix_does_not_hide_a_stream():
    """Behind a prefix the unambiguous names are found."""
    for path in ("/tgi/generate_stream", "/llama/infill"):
        assert find_endpoint("POST", path).metered


CLAMPED = {
    "tgi": ({"inputs": "x"}, ("parameters", "max_new_tokens")),
    "tgi, other parameters": (
        {"inputs": "x", "parameters": {"seed": 1}},
        ("parameters", "max_new_tokens"),
    ),
    "sglang": ({"text": "x"}, ("sampling_params", "max_new_tokens")),
    "sglang, tokens": ({"input_ids": [1]}, ("sampling_params", "max_new_tokens")),
    "vllm": ({"prompt": "x"}, ("max_tokens",)),
}


@pytest.mark.parametrize(("body", "path"), CLAMPED.values(), ids=CLAMPED)
def test_absent_caps_are_written(body, path):
    """A cap is written where the server of this prompt reads it."""
    text = json.dumps(body).encode()
    match, facts = request("/generate", text)
    assert match.dialect.cap_path(facts) is not None
    value = json.loads(match.dialect.clamp(text, facts, 10, None))
    for name in path:
        value = value[name]
    assert value == 10


def test_caps_of_llama_cpp():
    """llama.cpp's cap has a name of its own, and -1 means none."""
    for body in ({"prompt": "x"}, {"prompt": "x", "n_predict": -1, "n": 9}):
        text = json.dumps(body).encode()
        match, facts = request("/completion", text)
        clamped = json.loads(match.dialect.clamp(text, facts, 10, 3))
        assert clamped["n_predict"] == 10
        assert clamped.get("n", 3) == 3


def test_answers_without_text_have_no_cap():
    """Embeddings stay as they are."""
    text = b'{"inputs":"x"}'
    match, facts = request("/embed", text)
    assert match.dialect.cap_path(facts) is None
    assert match.dialect.clamp(text, facts, 10, None) == text


def test_a_list_of_parameters_is_not_capped():
    """What cannot be capped is refused; without a cap it passes."""
    body = {"text": ["a"], "sampling_params": [{"max_new_tokens": 9}]}
    text = json.dumps(body).encode()
    match, facts = request("/generate", text)
    with pytest.raises(DialectError):
        match.dialect.clamp(text, facts, 10, None)
    assert match.dialect.clamp(text, facts, None, 2) == text


def test_parameters_that_cannot_be_read():
    """A broken list of parameters says nothing."""
    assert _objects(Raw(b"[1,")) == []


def metered(path, *pieces, kind=JSON):
    """The usage, or the counting task."""
    match, facts = request(path, {"inputs": "Hello there", "prompt": "Hello"})
    meter = match.dialect.open_meter(match, facts, 200, {}.get, kind)
    for piece in pieces:
        meter.feed(piece if isinstance(piece, bytes) else json.dumps(piece).encode())
    return meter.finish(complete=True) or meter.unstated()


def event(value):
    """One server-sent event."""
    return b"data:" + json.dumps(value).encode() + b"\n\n"


SGLANG = {"prompt_tokens": 9, "completion_tokens": 3}
DETAILS = {"finish_reason": "length", "generated_tokens": 20, "seed": None}
ANSWERS = {
    "tgi": (
        "/generate",
        [{"generated_text": "x", "details": {**DETAILS, "input_length": 4}}],
        JSON,
        (4, 20, 0),
    ),
    "tgi, with its prompt": (
        "/generate",
        [{"generated_text": "x", "details": {**DETAILS, "prefill": [{}, {}]}}],
        JSON,
        (2, 20, 0),
    ),
    "tgi, best of two": (
        "/generate",
        [
            {
                "generated_text": "x",
                "details": {
                    **DETAILS,
                    "input_length": 4,
                    "best_of_sequences": [{"generated_tokens": 5}],
                },
            }
        ],
        JSON,
        (4, 25, 0),
    ),
    "tgi stream": (
        "/generate_stream",
        [
            event({"token": {"text": "x"}, "generated_text": None, "details": None}),
            event({"token": {}, "details": {**DETAILS, "input_length": 4}}),
        ],
        SSE,
        (4, 20, 0),
    ),
    "sglang": (
        "/generate",
        [
            {
                "text": "x",
                "meta_info": {
                    "prompt_tokens": 9,
                    "completion_tokens": 3,
                    "cached_tokens": 8,
                },
            }
        ],
        JSON,
        (9, 3, 8),
    ),
    "sglang, several": (
        "/generate",
        [
            [
                {
                    "text": "x",
                    "meta_info": {"prompt_tokens": 9, "completion_tokens": 3},
                },
                {
                    "text": "y",
                    "meta_info": {
                        "prompt_tokens": 2,
                        "completion_tokens": 4,
                        "cached_tokens": 1,
                    },
                },
            ]
        ],
        JSON,
        (11, 7, 1),
    ),
    "sglang stream": (
        "/generate",
        [
            event(
                {"text": "x", "meta_info": {"prompt_tokens": 9, "completion_tokens": 1}}
            ),
            event(
                {
                    "text": "xy",
                    "meta_info": {"prompt_tokens": 9, "completion_tokens": 2},
                }
            ),
            b"data: [DONE]\n\n",
        ],
        SSE,
        (9, 2, 0),
    ),
    "sglang stream of two answers": (
        "/generate",
        [
            event({"text": "x", "meta_info": {**SGLANG, "id": "a"}}),
            event({"text": "x", "meta_info": {**SGLANG, "id": "b"}}),
            event(
                {
                    "text": "y",
                    "meta_info": {**SGLANG, "id": "a", "completion_tokens": 8},
                }
            ),
        ],
        SSE,
        (18, 11, 0),
    ),
    "llama.cpp": (
        "/completion",
        [{"content": "x", "tokens_evaluated": 5, "tokens_predicted": 7}],
        JSON,
        (5, 7, 0),
    ),
    "llama.cpp stream": (
        "/infill",
        [
            event({"content": "x", "stop": False}),
            event({"content": "", "tokens_evaluated": 5, "tokens_predicted": 7}),
        ],
        SSE,
        (5, 7, 0),
    ),
}


@pytest.mark.parametrize(
    ("path", "pieces", "kind", "figures"), ANSWERS.values(), ids=ANSWERS
)
def test_answers(path, pieces, kind, figures):
    """The counts that each server states."""
    usage = metered(path, *pieces, kind=kind)
    assert isinstance(usage, Usage)
    assert (usage.prompt, usage.completion, usage.cached) == figures
    assert usage.source == "upstream"


@pytest.mark.parametrize(
    "answer",
    [
        {"generated_text": "x", "details": DETAILS},
        [
            {"generated_text": "x", "details": {**DETAILS, "generated_tokens": 15}},
            {"generated_text": "y", "details": {**DETAILS, "generated_tokens": 5}},
        ],
        [
            {"generated_text": "x", "details": DETAILS},
            {"generated_text": "no details"},
        ],
    ],
)
def test_an_unknown_prompt_is_counted(answer):
    """TGI states what it generated, and its prompt only if it is asked to."""
    task = metered("/generate", answer)
    assert isinstance(task, CountTask)
    usage = estimate_usage(task)
    assert usage.completion >= 20
    assert usage.prompt > 0
    task.body = b'{"inputs":"four words are here"}'
    counted = count_usage(task, lambda text: len(text.split()), exact=True)
    assert counted.prompt == 4
    assert counted.completion == 20


@pytest.mark.parametrize(
    "answer",
    [
        {"generated_text": "x"},
        {"generated_text": "x", "details": {"a": 1}},
        {"generated_text": "x", "details": [1], "meta_info": 3},
        {"generated_text": "x", "meta_info": {"id": 1}},
        b'{"generated_text": "x',
        [],
    ],
)
def test_answers_without_counts(answer):
    """An answer that states nothing is counted from its text."""
    task = metered("/generate", answer)
    assert isinstance(task, CountTask)
    assert task.stated is None
