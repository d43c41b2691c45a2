"""Error bodies in the format that each provider's clients expect."""

from __future__ import annotations

import json

_OPENAI_TYPES = {
    "rate_limit_exceeded": "rate_limit_error",
    "request_too_large_for_limit": "rate_limit_error",
    "blocked": "permission_error",
    "endpoint_not_allowed": "permission_error",
    "model_not_allowed": "permission_error",
    "invalid_api_key": "authentication_error",
    "invalid_request": "invalid_request_error",
    "payload_too_large": "invalid_request_error",
    "upstream_unreachable": "api_error",
    "upstream_timeout": "timeout_error",
    "overloaded": "overloaded_error",
}
_ANTHROPIC_TYPES = {**_OPENAI_TYPES, "payload_too_large": "request_too_large"}
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_BEDROCK_TYPES = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    413: "ValidationException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
    504: "ModelTimeoutException",
}


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _type(types: dict[str, str], status: int, code: str) -> str:
    fallback = "invalid_request_error" if status < 500 else "api_error"  # noqa: PLR2004
    return types.get(code, fallback)


def openai_error(status: int, code: str, message: str, param: str | None) -> bytes:
    """``{"error":{message,type,param,code}}``."""
    kind = _type(_OPENAI_TYPES, status, code)
    return _dump(
        {"error": {"message": message, "type": kind, "param": param, "code": code}}
    )


def anthropic_error(status: int, code: str, message: str, _param: str | None) -> bytes:
    """``{"type":"error","error":{type,message}}``."""
    kind = _type(_ANTHROPIC_TYPES, status, code)
    error = {"type": kind, "message": message}
    return _dump({"type": "error", "error": error})


def gemini_error(status: int, code: str, message: str, _param: str | None) -> bytes:
    """``{"error":{code,status,message,details}}`` (google.rpc.Status)."""
    reason = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": code.upper(),
    }
    name = _STATUSES.get(status, "INTERNAL" if status >= 500 else "FAILED_PRECONDITION")  # noqa: PLR2004
    error = {"code": status, "status": name, "message": message, "details": [reason]}
    return _dump({"error": error})


def ollama_error(_status: int, code: str, message: str, _param: str | None) -> bytes:
    """``{"error":"text"}``."""
    return _dump({"error": message, "code": code})


def cohere_error(_status: int, code: str, message: str, _param: str | None) -> bytes:
    """``{"message":"text"}``."""
    return _dump({"message": message, "code": code})


def bedrock_error(_status: int, code: str, message: str, _param: str | None) -> bytes:
    """``{"message":"text"}``; the type is in a header (``bedrock_error_type``)."""
    return _dump({"message": message, "code": code})


def bedrock_error_type(status: int) -> str:
    """The value of ``x-amzn-errortype``, by which AWS clients choose the exception."""
    return _BEDROCK_TYPES.get(
        status,
        "InternalServerException" if status >= 500 else "ValidationException",  # noqa: PLR2004
    )
