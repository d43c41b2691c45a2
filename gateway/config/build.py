"""Converts parsed TOML to structs and reports every fault at its own key.

``msgspec.convert`` stops at the first fault and has no positions, so this module walks
the tables and converts one leaf at a time.
"""

from __future__ import annotations

import os
import re
import tomllib
import types
from collections.abc import Mapping
from datetime import date, datetime, time
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET

from gateway.config.errors import Key, Problem, format_key
from gateway.config.values import (
    DURATION_EXAMPLES,
    EMBEDDED_DIRECTORY,
    SIZE_EXAMPLES,
    Duration,
    FilePath,
    Secret,
    Size,
    StoreUrl,
    Url,
    parse_duration,
    parse_size,
)
from gateway.store.opening import directory_in

_HOW_TO_STATE_IT = '{ env = "NAME" }, { file = "PATH" }, or the value itself'
# Bytes. A larger file is not a secret but the wrong file.
_SECRET_BYTES_MAX = 64 << 10


class Text(str):
    """A value from the environment or a flag, converted by the type of its key."""

    __slots__ = ()


class Diagnostics:
    """Collects faults and warnings with their places, and the sources of values that are
    not from the file.
    """

    def __init__(
        self, base: str, env: Mapping[str, str], file: str, lines: Mapping[Key, int]
    ) -> None:
        self.base = base  # directory of relative paths
        self.env = env
        self.file = file  # as shown in messages
        self.lines = lines
        self.sources: dict[Key, str] = {}  # environment variable or flag of a key
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def add(self, key: Key, message: str, allowed: str = "") -> None:
        """Report a fault of ``key``."""
        self.problems.append(self._problem(key, message, allowed))

    def warn(self, key: Key, message: str) -> None:
        """Report a value that is valid but probably a mistake."""
        self.warnings.append(self._problem(key, message, ""))

    def _problem(self, key: Key, message: str, allowed: str) -> Problem:
        source, line = self.place(key)
        return Problem(source, line, format_key(key), message, allowed)

    def place(self, key: Key) -> tuple[str, int]:
        """Source and line of a key, or of the closest table around it."""
        for end in range(len(key), 0, -1):
            if source := self.sources.get(key[:end]):
                return source, 0
            if line := self.lines.get(key[:end]):
                return self.file, line
        return self.file, 0

    def absolute(self, path: str) -> str:
        """Absolute form of a path: relative to the file, or to the working directory for
        values from a flag or the environment.
        """
        base = os.getcwd() if isinstance(path, Text) else self.base
        return os.path.normpath(os.path.join(base, os.path.expanduser(path)))


@cache
def fields_of(table: type[msgspec.Struct]) -> dict[str, tuple[str, Any]]:
    """TOML key to (attribute, type) of a table, in order of definition."""
    hints = get_type_hints(table, include_extras=True)
    return {
        name: (attribute, hints[attribute])
        for name, attribute in zip(
            table.__struct_encode_fields__, table.__struct_fields__, strict=True
        )
    }


def build(kind: Any, value: Any, key: Key, diagnostics: Diagnostics) -> Any:
    """Convert ``value`` to ``kind``; UNSET after a fault, which is reported."""
    kind = _without_none(kind)
    if isinstance(value, Text) and _is_composite(kind):
        value = _read_text(kind, value)
    if _is_table(kind):
        return build_table(kind, value, key, diagnostics)
    origin = get_origin(kind)
    if origin is tuple:
        return _build_list(get_args(kind)[0], value, key, diagnostics)
    if origin is dict:
        return _build_dict(kind, value, key, diagnostics)
    if origin in (Union, types.UnionType) and _is_composite(kind):
        return _build_union(kind, value, key, diagnostics)
    if isinstance(kind, type) and kind in _LEAVES:
        return _build_leaf(kind, value, key, diagnostics)
    return _convert(kind, value, key, diagnostics)


def build_table(
    kind: type[msgspec.Struct], value: Any, key: Key, diagnostics: Diagnostics
) -> Any:
    """Convert a table; unknown keys and missing required keys are faults."""
    if not isinstance(value, dict):
        diagnostics.add(key, f"must be a table, not {_describe(value)}")
        return UNSET
    known = fields_of(kind)
    before = len(diagnostics.problems)
    built: dict[str, Any] = {}
    for name, item in value.items():
        if name not in known:
            diagnostics.add((*key, name), "unknown key" + _hint(name, known), "")
            continue
        attribute, expected = known[name]
        built[attribute] = build(expected, item, (*key, name), diagnostics)
    for required in _required(kind):
        if required not in value:
            diagnostics.add(key, f'"{required}" is missing')
    return UNSET if len(diagnostics.problems) > before else kind(**built)


def _required(kind: type[msgspec.Struct]) -> list[str]:
    return [f.encode_name for f in msgspec.structs.fields(kind) if f.required]


def _hint(name: str, known: Mapping[str, Any]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only when something is wrong

    close = get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known here: {', '.join(known)}"


def _build_list(kind: Any, value: Any, key: Key, diagnostics: Diagnostics) -> Any:
    if not isinstance(value, list):
        diagnostics.add(key, f"must be a list, not {_describe(value)}")
        return UNSET
    items = [build(kind, item, (*key, i), diagnostics) for i, item in enumerate(value)]
    return UNSET if UNSET in items else tuple(items)


def _build_dict(kind: Any, value: Any, key: Key, diagnostics: Diagnostics) -> Any:
    if not isinstance(value, dict):
        diagnostics.add(key, f"must be a table, not {_describe(value)}")
        return UNSET
    name_kind, item_kind = get_args(kind)
    built = {}
    for name, item in value.items():
        _convert(name_kind, name, (*key, name), diagnostics)
        built[name] = build(item_kind, item, (*key, name), diagnostics)
    return built


def _build_union(kind: Any, value: Any, key: Key, diagnostics: Diagnostics) -> Any:
    """Convert to the first union member that fits the shape of the value: list, table or
    scalar. A Secret may also be a table.
    """
    members = get_args(kind)
    if isinstance(value, list):
        wanted = [m for m in members if get_origin(m) is tuple]
    elif isinstance(value, dict):
        wanted = [m for m in members if _is_table(m) or m is Secret]
    else:
        wanted = [m for m in members if not _is_table(m) and get_origin(m) is not tuple]
    if not wanted:
        allowed = _allowed(kind)
        diagnostics.add(key, f"cannot be {_describe(value)}", allowed)
        return UNSET
    return build(wanted[0], value, key, diagnostics)


def _build_leaf(kind: type, value: Any, key: Key, diagnostics: Diagnostics) -> Any:
    try:
        return _LEAVES[kind](value, key, diagnostics)
    except _Refused as refused:
        diagnostics.add(key, *refused.args)
        return UNSET


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Raised with (message, allowed) for a leaf that cannot be used."""


def _duration(value: Any, _key: Key, _diagnostics: Diagnostics) -> Duration:
    try:
        if isinstance(value, str):
            return parse_duration(value)
    except ValueError as error:
        raise _Refused(str(error), DURATION_EXAMPLES) from None
    raise _Refused(f"{_describe(value)} is not a duration", DURATION_EXAMPLES)


def _size(value: Any, _key: Key, _diagnostics: Diagnostics) -> Size:
    try:
        if isinstance(value, str | int) and not isinstance(value, bool):
            return parse_size(value)
    except ValueError as error:
        raise _Refused(str(error), SIZE_EXAMPLES) from None
    raise _Refused(f"{_describe(value)} is not a size", SIZE_EXAMPLES)


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        message = f"{_describe(value)} is not usable here"
        raise _Refused(message, "a text that is not empty")
    return value


def _file_path(value: Any, key: Key, diagnostics: Diagnostics) -> FilePath:
    if value == "" and key == ("events", "file"):
        return FilePath()  # "" turns the file off
    return FilePath(diagnostics.absolute(_string(value)))


def _url(value: Any, _key: Key, _diagnostics: Diagnostics) -> Url:
    return Url(_string(value))


def _store_url(value: Any, _key: Key, diagnostics: Diagnostics) -> StoreUrl:
    url = _string(value)
    directory = directory_in(url)
    if directory is None:
        return StoreUrl(url)
    kind = type(value)  # Text stays Text: relative to the working directory
    path = diagnostics.absolute(kind(directory or EMBEDDED_DIRECTORY))
    return StoreUrl(f"{url.partition(':')[0]}:{path}")


def _secret(value: Any, key: Key, diagnostics: Diagnostics) -> Secret:
    if isinstance(value, str) and value:
        if not isinstance(value, Text):
            diagnostics.warn(
                key, "the secret is in plain text; better { env } or { file }"
            )
        return Secret(str(value))
    if isinstance(value, dict) and len(value) == 1:
        ((form, name),) = value.items()
        if form == "env" and isinstance(name, str):
            return _secret_env(name, diagnostics)
        if form == "file" and isinstance(name, str):
            return _secret_file(diagnostics.absolute(name), name)
    raise _Refused("cannot be read as a secret", _HOW_TO_STATE_IT)


def _secret_env(name: str, diagnostics: Diagnostics) -> Secret:
    value = diagnostics.env.get(name, "")
    if not value:
        raise _Refused(f"environment variable {name} is not set", "")
    return Secret(value, f"env {name}")


def _secret_file(path: str, shown: str) -> Secret:
    try:
        with open(path, encoding="utf-8") as file:
            value = file.read(_SECRET_BYTES_MAX + 1).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise _Refused(f"cannot read {shown}: {reason}", "") from None
    if not value or len(value) > _SECRET_BYTES_MAX:
        raise _Refused(f"{shown} is empty or too long for a secret", "")
    return Secret(value, f"file {shown}")


_LEAVES: dict[type, Any] = {
    Duration: _duration,
    Size: _size,
    FilePath: _file_path,
    Url: _url,
    StoreUrl: _store_url,
    Secret: _secret,
}


def _convert(kind: Any, value: Any, key: Key, diagnostics: Diagnostics) -> Any:
    try:
        if isinstance(value, Text):
            return msgspec.convert(str(value), kind, strict=False)
        if kind is datetime and type(value) is date:
            return datetime.combine(value, time())
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        diagnostics.add(key, *_explain(error, kind, value))
        return UNSET


def _explain(error: msgspec.ValidationError, kind: Any, value: Any) -> tuple[str, str]:
    """(message, allowed) in terms of TOML."""
    bound = re.search(r"`(?:int|float)` (>=?|<=?) (\S+)", str(error))
    if bound:
        words = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}
        return f"{_describe(value)} is out of range", f"{words[bound[1]]} {bound[2]}"
    allowed = _allowed(kind)
    if allowed:
        return f"{_describe(value)} is not usable here", allowed
    message = re.sub(r" - at `.*", "", str(error)).replace("`", "")
    return message[0].lower() + message[1:], ""


def _allowed(kind: Any) -> str:
    """Description of the values that a type accepts."""
    if get_origin(kind) is Literal:
        return ", ".join(f'"{word}"' for word in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(filter(None, map(_allowed, get_args(kind))))
    if _is_table(kind):
        return "{ " + ", ".join(fields_of(kind)) + " }"
    if kind is Secret:
        return _HOW_TO_STATE_IT
    args = get_args(kind)  # Annotated[int, Meta(...)]
    base = args[0] if args and isinstance(args[0], type) else kind
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true, false",
        str: "a text",
    }
    return words.get(base, "")


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    members = [member for member in get_args(kind) if member is not type(None)]
    return members[0] if len(members) == 1 else Union[tuple(members)]  # noqa: UP007


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _is_composite(kind: Any) -> bool:
    """Whether a value of this type can be a list or a table."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(map(_is_composite, get_args(kind)))
    return _is_table(kind) or kind is Secret or get_origin(kind) in (tuple, dict)


def _read_text(kind: Any, text: Text) -> Any:
    """Parse a list or table given as text: TOML, or words separated by commas."""
    stripped = text.strip()
    if stripped.startswith(("[", "{")):
        try:
            return tomllib.loads(f"value = {stripped}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    if get_origin(kind) is tuple:
        return [Text(part.strip()) for part in stripped.split(",") if part.strip()]
    return text


def _describe(value: Any) -> str:
    names = {str: "a text", bool: "true or false", int: "a number", float: "a number"}
    names |= {dict: "a table", list: "a list"}
    if isinstance(value, str | int | float):
        return f'"{value}"' if isinstance(value, str) else str(value).lower()
    return names.get(type(value), type(value).__name__)
