"""Errors have the format that each provider's clients expect."""

import json

import pytest

from gateway.metering.dialects import DIALECTS
from gateway.metering.dialects.errors import bedrock_error_type


def body(dialect: str, status: int, code: str, param: str | None = None) -> object:
    return json.loads(DIALECTS[dialect].error_body(status, code, "no é", param))


@pytest.mark.parametrize("dialect", ["openai", "passthrough"])
def test_openai(dialect):
    """OpenAI's errors have message, type, param and code."""
    assert body(dialect, 429, "rate_limit_exceeded", "model") == {
        "error": {
            "message": "no é",
            "type": "rate_limit_error",
            "param": "model",
            "code": "rate_limit_exceeded",
        }
    }


def test_anthropic():
    """Anthropic's errors have the type "error", and a type of the error."""
    assert body("anthropic", 413, "payload_too_large") == {
        "type": "error",
        "error": {"type": "request_too_large", "message": "no é"},
    }


@pytest.mark.parametrize(
    ("status", "kind"), [(418, "invalid_request_error"), (599, "api_error")]
)
def test_unknown_codes(status, kind):
    """The type of an unknown code follows from the status."""
    assert body("anthropic", status, "x")["error"]["type"] == kind


@pytest.mark.parametrize(
    ("status", "name"),
    [(429, "RESOURCE_EXHAUSTED"), (599, "INTERNAL"), (418, "FAILED_PRECONDITION")],
)
def test_gemini(status, name):
    """Gemini's errors are a google.rpc.Status."""
    error = body("gemini", status, "overloaded")["error"]
    assert (error["code"], error["status"], error["message"]) == (status, name, "no é")
    assert error["details"][0]["reason"] == "OVERLOADED"


def test_plain_ones():
    """Errors of Ollama, Cohere and Bedrock have hardly more than a message."""
    assert body("ollama", 403, "blocked") == {"error": "no é", "code": "blocked"}
    assert body("cohere", 403, "blocked") == {"message": "no é", "code": "blocked"}
    assert body("bedrock", 403, "blocked") == {"message": "no é", "code": "blocked"}


def test_bedrock_names_its_exception():
    """AWS clients choose the exception by a header field."""
    assert DIALECTS["bedrock"].error_headers(429, "rate_limit_exceeded") == [
        (b"x-amzn-errortype", b"ThrottlingException")
    ]
    assert bedrock_error_type(418) == "ValidationException"
    assert bedrock_error_type(502) == "InternalServerException"
    assert DIALECTS["openai"].error_headers(429, "x") == []
