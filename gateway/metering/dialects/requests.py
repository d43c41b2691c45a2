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
from collections.abc import Mapping
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Raw

from gateway.metering.dialects.base import DialectError
from gateway.metering.dialects.lenient import loads
from gateway.metering.dialects.names import NameChecker, UniqueMembers

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
# How a list of tokens, not of prompts, begins.
_TOKENS = frozenset(b"%d" % digit for digit in range(10)) | {b"]", b"-"}
_items = msgspec.json.Decoder(list[Raw]).decode

_TRUE = frozenset({"true", "1", "yes", "y", "on", "t"})
_FALSE = frozenset({"false", "0", "no", "n", "off", "f", ""})
_S = TypeVar("_S", bound=msgspec.Struct)
EMPTY = Raw()
# A number of tokens or answers. Outside these bounds the lenient reader clamps it.
Count = Annotated[int, msgspec.Meta(ge=-1, le=COUNT_MAX)] | None


# Longer names of service tiers are cut: no price has one.
_TIER_CHARS = 40


class BodyReader(Generic[_S]):
    """Decodes the fields of a request that ``shape`` names, and skips all others.

    ``shape``'s fields are ``str | None``, ``bool | None``, ``Count`` or ``Raw``.
    ``fold_case``: names match in any case, as in Go servers. ``longest``: the field that
    has most of the bytes, if any usually has.
    """

    __slots__ = ("_fold_case", "_kinds", "_longest", "_names", "_shape", "_strict")

    def __init__(
        self, shape: type[_S], *, fold_case: bool = False, longest: str = ""
    ) -> None:
        self._shape = shape
        self._strict = msgspec.json.Decoder(shape).decode
        fields = msgspec.structs.fields(shape)
        self._kinds = {f.encode_name: (f.name, _KINDS[f.type]) for f in fields}
        self._names = NameChecker(self._kinds, any_case=fold_case, longest=longest)
        self._longest = longest
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
            given = self._strict(body)
            if self._longest:
                self._names.check(body, getattr(given, self._longest))
            else:
                self._names.members(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._read_leniently(body)
        except RecursionError:
            raise DialectError("request body is nested too deeply") from None
        return given

    def _read_leniently(self, body: bytes) -> _S:
        try:
            members: Mapping[str, Any] = self._names.members(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            members = self._read_with_stdlib(body, error)
        except RecursionError:
            raise DialectError("request body is nested too deeply") from None
        made = self._shape()
        for name, value in self._wanted(members).items():
            field, coerce = self._kinds[name]
            setattr(made, field, coerce(value, name))
        return made

    def _read_with_stdlib(self, body: bytes, error: Exception) -> Mapping[str, Any]:
        """The members of a body that msgspec rejected with ``error``."""
        if len(body) > LENIENT_BYTES:
            return self._read_repaired(body, error)
        try:
            value = loads(body)
        except RecursionError:
            raise DialectError("request body is nested too deeply") from None
        except ValueError as cause:
            raise DialectError(f"request body is not valid JSON: {cause}") from None
        if not isinstance(value, dict):
            raise DialectError("request body must be a JSON object")
        assert isinstance(value, UniqueMembers)
        if value.repeated is not None:
            raise DialectError(f"'{value.repeated[:64]}' is given twice")
        self._names.check_case(value)
        return value

    def _read_repaired(self, body: bytes, error: Exception) -> Mapping[str, Any]:
        """Read a long body again with its lone surrogates (truncated emoji) replaced."""
        try:
            if len(body) <= REPAIRED_BYTES and b"\\ud" in body:
                return self._names.members(body.replace(b"\\ud", b"\\u0"))
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        raise DialectError(f"request body is not valid JSON: {error}") from None

    def _wanted(self, members: Mapping[str, Any]) -> dict[str, Any]:
        if self._fold_case:
            members = {name.casefold(): value for name, value in members.items()}
        return {k: v for k, v in members.items() if k in self._kinds}


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
        return loads(bytes(value))
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


def count_items(raw: Raw) -> int:
    """Prompts in a member that is one prompt (text, or a list of tokens) or a list."""
    text = bytes(raw).strip()
    if not text.startswith(b"[") or text[1:].lstrip()[:1] in _TOKENS:
        return 1
    try:
        return max(1, len(_items(text)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise DialectError("a list cannot be read") from None


def member(raw: Raw, *names: str, any_case: bool = False, free: bool = False) -> Any:
    """The first of ``names`` that a nested object has with a value; else None.

    Raises DialectError for names that servers read differently, as at the top level.
    ``free``: clients choose the names, so that other cases are other names.
    """
    for value in member_values(raw, names, any_case=any_case, free=free):
        if value is not None:
            return value
    return None


def asked_tier(*given: Raw) -> str:
    """The first of ``given`` that is a text, in lower case; "" if none is."""
    for raw in given:
        if raw is not EMPTY:
            try:
                tier = msgspec.json.decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if isinstance(tier, str):
                return tier[:_TIER_CHARS].lower()
    return ""


def member_values(
    raw: Raw, names: tuple[str, ...], *, any_case: bool = False, free: bool = False
) -> list[Any]:
    """The values of ``names`` in a nested object, as ``member`` reads one."""
    text = bytes(raw).strip()
    if not text.startswith(b"{"):
        return [None] * len(names)
    checker = NameChecker(() if free else names, any_case=any_case)
    try:
        members: Mapping[str, Any] = checker.members(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        members = _nested_with_stdlib(text, checker)
    return [_plain_value(members.get(name), name) for name in names]


def _nested_with_stdlib(text: bytes, checker: NameChecker) -> Mapping[str, Any]:
    """An object with NaN, lone surrogates and the like."""
    try:
        value = loads(text)
    except (ValueError, RecursionError):
        raise DialectError("a member cannot be read") from None
    if not isinstance(value, UniqueMembers) or value.repeated is not None:
        raise DialectError("a name is given twice")
    checker.check_case(value)
    return value
