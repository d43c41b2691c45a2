"""Forms: fields in every legal notation, and refusals of what parsers read differently."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering.dialects import find_endpoint
from gateway.metering.dialects.base import DialectError
from gateway.metering.dialects.forms import PARTS_MAX, form_fields

FORM = "multipart/form-data; boundary=XX"
FILE = b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
NAMED = b'Content-Disposition: form-data; name="model"'


def form(*parts: bytes) -> bytes:
    """A complete form of these parts."""
    return b"".join(b"--XX\r\n" + part + b"\r\n" for part in parts) + b"--XX--\r\n"


def field(name: bytes, value: bytes) -> bytes:
    """A part with one header."""
    return b'Content-Disposition: form-data; name="%b"\r\n\r\n%b' % (name, value)


def test_fields_beside_files():
    """Fields before, between and after large files are read; none inside them."""
    forged = FILE + b"x" * 200_000 + b"\r\n" + field(b"model", b"forged")
    body = form(field(b"n", b"2"), forged, field(b"model", b"whisper-1"), forged)
    assert form_fields(body, FORM) == {"model": "whisper-1", "n": "2"}
    kind = 'Multipart/Form-Data; charset="x"; Boundary="XX"'
    assert form_fields(form(field(b"other", b"b")), kind) == {}
    assert form_fields(form(field(b"user", b"")), FORM) == {"user": ""}


@pytest.mark.parametrize(
    "head",
    [
        NAMED,
        NAMED + b"\r\nContent-Type: text/plain",
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Disposition: form-data; name=model",
        NAMED + b"\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: 8bit",
        NAMED + b"\r\nContent-Length: 6",
        NAMED + b"; x=y",
        NAMED + b";",
        b'content-disposition:form-data;name="model"',
        b'CONTENT-DISPOSITION: form-data; NAME="model"',
        b'Content-Disposition: form-data; name="model"; name=model',
        b'Content-Disposition: form-data;\r\n name="model"',
        b'Content-Disposition: form-data; x="; name=other"; name="model"',
        b"X-Any: thing\r\n" + NAMED,
    ],
)
def test_any_legal_part_header(head):
    """A field is found whatever other headers and parameters its part has."""
    assert form_fields(form(head + b"\r\n\r\ngpt-4o"), FORM) == {"model": "gpt-4o"}


@pytest.mark.parametrize(
    "body",
    [
        form(field(b"model", b"a"), field(b"model", b"b")),
        form(field(b"MODEL", b"a")),
        form(NAMED + b'; filename="a"\r\n\r\na'),
        form(NAMED + b"\r\nContent-Transfer-Encoding: base64\r\n\r\nYQ=="),
        form(NAMED + b"\r\nContent-Type: text/plain; charset=utf-16\r\n\r\na"),
        form(NAMED + b"\r\n" + NAMED + b"\r\n\r\na"),
        form(b'Content-Disposition: form-data; name="x"; name="model"\r\n\r\na'),
        form(b"Content-Disposition: form-data; name*=utf-8''model\r\n\r\na"),
        form(b'Content-Disposition: form-data; name="mod\\el"\r\n\r\na'),
        form(b"Content-Disposition: form-data\r\n\r\na"),
        form(b"Content-Disposition: attachment; name=model\r\n\r\na"),
        form(b"\r\na"),
        form(field(b"model", b"x" * 70_000)),
        form(*[field(b"x", b"")] * (PARTS_MAX + 1)),
        form(field(b"model", b"a"))[:-4],
        form(field(b"model", b"a")).replace(b"\r\n", b"\n"),
        b'{"model":"m"}',
        b"",
    ],
    ids=range(18),
)
def test_refused(body):
    """What parsers read differently, or not at all, is refused."""
    if body.count(b"mod\\el"):
        assert form_fields(body.replace(b"mod\\el", b"x\\el"), FORM) == {}
    with pytest.raises(DialectError):
        form_fields(body, FORM)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=XX; boundary=YY",
        "multipart/form-data; boundary*=utf-8''XX",
    ],
)
def test_boundary(kind):
    """A form needs exactly one boundary."""
    with pytest.raises(DialectError, match="boundary"):
        form_fields(form(field(b"model", b"m")), kind)


def test_urlencoded():
    """Form parsers read this type, too; ambiguous fields are refused."""
    kind = "application/x-www-form-urlencoded; charset=utf-8"
    assert form_fields(b"model=gpt-4o&x=1&n=%32", kind) == {"model": "gpt-4o", "n": "2"}
    for body in (b"model=a&model=b", b"Model=a", b"a=1&" * (PARTS_MAX + 1)):
        with pytest.raises(DialectError):
            form_fields(body, kind)
    assert form_fields(b"{}", "application/json") is None


@given(st.binary(max_size=200))
def test_any_body(body):
    """Any bytes are read or refused."""
    for text in (body, form(body), form(NAMED + b"\r\n" + body)):
        with contextlib.suppress(DialectError):
            form_fields(text, FORM)


def facts(path: str, body: bytes, content_type: str):
    """The facts of a request."""
    match = find_endpoint("POST", path)
    return match.dialect.read_request(match, body, "", content_type)


@pytest.mark.parametrize(
    "kind", [FORM, "text/plain", "", "application/x-www-form-urlencoded"]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/messages"])
def test_json_whatever_the_header_says(path, kind):
    """Endpoints that take JSON read JSON; a form is refused there."""
    body = b'{"model":"m","messages":[],"stream":true}'
    assert facts(path, body, kind).model == "m"
    with pytest.raises(DialectError):
        facts(path, form(field(b"model", b"m")), kind)


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/images/edits"])
def test_endpoints_with_forms(path):
    """Endpoints that take forms read them, and JSON."""
    body = form(field(b"model", b"m"), FILE + b"x", field(b"n", b"50"))
    assert (facts(path, body, FORM).model, facts(path, body, FORM).n) == ("m", 50)
    assert facts(path, b'{"model":"m"}', "application/json").model == "m"


@pytest.mark.parametrize(
    ("path", "required"),
    [
        ("/v1/chat/completions", True),
        ("/v1/embeddings", True),
        ("/v1/audio/transcriptions", True),
        ("/v1/messages", True),
        ("/api/chat", True),
        ("/v1/responses", False),
        ("/v1/agents/completions", False),
        ("/v1/images/edits", False),
        ("/openai/deployments/d/chat/completions", False),
        ("/model/m/converse", False),
    ],
)
def test_model_is_required(path, required):
    """Where an API requires the model in the body, the match says so."""
    assert find_endpoint("POST", path).model_required is required
