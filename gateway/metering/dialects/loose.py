"""Lenient reading of usage members, where strict decoding fails.

Three cases: a field of an unexpected type, a truncated answer, an answer too large
to keep (embeddings of several MB), of which only head and tail are left.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Raw

from gateway.metering.dialects.fields import UsageEnvelope

_S = TypeVar("_S", bound=msgspec.Struct)
_NAMES = [f.encode_name for f in msgspec.structs.fields(UsageEnvelope)]
# The name and colon of an envelope's member. Names inside a JSON string do not match,
# because a backslash precedes their closing quote.
_MEMBER = re.compile(
    b'"(?:('
    + b"|".join(re.escape(n.encode()) for n in _NAMES)
    + rb')"\s*+:\s*+(?=[{\d])|(model|modelVersion|service_tier)"\s*+:\s*+(?="))'
)
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)
_STEP = {b"}": 1, b"]": 1, b"{": -1, b"[": -1}
# Members read at most: more than any real answer has.
_MEMBERS_MAX = 64
_decoder = json.JSONDecoder(parse_int=lambda digits: int(digits[:18]))


def loosely(value: dict[str, Any], shape: type[_S]) -> _S:
    """A ``shape`` with every field that ``value`` has in a usable form."""
    made = shape()
    for field in msgspec.structs.fields(shape):
        member = value.get(field.encode_name)
        if member is None:
            continue
        if field.type is Raw:
            setattr(made, field.name, Raw(json.dumps(member).encode()))
            continue
        try:
            setattr(made, field.name, msgspec.convert(member, field.type, strict=False))
        except msgspec.ValidationError:
            nested = _struct_in(field.type)
            if nested is not None and isinstance(member, dict):
                setattr(made, field.name, loosely(member, nested))
    return made


def _struct_in(annotation: Any) -> type[msgspec.Struct] | None:
    for arg in get_args(annotation):
        if isinstance(arg, type) and issubclass(arg, msgspec.Struct):
            return arg
    return None


def loose_envelope(text: bytes) -> UsageEnvelope | None:
    """The envelope in a whole JSON object; None if it is not a JSON object."""
    try:
        value = _decoder.decode(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return loosely(value, UsageEnvelope) if isinstance(value, dict) else None


def envelope_in_tail(tail: bytes) -> UsageEnvelope | None:
    """The envelope of the top-level members in the last bytes of a JSON text.

    Depth is counted backwards from the end, where it is zero; the response of an event is
    at depth 2. Deeper members of a whole text may be echoes of the request. In a truncated
    text the depth is not known: members of any depth count, the last one of each name.
    """
    after = _depths_from_end(tail)
    for depth in (1, 2):
        found = _members(tail, lambda at, depth=depth: after(at) == depth)  # type: ignore[misc]
        if found is not None:
            return found
    whole = tail.rstrip().endswith((b"}", b"]"))
    return None if whole else _members(tail, lambda _: True)


def envelope_in_head(head: bytes) -> UsageEnvelope | None:
    """The envelope of the top-level members in the first bytes of a JSON text."""
    depth = 0
    tops: list[tuple[int, int]] = []
    start = 0
    for found in _STRUCTURE.finditer(head):
        mark = found[0]
        if mark in (b"{", b"["):
            if depth == 1:
                tops.append((start, found.start()))
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
            if depth == 1:
                start = found.end()
    tops.append((start, len(head) if depth == 1 else start))
    return _members(head, lambda at: any(a <= at < b for a, b in tops))


def _depths_from_end(tail: bytes) -> Callable[[int], int]:
    """A function from a position to the number of brackets still open there."""
    marks = list(_STRUCTURE.finditer(tail))
    members = {found.start() for found in _MEMBER.finditer(tail)}
    if members.isdisjoint(found.start() for found in marks):
        # The window begins inside a string: what matched as strings are the gaps.
        marks = list(_STRUCTURE.finditer(tail, tail.find(b'"') + 1))
    starts = [found.start() for found in marks]
    open_from = [0] * (len(marks) + 1)
    for at in range(len(marks) - 1, -1, -1):
        open_from[at] = open_from[at + 1] + _STEP.get(marks[at][0], 0)
    return lambda position: open_from[bisect_right(starts, position)]


def _members(text: bytes, wanted: Callable[[int], bool]) -> UsageEnvelope | None:
    """An envelope of the members whose position is wanted, the last of each name."""
    value: dict[str, Any] = {}
    for found in list(_MEMBER.finditer(text))[-_MEMBERS_MAX:]:
        if not wanted(found.start()):
            continue
        # Usage objects are far smaller than this bound on the text decoded.
        window = text[found.end() : found.end() + 4096].decode("utf-8", "replace")
        try:
            value[(found[1] or found[2]).decode()] = _decoder.raw_decode(window)[0]
        except (ValueError, RecursionError):
            continue
    return loosely(value, UsageEnvelope) if value else None
