"""Images, speech, transcripts, videos and pages are metered in their units."""

import json

import pytest
from msgspec import Raw

from gateway.core.model import UNITS, RequestFacts
from gateway.metering.dialects import find_endpoint
from gateway.metering.dialects.media import plain
from tests.unit.metering.test_audio import wav

SSE = b"text/event-stream"
JSON = b"application/json"
FORM = "multipart/form-data; boundary=XX"


def form(**fields):
    """A form of these fields; ``file`` is an upload."""
    body = b""
    for name, value in fields.items():
        head = f'--XX\r\nContent-Disposition: form-data; name="{name}"'
        head += '; filename="a.wav"' if name == "file" else ""
        data = value if isinstance(value, bytes) else str(value).encode()
        body += head.encode() + b"\r\n\r\n" + data + b"\r\n"
    return body + b"--XX--\r\n"


def metered(path, asked, answer, kind=JSON):
    """The usage of a request, and of its answer."""
    match = find_endpoint("POST", path)
    is_form = isinstance(asked, bytes) and asked.startswith(b"--XX")
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    facts = match.dialect.read_request(
        match, body, "", FORM if is_form else "application/json"
    )
    assert {unit.partition(":")[0] for unit, _ in facts.units} <= UNITS
    meter = match.dialect.open_meter(match, facts, 200, {}.get, kind)
    meter.feed(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    usage = meter.finish(complete=True)
    return usage.source, dict(usage.units)


ASKED = {"model": "dall-e-3", "prompt": "a cat", "n": 2, "size": "1024x1792"}
MADE = {"created": 1, "data": [{"url": "a"}, {"url": "b"}]}
STATED, COUNTED, ESTIMATED = "upstream", "counted", "estimated"
TOKENS = {"input_tokens": 5, "output_tokens": 9, "total_tokens": 14}
IMAGES, SPEECH = "/v1/images/generations", "/v1/audio/speech"
TRANSCRIPTS = "/v1/audio/transcriptions"

CASES = {
    "images": (IMAGES, ASKED, MADE, STATED, {"images:1024x1792": 2}),
    "images, hd": (
        IMAGES,
        {**ASKED, "quality": "HD"},
        MADE,
        STATED,
        {"images:1024x1792:hd": 2},
    ),
    "one of two images": (
        IMAGES,
        ASKED,
        {"data": [{"url": "a"}]},
        STATED,
        {"images:1024x1792": 1},
    ),
    "images, plainly": (
        IMAGES,
        {"model": "grok-2-image", "prompt": "x", "quality": "auto"},
        MADE,
        STATED,
        {"images": 2},
    ),
    "an answer without its images": (
        IMAGES,
        ASKED,
        b'{"data":[{"b64_json":"' + b"A" * 2_000_000 + b'"}]}',
        COUNTED,
        {"images:1024x1792": 2},
    ),
    "the size that was made": (
        IMAGES,
        {"prompt": "x", "size": "auto"},
        {**MADE, "size": "1536x1024", "quality": "high"},
        STATED,
        {"images:1536x1024:high": 2},
    ),
    "width and height": (
        IMAGES,
        {"prompt": "x", "width": 512, "height": 256},
        MADE,
        STATED,
        {"images:512x256": 2},
    ),
    "a size of another API": (
        IMAGES,
        {"prompt": "x", "size": {"w": 1}, "quality": "<b>"},
        MADE,
        STATED,
        {"images": 2},
    ),
    "a size with a star": (
        IMAGES,
        {"prompt": "x", "size": "512*512"},
        MADE,
        STATED,
        {"images:512x512": 2},
    ),
    "a price stated": (
        IMAGES,
        ASKED,
        {**MADE, "usage": {"cost_in_usd_ticks": 400_000_000}},
        STATED,
        {"images:1024x1792": 2},
    ),
    "a price stated, and nothing else": (
        IMAGES,
        ASKED,
        {"usage": {"cost": 0.04}},
        STATED,
        {"images:1024x1792": 2},
    ),
    "image tokens": (
        IMAGES,
        ASKED,
        {**MADE, "usage": TOKENS},
        STATED,
        {"output_image_tokens": 9},
    ),
    "image form": (
        "/v1/images/edits",
        form(model="dall-e-2", prompt="x", n=3, size="256x256", image=b"png"),
        MADE,
        STATED,
        {"images:256x256": 2},
    ),
    "image form, no images": (
        "/v1/images/variations",
        form(model="dall-e-2", n=3),
        b"{}",
        COUNTED,
        {"images": 3},
    ),
    "image stream": (
        IMAGES,
        {**ASKED, "stream": True},
        b'data: {"type":"image_generation.completed","usage":'
        + json.dumps(TOKENS).encode()
        + b"}\n\n",
        STATED,
        {"output_image_tokens": 9},
    ),
    "image stream without usage": (
        IMAGES,
        {**ASKED, "stream": True},
        b'data: {"type":"image_generation.completed"}\n\n',
        COUNTED,
        {"images:1024x1792": 2},
    ),
    "speech": (
        SPEECH,
        {"model": "tts-1", "input": "Hällo"},
        b"ID3\0",
        COUNTED,
        {"input_characters": 5},
    ),
    "speech with half an emoji": (
        SPEECH,
        b'{"model":"tts-1","input":"abc\\ud83d"}',
        b"ID3\0",
        COUNTED,
        {"input_characters": 4},
    ),
    "speech of nothing": (SPEECH, {"model": "tts-1", "input": ""}, b"ID3", "none", {}),
    "speech of no text": (
        SPEECH,
        {"model": "tts-1", "input": ["x"]},
        b"ID3",
        COUNTED,
        {"input_characters": 5},
    ),
    "speech stream": (
        SPEECH,
        {"model": "gpt-4o-mini-tts", "input": "Hello", "stream": True},
        b'data: {"type":"speech.audio.done","usage":'
        + json.dumps(TOKENS).encode()
        + b"}\n\n",
        STATED,
        {"output_audio_tokens": 9},
    ),
    "transcript": (
        TRANSCRIPTS,
        form(model="whisper-1", file=wav(3)),
        {"text": "x"},
        ESTIMATED,
        {"audio_seconds": 3},
    ),
    "transcript with its length": (
        TRANSCRIPTS,
        form(model="whisper-1", file=wav(3)),
        {"text": "x", "duration": "4.5"},
        STATED,
        {"audio_seconds": 4.5},
    ),
    "transcript with its seconds": (
        TRANSCRIPTS,
        form(model="whisper-1", file=wav(3)),
        {"text": "x", "usage": {"type": "duration", "seconds": 4}},
        STATED,
        {"audio_seconds": 4},
    ),
    "transcript in tokens": (
        TRANSCRIPTS,
        form(model="gpt-4o-transcribe", file=wav(3)),
        {"text": "x", "usage": {"type": "tokens", **TOKENS}},
        STATED,
        {},
    ),
    "transcript of something": (
        TRANSCRIPTS,
        form(model="whisper-1", file=b"?" * 8000),
        {"text": "x"},
        ESTIMATED,
        {"audio_seconds": 2},
    ),
    "transcript of nothing": (
        TRANSCRIPTS,
        form(model="whisper-1"),
        {"text": "x"},
        "none",
        {},
    ),
    "video of another API": (
        "/v1/videos/generations",
        {"model": "grok-imagine-video", "duration": 6, "resolution": "720p"},
        {"request_id": "x"},
        COUNTED,
        {"video_seconds:720p": 6},
    ),
    "transcript of two files": (
        TRANSCRIPTS,
        form(model="whisper-1", file=wav(2)).replace(b"--XX--\r\n", b"")
        + form(file=wav(3)),
        b"text",
        ESTIMATED,
        {"audio_seconds": 3},
    ),
    "transcript as JSON": (
        TRANSCRIPTS,
        {"model": "whisper", "input": {"data": "x"}},
        {"text": "x"},
        "none",
        {},
    ),
    "video": (
        "/v1/videos",
        {"model": "sora-2", "prompt": "x", "seconds": "8", "size": "1280x720"},
        {"id": "video_1", "seconds": "8", "size": "1280x720"},
        STATED,
        {"video_seconds:1280x720": 8},
    ),
    "video form": (
        "/v1/videos",
        form(model="sora-2", prompt="x", seconds=12),
        b"{}",
        COUNTED,
        {"video_seconds": 12},
    ),
    "video of default length": (
        "/v1/videos",
        {"model": "sora-2"},
        b"{}",
        COUNTED,
        {"video_seconds": 4},
    ),
    "a video form of default length": (
        "/v1/videos",
        form(model="sora-2", size="720x1280"),
        b"{}",
        COUNTED,
        {"video_seconds:720x1280": 4},
    ),
    "pages": (
        "/v1/ocr",
        {"model": "mistral-ocr-latest", "document": {}},
        {"pages": [], "usage_info": {"pages_processed": 29}},
        STATED,
        {"pages": 29},
    ),
    "no pages": ("/v1/ocr", {"model": "mistral-ocr-latest"}, b"{}", "none", {}),
}


@pytest.mark.parametrize(
    ("path", "asked", "answer", "source", "units"), CASES.values(), ids=CASES
)
def test_units(path, asked, answer, source, units):
    """What the answer states counts, else what the request asked for."""
    kind = JSON
    if isinstance(answer, bytes) and answer.startswith((b"data:", b"ID3")):
        kind = SSE if answer.startswith(b"data:") else b"audio/mpeg"
    assert metered(path, asked, answer, kind) == (source, units)


def test_errors_cost_nothing():
    """An error is not billed."""
    match = find_endpoint("POST", IMAGES)
    facts = RequestFacts(match.endpoint, units=(("images", 1),))
    meter = match.dialect.open_meter(match, facts, 400, {}.get, JSON)
    usage = meter.finish(complete=True)
    assert usage is not None
    assert not usage.units


def test_members_that_cannot_be_read():
    """A member that no server reads says nothing."""
    assert plain(Raw(b"nothing")) == ""


def test_there_is_no_cap_on_tokens():
    """These requests take no ``max_tokens``."""
    match = find_endpoint("POST", IMAGES)
    assert match.dialect.cap_path(RequestFacts(match.endpoint)) is None
