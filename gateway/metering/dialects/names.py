"""Member names that two servers would read differently: repeated, or in another case.

Parsers differ in which of two equal names they use, and Go's parser matches names in
any case. A request that depends on it is refused, so that what was metered is what the
upstream reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Raw

from gateway.metering.dialects.base import DialectError

_all_members = msgspec.json.Decoder(dict[str, Raw]).decode
_STRING = re.compile(rb'\s*+("[^"\\]*+(?:\\.[^"\\]*+)*+")\s*+:\s*+', re.DOTALL)
_COMMA = re.compile(rb"\s*+,?")
# Least bytes of a member: two quotes, colon, one digit, comma.
_LEAST_MEMBER = 5
# Two quotes and a colon for each member; the braces.
_PER_MEMBER, _BRACES = 3, 2
# More than any API has.
MEMBERS_MAX = 512
# Sets of names that were checked; clients repeat the same few.
_SHAPES_MAX = 1024
_SHAPE_CHARS = 1024
# Bytes around the longest member up to which a text is known again.
_AROUND_BYTES = 1024


class NameChecker:
    """Finds known names of an object that are repeated or in another case.

    ``any_case``: the server matches names in any case, so that only two spellings of
    one name are refused. ``longest``: the member that has most of the bytes.
    """

    __slots__ = (
        "_any_case",
        "_around",
        "_known",
        "_last",
        "_literals",
        "_mark",
        "_shapes",
    )

    def __init__(
        self, known: Iterable[str], *, any_case: bool = False, longest: str = ""
    ) -> None:
        self._known: dict[str, list[str]] = {}
        self._literals: dict[str, bytes] = {}
        for name in known:
            self._known.setdefault(name.casefold(), []).append(name)
            self._literals[name] = b'"%b"' % name.encode()
        self._any_case = any_case
        self._shapes: set[str] = set()
        self._mark = b'"%b":' % longest.encode()
        # Texts that were checked, without the value of their longest member.
        self._around: set[tuple[bytes, bytes]] = set()
        self._last = (b"", b"")  # the one of the last text

    def check(self, text: bytes, longest: Raw) -> None:
        """Raise as ``members`` does. ``longest``: the value of that member.

        Texts that differ only in it have the same names, so the second is not decoded.
        """
        before, after = self._last
        if (
            len(text) == len(before) + len(longest) + len(after)
            and text.startswith(before)
            and text.endswith(after)
            and text.startswith(longest, len(before))
        ):
            return
        start = text.find(self._mark) + len(self._mark)
        if not text.startswith(longest, start):
            start += 1  # after a space
            if not text.startswith(longest, start):
                self.members(text)
                return
        before, after = around = text[:start], text[start + len(longest) :]
        if around in self._around:
            self._last = around
            return
        self.members(text)
        if (
            longest
            and len(before) + len(after) <= _AROUND_BYTES
            # The mark is a name, and not inside a string.
            and b"\\" not in before
            and not before.count(b'"') % 2
        ):
            if len(self._around) >= _SHAPES_MAX:
                self._around.clear()
            self._around.add(around)
            self._last = around

    def members(self, text: bytes) -> dict[str, Raw]:
        """The members of a JSON object by name.

        Raises DialectError for ambiguous names; otherwise as ``msgspec.json.decode``.
        """
        found = _all_members(text)
        count = len(found)
        shape = "\0".join(found)  # with one comma less than members
        # Without white space, repeated names and escapes in names there is no rest.
        rest = len(text) - len(shape) - sum(map(len, found.values()))
        rest -= _PER_MEMBER * count + _BRACES
        if count > MEMBERS_MAX:
            raise DialectError(f"more than {MEMBERS_MAX} members in one object")
        if (
            rest > _LEAST_MEMBER
            and not (rest == 2 * count - 1 and _written(found) == text)
            and self._may_repeat(text, found)
        ):
            _check_repeated(text, found)
        if shape not in self._shapes:
            self.check_case(found)
            if len(shape) <= _SHAPE_CHARS and shape.count("\0") == max(0, count - 1):
                if len(self._shapes) >= _SHAPES_MAX:
                    self._shapes.clear()
                self._shapes.add(shape)
        return found

    def _may_repeat(self, text: bytes, found: Mapping[str, Raw]) -> bool:
        """Whether a known name occurs twice, anywhere, or might be written in escapes."""
        if self._any_case or b"\\u" in text:
            return True
        for name in found:
            literal = self._literals.get(name)
            if literal is not None and text.count(literal) > 1:
                return True
        return False

    def check_case(self, names: Iterable[str]) -> None:
        """Refuse a known name in another case, or two spellings of one name."""
        seen: set[str] = set()
        for name in names:
            folded = name.casefold()
            exact = self._known.get(folded)
            if exact is None:
                continue
            if self._any_case:
                if folded in seen:
                    raise DialectError(f"'{exact[0]}' is given twice", exact[0])
                seen.add(folded)
            elif name not in exact:
                message = f"'{name[:64]}' must be written '{exact[0]}'"
                raise DialectError(message, exact[0])


def _written(found: Mapping[str, Raw]) -> bytes:
    """The members in the usual style of Python's encoder."""
    members = [b'"%b": %b' % (name.encode(), raw) for name, raw in found.items()]
    return b"{%b}" % b", ".join(members)


def _check_repeated(text: bytes, found: Mapping[str, Raw]) -> None:
    """Compare the text with its members in order: a repeated name has the first one's
    place and the last one's value, and is one too few.
    """
    at = text.find(b"{") + 1
    for name, raw in found.items():
        match = _STRING.match(text, at)
        value = bytes(raw)
        if (
            match is None
            or not _is_name(match[1], name)
            or not text.startswith(value, match.end())
        ):
            raise DialectError(f"'{name[:64]}' is given twice", name[:64])
        comma = _COMMA.match(text, match.end() + len(value))
        assert comma is not None
        at = comma.end()
    if text[at:].strip() != b"}":
        raise DialectError("a name is given twice")


def _is_name(literal: bytes, name: str) -> bool:
    if b"\\" in literal:
        return bool(json.loads(literal) == name)
    return literal[1:-1] == name.encode()


class UniqueMembers(dict[str, object]):
    """An object of the standard library's parser; ``repeated``: a name given twice."""

    repeated: str | None

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.repeated = None
        if len(self) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    self.repeated = name
                seen.add(name)
