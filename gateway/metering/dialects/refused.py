"""Errors of upstreams that refuse a member which the gateway has written in."""

from __future__ import annotations

import re
from typing import Any

import msgspec

# The member as an error names it, not a part of an address or of a longer word.
_AS_MEMBER = re.compile(
    rb"(?<![\w/.%=?&#~+-])stream_options(?![\w/%~+-]|\.\w+\b(?<!_usage))"
)
# The name in a client's own body, or letters that are written so as to hide it.
_QUOTED = re.compile(rb"stream_options|\\u00(?:5f|[67][0-9a-f])", re.IGNORECASE)
# What may lead the upstream to text that the client has written elsewhere: addresses
# (an error quotes the reason phrase of the client's own server), stored files and ids.
_ELSEWHERE = re.compile(rb':\\?/|"file|_ids?"')
_ASKED = "stream_options"
_CODES = ("unsupported_parameter", "unknown_parameter")
# Azure's older API versions name the member in the message alone.
_UNRECOGNIZED = "Unrecognized request argument supplied: "


class _StatedError(msgspec.Struct):
    message: Any = None
    param: Any = None
    code: Any = None


class _RefusedBody(msgspec.Struct):
    """Errors of OpenAI and Azure, and of pydantic (``detail``)."""

    error: _StatedError | None = None
    detail: Any = None


_decode = msgspec.json.Decoder(_RefusedBody).decode


def names_stream_options(error: bytes, body: bytes) -> bool:
    """Whether an upstream's error refuses ``stream_options``.

    ``body``: the request as the client wrote it. The text of an error may quote it, or
    what it refers to; then only fields that name a member of the request count.
    """
    if _AS_MEMBER.search(error) is None or _QUOTED.search(body) is not None:
        return False
    return _ELSEWHERE.search(body) is None or _states(error, _ASKED)


def _states(error: bytes, name: str) -> bool:
    """Whether a field of an error names this member of the request, or one inside."""
    try:
        refused = _decode(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if refused.error is not None:
        param = refused.error.param
        return isinstance(param, str) and param.partition(".")[0] == name
    entries = refused.detail if isinstance(refused.detail, list) else []
    places = [entry.get("loc") for entry in entries if isinstance(entry, dict)]
    return any(isinstance(place, list) and name in place for place in places)


def refuses_member(error: bytes, name: str) -> bool:
    """Whether an upstream's error refuses the member ``name`` of the body.

    Only fields that state it are read: texts may quote the client.
    """
    try:
        refused = _decode(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    found = refused.error
    if found is not None:
        if found.param == name and found.code in _CODES:
            return True
        return bool(found.message == _UNRECOGNIZED + name)
    if not isinstance(refused.detail, list):
        return False
    return any(
        isinstance(entry, dict)
        and entry.get("type") == "extra_forbidden"
        and entry.get("loc") == ["body", name]
        for entry in refused.detail
    )
