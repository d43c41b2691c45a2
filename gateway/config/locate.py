"""Line numbers of TOML keys, which ``tomllib`` does not provide.

Scans text that tomllib has accepted, so it does not check the syntax.
"""

from __future__ import annotations

import re

from gateway.config.errors import Key

_SKIP = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)+")
_BLANK = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]\}\n#]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""+|\'\'\'.*?\'\'\'+|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'',
    re.DOTALL,
)


def locate_keys(text: str) -> dict[Key, int]:
    """Line (from 1) of every key, table and array item of ``text``."""
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Key, int] = {}
        self.counts: dict[Key, int] = {}  # items of each array of tables so far

    def scan(self) -> dict[Key, int]:
        table: Key = ()
        while self._skip():
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self.lines

    def _header(self) -> Key:
        double = self.text.startswith("[[", self.at)
        line = self._line()
        self.at += 2 if double else 1
        names = self._names()
        self.at = self.text.index("]", self.at) + (2 if double else 1)
        path = (*self._inside(names[:-1]), names[-1])
        self.lines.setdefault(path, line)
        if double:
            self.counts[path] = self.counts.get(path, 0) + 1
        path = self._enter(path)
        self.lines[path] = line
        return path

    def _inside(self, names: list[str]) -> Key:
        """``names`` with the index of the last item after each array of tables."""
        path: Key = ()
        for name in names:
            path = self._enter((*path, name))
        return path

    def _enter(self, path: Key) -> Key:
        count = self.counts.get(path)
        return path if count is None else (*path, count - 1)

    def _pair(self, table: Key) -> None:
        line = self._line()
        path = table
        for name in self._names():
            path = (*path, name)
            self.lines.setdefault(path, line)
        self.at = self.text.index("=", self.at) + 1
        self._value(path)

    def _names(self) -> list[str]:
        """Read a dotted key and stop after it."""
        names: list[str] = []
        while True:
            self._blanks()
            match = _STRING.match(self.text, self.at) or _BARE.match(self.text, self.at)
            if match is None:
                return names
            names.append(match[0].strip("\"'"))
            self.at = match.end()
            self._blanks()
            if not self.text.startswith(".", self.at):
                return names
            self.at += 1

    def _value(self, path: Key) -> None:
        self._blanks()
        opening = self.text[self.at]
        if opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline(path)
        else:
            match = _STRING.match(self.text, self.at) or _SCALAR.match(
                self.text, self.at
            )
            self.at = match.end() if match else self.at + 1

    def _array(self, path: Key) -> None:
        self.at += 1
        index = 0
        while self._skip() and self.text[self.at] != "]":
            self.lines[*path, index] = self._line()
            self._value((*path, index))
            index += 1
        self.at += 1

    def _inline(self, path: Key) -> None:
        self.at += 1
        while self._skip() and self.text[self.at] != "}":
            self._pair(path)
        self.at += 1

    def _skip(self) -> bool:
        """Skip blanks, commas and comments; False at the end of the text."""
        match = _SKIP.match(self.text, self.at)
        if match:
            self.at = match.end()
        return self.at < len(self.text)

    def _blanks(self) -> None:
        match = _BLANK.match(self.text, self.at)
        if match:
            self.at = match.end()

    def _line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1
