"""Reading request bodies: fast for regular ones, as lenient as upstream servers.

Upstreams (pydantic, Go, JavaScript) accept more than strict JSON with strict types, and
what they accept must be metered. So: strict typed decoding first; then the same fields
without types, coerced one by one; then, for bodies up to LENIENT_BYTES, the parser of
the standard library, which accepts NaN, lone surrogates and UTF-16 as those servers do;
for larger ones up to REPAIRED_BYTES, decoding with lone surrogates replaced. A body
that still cannot be read is refused (DialectError), never passed unmetered.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Raw

from gateway.metering.dialects.base import DialectError

# A larger body whose estimated decoding time exceeds the budget is refused, because it
# would stall the event loop. Costs measured with msgspec 0.22 by
# ``python tests/bench/bench_dialects.py``.
SAMPLED_ABOVE_BYTES = 1024 * 1024
READ_BUDGET_NS = 20_000_000
_SAMPLES = 256
_SAMPLE_BYTES = 512
_COST_NS = {b"\\": 3.5, b",": 6.0, b"[": 6.0, b"{": 6.0, b":": 20.0, b'"': 5.0}
_NS_PER_BYTE = 0.35
# Case-insensitive reading makes a string of every name: slower, so checked from here.
FOLDED_ABOVE_BYTES = 256 * 1024
_FOLDED_NAME_NS = 800.0
# The standard library's parser is about 20 times slower: for smaller bodies only.
LENIENT_BYTES = 256 * 1024
# Largest body in which lone surrogates are replaced.
REPAIRED_BYTES = 4 * 1024 * 1024
# Larger caps mean "no cap" to every provider.
COUNT_MAX = 2**53

_DIGITS_MAX = 64

_all_members = msgspec.json.Decoder(dict[str, Raw]).decode
_TRUE = frozenset({"true", "1", "yes", "y", "on", "t"})
_FALSE = frozenset({"false", "0", "no", "n", "off", "f", ""})
_S = TypeVar("_S", bound=msgspec.Struct)
EMPTY = Raw()
# A number of tokens or answers. Outside these bounds the lenient reader clamps it.
Count = Annotated[int, msgspec.Meta(ge=-1, le=COUNT_MAX)] | None


class BodyReader(Generic[_S]):
    """Decodes the fields of a request that ``shape`` names, and skips all others.

    ``shape``'s fields are ``str | None``, ``bool | None``, ``Count`` or ``Raw``.
    ``fold_case``: names match in any case, as in Go servers.
    """

    __slots__ = ("_fold_case", "_kinds", "_shape", "_strict", "_untyped")

    def __init__(self, shape: type[_S], *, fold_case: bool = False) -> None:
        self._shape = shape
        self._strict = msgspec.json.Decoder(shape).decode
        fields = msgspec.structs.fields(shape)
        self._kinds = {f.encode_name: (f.name, _KINDS[f.type]) for f in fields}
        untyped = msgspec.defstruct(
            shape.__name__, [(f.encode_name, Raw, EMPTY) for f in fields]
        )
        self._untyped = msgspec.json.Decoder(untyped).decode
        self._fold_case = fold_case

    def read(self, body: bytes) -> _S:
        """Read the fields. Raises DialectError, and nothing else, for a bad body."""
        if self._fold_case:
            if len(body) > FOLDED_ABOVE_BYTES:
                refuse_costly(body, _FOLDED_NAME_NS)
            return self._read_leniently(body)
        if len(body) > SAMPLED_ABOVE_BYTES:
            refuse_costly(body)
        try:
            return self._strict(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._read_leniently(body)
        except RecursionError:
            raise DialectError("request body is nested too deeply") from None

    def _read_leniently(self, body: bytes) -> _S:
        try:
            members = self._members(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            members = self._read_with_stdlib(body, error)
        except RecursionError:
            raise DialectError("request body is nested too deeply") from None
        made = self._shape()
        for name, value in self._wanted(members).items():
            field, coerce = self._kinds[name]
            setattr(made, field, coerce(value, name))
        return made

    def _members(self, body: bytes) -> Mapping[str, Any]:
        """The members by name, not decoded."""
        if self._fold_case:
            return _all_members(body)
        found = self._untyped(body)
        members = ((name, getattr(found, name)) for name in self._kinds)
        return {name: raw for name, raw in members if raw is not EMPTY}

    def _read_with_stdlib(self, body: bytes, error: Exception) -> Mapping[str, Any]:
        """The members of a body that msgspec rejected with ``error``."""
        if len(body) > LENIENT_BYTES:
            return self._read_repaired(body, error)
        try:
            value = json.loads(body)
        except RecursionError:
            raise DialectError("request body is nested too deeply") from None
        except ValueError as cause:
            raise DialectError(f"request body is not valid JSON: {cause}") from None
        if not isinstance(value, dict):
            raise DialectError("request body must be a JSON object")
        return value

    def _read_repaired(self, body: bytes, error: Exception) -> Mapping[str, Any]:
        """Read a long body again with its lone surrogates (truncated emoji) replaced."""
        try:
            if len(body) <= REPAIRED_BYTES and b"\\ud" in body:
                return self._members(body.replace(b"\\ud", b"\\u0"))
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        raise DialectError(f"request body is not valid JSON: {error}") from None

    def _wanted(self, members: Mapping[str, Any]) -> dict[str, Any]:
        if not self._fold_case:
            return {k: v for k, v in members.items() if k in self._kinds}
        folded: dict[str, Any] = {}
        for name, value in members.items():
            lower = name.lower()
            if lower not in self._kinds:
                continue
            if lower in folded:
                # Servers differ in which of the two they use.
                raise DialectError(f"'{lower}' is given twice", lower)
            folded[lower] = value
        return folded


def refuse_costly(body: bytes, name_ns: float = 0.0) -> None:
    """Refuse a large body that would take too long to decode, estimated by a sample.

    Sampling starts at an offset that the sender cannot predict (Python's hashes are
    keyed per process), so that costly parts cannot be placed between the samples.
    """
    step = len(body) // _SAMPLES
    phase = hash(body[:1024]) % max(1, step - _SAMPLE_BYTES)
    sample = b"".join(
        body[at : at + _SAMPLE_BYTES] for at in range(phase, len(body), step)
    )
    cost = sum(sample.count(mark) * ns for mark, ns in _COST_NS.items())
    cost += sample.count(b":") * name_ns
    per_byte = cost / max(1, len(sample)) + _NS_PER_BYTE
    if per_byte * len(body) > READ_BUDGET_NS:
        raise DialectError("request body is too large for so much structure")


def _plain_value(value: Any, name: str) -> Any:
    """A Raw as a Python value; other values unchanged."""
    if not isinstance(value, Raw):
        return value
    try:
        return json.loads(bytes(value))
    except (ValueError, RecursionError):
        raise DialectError(f"'{name}' cannot be read", name) from None


def to_text(value: Any, name: str) -> str | None:
    """A string; numbers become strings, as servers accept them for ids."""
    value = _plain_value(value, name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise DialectError(f"'{name}' must be a string", name)


def to_flag(value: Any, name: str) -> bool | None:
    """A boolean as pydantic accepts it: ``true``, ``1``, ``"yes"`` and so on."""
    value = _plain_value(value, name)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
    raise DialectError(f"'{name}' must be a boolean", name)


def to_count(value: Any, name: str) -> int | None:
    """A whole number as pydantic accepts it: ``10``, ``10.0``, ``"10"``."""
    value = _plain_value(value, name)
    if value is None:
        return None
    if isinstance(value, str):
        value = _number_in(value)
    if isinstance(value, int):
        return max(-1, min(int(value), COUNT_MAX))
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return max(-1, min(int(value), COUNT_MAX))
    raise DialectError(f"'{name}' must be a whole number", name)


def _number_in(text: str) -> int | float | None:
    if len(text) > _DIGITS_MAX:
        return None
    try:
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        return None


def to_raw(value: Any, _name: str) -> Raw:
    """The member's JSON text."""
    return value if isinstance(value, Raw) else Raw(json.dumps(value).encode())


_KINDS = {str | None: to_text, bool | None: to_flag, Count: to_count, Raw: to_raw}


def size(raw: Raw) -> int:
    """Bytes of a member; 0 when it is absent or null."""
    text = bytes(raw)
    return 0 if text == b"null" else len(text)


def member(raw: Raw, *names: str) -> Any:
    """The first of ``names`` that a nested object has with a value; else None."""
    if raw is EMPTY:
        return None
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(value, dict):
        for name in names:
            if value.get(name) is not None:
                return value[name]
    return None


_FIELD = re.compile(
    rb'\r\ncontent-disposition: *form-data; *name="?([a-z_]+)"?\r\n\r\n([^\r\n]{0,256})\r\n--',
    re.IGNORECASE,
)
_FORM_WINDOW_BYTES = 64 * 1024


def form_fields(body: bytes, content_type: str) -> dict[str, str]:
    """Short fields of a multipart form, before and after its files.

    Only parts that directly follow a boundary count, so that a file's content cannot
    imitate a field.
    """
    marker = content_type.partition("boundary=")[2].partition(";")[0].strip().strip('"')
    if not marker:
        raise DialectError("multipart body without a boundary")
    boundary = b"--" + marker.encode("latin-1", "replace")
    windows = [body[:_FORM_WINDOW_BYTES]]
    if len(body) > _FORM_WINDOW_BYTES:
        windows.append(body[max(_FORM_WINDOW_BYTES, len(body) - _FORM_WINDOW_BYTES) :])
    fields: dict[str, str] = {}
    for window in windows:
        for part in window.split(boundary)[:-1]:
            found = _FIELD.match(part + b"--")
            if found:
                fields[found[1].decode()] = found[2].decode("utf-8", "replace")
    return fields
