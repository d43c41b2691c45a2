"""Edits members of a JSON text without changing the bytes around them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from msgspec import Raw

from gateway.metering.dialects.base import DialectError
from gateway.metering.dialects.requests import to_count

_SPACE = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^,\]}\s]++")
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)
# Brackets and strings scanned at most: about 20 ms.
_STEPS_MAX = 50_000


class Member(NamedTuple):
    """A member's name, and start and end of its value."""

    name: str
    start: int
    end: int


def members(text: bytes, at: int = 0) -> Iterator[Member]:
    """Members of the object at ``at``. Raises DialectError if it is incomplete."""
    steps = [_STEPS_MAX]
    at = _skip(text, at)
    if text[at : at + 1] != b"{":
        raise DialectError("request body must be a JSON object")
    at = _skip(text, at + 1)
    while text[at : at + 1] != b"}":
        name = _STRING.match(text, at)
        colon = _skip(text, name.end()) if name else at
        if name is None or text[colon : colon + 1] != b":":
            raise DialectError("request body is not valid JSON")
        start = _skip(text, colon + 1)
        end = _value_end(text, start, steps)
        yield Member(_name(name[0]), start, end)
        at = _skip(text, end)
        if text[at : at + 1] == b",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != b"}":
            raise DialectError("request body is not valid JSON")


def _name(literal: bytes) -> str:
    try:
        return str(json.loads(literal))
    except ValueError:
        return literal.decode("utf-8", "replace")


def _skip(text: bytes, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _value_end(text: bytes, start: int, steps: list[int]) -> int:
    if text[start : start + 1] not in (b"{", b"["):
        found = _STRING.match(text, start) or _SCALAR.match(text, start)
        if found is None:
            raise DialectError("request body is not valid JSON")
        return found.end()
    depth = 0
    for mark in _STRUCTURE.finditer(text, start):
        steps[0] -= 1
        if mark[0] in (b"{", b"["):
            depth += 1
        elif mark[0] in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                return mark.end()
        if steps[0] < 0:
            raise DialectError("request body has too much structure to be rewritten")
    raise DialectError("request body is not valid JSON")


def with_usage_asked(body: bytes, *, present: bool) -> bytes | None:
    """The body with ``stream_options.include_usage`` true; None if it cannot be edited.

    ``present``: the body has a ``stream_options`` member already.
    """
    if not present:
        at = body.find(b"{") + 1
        rest = body[at:]
        comma = b"" if rest.lstrip()[:1] == b"}" else b","
        return body[:at] + b'"stream_options":{"include_usage":true}' + comma + rest
    try:
        return _asked_inside(body)
    except DialectError:
        return None


def _asked_inside(body: bytes) -> bytes | None:
    spans = [m for m in members(body) if m.name == "stream_options"]
    for _, start, end in reversed(spans):
        if body[start : start + 1] != b"{":
            body = body[:start] + b'{"include_usage":true}' + body[end:]
            continue
        given = [m for m in members(body, start) if m.name == "include_usage"]
        for inner in reversed(given):
            body = body[: inner.start] + b"true" + body[inner.end :]
        if not given:
            rest = body[start + 1 :]
            comma = b"" if rest.lstrip()[:1] == b"}" else b","
            body = body[: start + 1] + b'"include_usage":true' + comma + rest
    return body if spans else None


def capped(
    body: bytes, caps: tuple[tuple[tuple[str, ...], int], ...], *, fold_case: bool
) -> bytes:
    """The body with every number at one of the paths lowered to its cap.

    Absent members and null stay; 0 and less ("no cap") are replaced by the cap.
    """
    edits: list[tuple[int, int, bytes]] = []
    _collect(body, 0, caps, edits, fold_case=fold_case)
    for start, end, new in sorted(edits, reverse=True):
        body = body[:start] + new + body[end:]
    return body


def with_cap(
    body: bytes, path: tuple[str, ...], cap: int, *, fold_case: bool, at: int = 0
) -> bytes:
    """The body with ``cap`` written at a path that is absent or null, in the object at
    ``at``.
    """
    name, inner = path[0], path[1:]
    for found in members(body, at):
        if (found.name.casefold() if fold_case else found.name) != name:
            continue
        if inner and body[found.start : found.start + 1] == b"{":
            return with_cap(body, inner, cap, fold_case=fold_case, at=found.start)
        return body[: found.start] + _nested(inner, cap) + body[found.end :]
    start = body.index(b"{", at) + 1
    after = _skip(body, start)
    comma = b"" if body[after : after + 1] == b"}" else b","
    member = b'"%b":%b' % (name.encode(), _nested(inner, cap))
    return body[:start] + member + comma + body[start:]


def _nested(path: tuple[str, ...], cap: int) -> bytes:
    """``cap`` inside an object for each name of ``path``."""
    value = b"%d" % cap
    for name in reversed(path):
        value = b'{"%b":%b}' % (name.encode(), value)
    return value


def _collect(
    body: bytes,
    at: int,
    caps: tuple[tuple[tuple[str, ...], int], ...],
    edits: list[tuple[int, int, bytes]],
    *,
    fold_case: bool,
) -> None:
    for found in members(body, at):
        name = found.name.casefold() if fold_case else found.name
        deeper = []
        for path, cap in caps:
            if path[0] != name:
                continue
            if len(path) == 1:
                _lower(body, found, cap, edits)
            else:
                deeper.append((path[1:], cap))
        if deeper and body[found.start : found.start + 1] == b"{":
            _collect(body, found.start, tuple(deeper), edits, fold_case=fold_case)


def _lower(
    body: bytes, found: Member, cap: int, edits: list[tuple[int, int, bytes]]
) -> None:
    value = body[found.start : found.end]
    try:
        asked = to_count(Raw(value), found.name)
    except DialectError:
        if value[:1] in (b"[", b"{"):
            return
        asked = 0  # NaN and the like
    if asked is not None and not 0 < asked <= cap:
        edits.append((found.start, found.end, b"%d" % cap))
