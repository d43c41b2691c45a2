"""Reading of form bodies: the fields of a request beside its files.

The parser is ``multipart`` (RFC 7578, RFC 2046). What form parsers are known to read
differently is refused: two fields of a name, two names of a field, a field in another
case, with a file name, or in a transfer encoding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from gateway.metering.audio import EDGE_BYTES, seconds_of
from gateway.metering.dialects.base import DialectError

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
# Fields that are read. Others, and files, are skipped.
FIELDS = frozenset(
    {"model", "stream", "n", "user", "prompt", "size", "quality", "seconds"}
)
# The part with the recording to transcribe.
_UPLOAD = "file"
# Images in one request: 16. Other fields: about 20.
PARTS_MAX = 256
_HEADERS_MAX = 16
# Largest known field: prompts of images have up to 32,000 characters.
_FIELD_BYTES = 64 * 1024
_CHARSETS = frozenset({None, "utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1"})
_PLAIN_ENCODINGS = frozenset({"7bit", "8bit", "binary"})
_PARAMETER = re.compile(r';\s*([^=;\s]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')


class FormFields(dict[str, str]):
    """The known fields of a form.

    ``seconds``: of the recording in it, by its container; None without a recording.
    """

    seconds: float | None = None


def media_type(content_type: str) -> str:
    """The type without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def form_fields(body: bytes, content_type: str) -> FormFields | None:
    """The known fields of a form; None: ``content_type`` is none of a form.

    Raises DialectError for a form that is malformed or ambiguous.
    """
    kind = media_type(content_type)
    if kind == MULTIPART:
        return _multipart_fields(body, content_type)
    if kind == URLENCODED:
        return _urlencoded_fields(body)
    return None


def _multipart_fields(body: bytes, content_type: str) -> FormFields:
    boundary = _parameter(content_type, "boundary")
    if not boundary:
        raise DialectError("multipart body without a boundary")
    fields = FormFields()
    try:
        for segment, value, end in _parts(body, boundary.encode("latin-1", "replace")):
            name = _checked_name(segment)
            if name is None:
                if segment.name == _UPLOAD:
                    length = seconds_of(value, end, segment.size)
                    fields.seconds = max(length, fields.seconds or 0.0)
                continue
            if len(value) > _FIELD_BYTES:
                raise DialectError(f"'{name}' is too long", name)
            _add(fields, name, value.decode("utf-8", "replace"))
    except MultipartError as error:
        raise DialectError(f"the form cannot be read: {error}") from None
    return fields


def _parts(
    body: bytes, boundary: bytes
) -> Iterator[tuple[MultipartSegment, bytes, bytes]]:
    """Every part of a complete form, with the first and last bytes of its content."""
    parser = PushMultipartParser(
        boundary, max_header_count=_HEADERS_MAX, max_segment_count=PARTS_MAX
    )
    segment: MultipartSegment | None = None
    value = end = b""
    for event in parser.parse(body):
        if isinstance(event, MultipartSegment):
            segment, value, end = event, b"", b""
        elif event is not None:
            value = value or bytes(event[: _FIELD_BYTES + 1])
            end = bytes(event[-EDGE_BYTES:])
        else:
            assert segment is not None  # the end of a part
            yield segment, value, end
    parser.close()


def _checked_name(segment: MultipartSegment) -> str | None:
    """The name of a known field; None for a file or an unknown field."""
    dispositions = [v for k, v in segment.headerlist if k == "Content-Disposition"]
    name = _parameter(dispositions[0], "name")
    if len(dispositions) > 1 or name is None or segment.name is None:
        raise DialectError("a part of the form has no name, or two")
    if not {name.casefold(), segment.name.casefold()} & FIELDS:
        return None
    if name != segment.name or name not in FIELDS:
        raise DialectError(f"'{name}' must be written '{name.casefold()}'", name)
    if segment.filename is not None:
        raise DialectError(f"'{name}' must not be a file", name)
    encoding = segment.header("Content-Transfer-Encoding", "8bit").strip().lower()
    charset = segment.charset
    if encoding not in _PLAIN_ENCODINGS or (
        (charset.strip().lower() if charset else None) not in _CHARSETS
    ):
        raise DialectError(f"'{name}' must be plain text in UTF-8", name)
    return name


def _parameter(value: str, wanted: str) -> str | None:
    """One parameter of a header field. Raises DialectError if two differ, or if it is
    also given in the extended notation (``name*=``), which few servers read.
    """
    found: set[str] = set()
    for name, given in _PARAMETER.findall(value):
        folded = name.lower()
        if folded == wanted:
            text = given.strip()
            if text[:1] == '"':
                text = re.sub(r"\\(.)", r"\1", text[1:-1])
            found.add(text)
        elif folded.startswith(wanted + "*"):
            raise DialectError(f"'{wanted}' is given in two notations")
    if len(found) > 1:
        raise DialectError(f"'{wanted}' is given twice")
    return found.pop() if found else None


def _urlencoded_fields(body: bytes) -> FormFields:
    fields = FormFields()
    try:
        pairs = parse_qsl(
            body.decode("utf-8", "replace"),
            keep_blank_values=True,
            max_num_fields=PARTS_MAX,
        )
    except ValueError as error:
        raise DialectError(f"the form cannot be read: {error}") from None
    for name, value in pairs:
        if name.casefold() not in FIELDS:
            continue
        if name not in FIELDS:
            raise DialectError(f"'{name}' must be written '{name.casefold()}'", name)
        _add(fields, name, value)
    return fields


def _add(fields: dict[str, str], name: str, value: str) -> None:
    if name in fields:
        raise DialectError(f"'{name}' is given twice", name)
    fields[name] = value
