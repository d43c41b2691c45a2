"""Splitting bytes into lines; files that are appended to, replaced, truncated."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.stream.source import (
    LINE_LIMIT_BYTES,
    SourceError,
    Splitter,
    check_name,
    follow_file,
    read_file,
    read_lines,
)


@given(st.lists(st.binary(max_size=9)), st.integers(1, 7))
def test_any_cut_gives_the_same_lines(parts, size):
    """The lines do not depend on how the bytes are split into chunks."""
    whole = b"\n".join(parts)
    splitter, lines = Splitter(), []
    for at in range(0, len(whole), size):
        lines += splitter.feed(whole[at : at + size])
    lines += splitter.end()
    assert b"\n".join(lines) == (whole[:-1] if whole.endswith(b"\n") else whole)


def test_a_line_without_end_is_not_kept_whole():
    """Memory for a line without end is bounded, just above the line limit."""
    splitter = Splitter()
    for _ in range(5):
        assert splitter.feed(b"x" * LINE_LIMIT_BYTES) == []
    (line, after) = splitter.feed(b"\nok\n")
    assert LINE_LIMIT_BYTES < len(line) <= LINE_LIMIT_BYTES + 1
    assert after == b"ok"


def test_read_lines_gives_the_last_one():
    """The end of the source ends its last line."""
    assert list(read_lines(io.BytesIO(b"a\n\nb"))) == [b"a", b"", b"b"]


def test_read_file_says_how_far_it_is(tmp_path):
    """Progress ends at the file's size."""
    (tmp_path / "a").write_bytes(b"one\ntwo\n")
    seen = []
    assert list(read_file(str(tmp_path / "a"), seen.append)) == [b"one", b"two"]
    assert seen[-1] == 8


def test_follow_goes_on_after_rotation_and_truncation(tmp_path):
    """Appended lines, a replaced and a truncated file are read, each line once."""
    path = tmp_path / "log"
    path.write_bytes(b"a\nb")
    steps = iter(
        [
            lambda: path.write_bytes(b"a\nbc\n"),
            lambda: (os.rename(path, tmp_path / "old"), path.write_bytes(b"d\n")),
            lambda: path.write_bytes(b""),
            lambda: path.write_bytes(b"e\n"),
        ]
    )
    lines = []
    with pytest.raises(StopIteration):
        _collect(lines, str(path), lambda _s: next(steps)())
    assert lines == [b"a", b"bc", b"d", b"e"]


def _collect(lines, name, wait):
    """Follow until ``wait`` has no more steps."""

    def stop(seconds):
        try:
            wait(seconds)
        except StopIteration:
            raise _Over from None

    try:
        for line in follow_file(name, stop):
            lines.append(line)
    except _Over:
        raise StopIteration from None


class _Over(Exception):  # noqa: N818 - an end, no error
    """Raised when ``wait`` has no further steps."""


@pytest.mark.parametrize(
    ("name", "follow"), [("kafka://b/t", False), ("-", True), ("a.gz", True)]
)
def test_names_that_cannot_be_read(name, follow):
    """Unsupported sources are refused before anything is opened."""
    with pytest.raises(SourceError):
        check_name(name, follow=follow)
