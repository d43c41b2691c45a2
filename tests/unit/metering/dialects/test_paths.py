"""Paths that are refused, and spellings of a path that lenient servers merge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering.dialects.paths import has_spaces, other_spellings, refused_path


@pytest.mark.parametrize(
    "path",
    [
        "/openai/../internal/x",
        "/openai/%2e%2e/internal/x",
        "/openai/%2E%2e/x",
        "/openai/.%2e/x",
        "/openai/%2e./x",
        "/openai%2f..%2fx",
        "/openai/..%2fx",
        "/openai/..%5cx",
        "/openai\\..\\x",
        "/v1/chat/completions/x/..",
        "/v1/chat/completions/.",
        "/v1/chat/completions/%2e",
        "/v1/./chat/completions",
        "/a/..;x=y/b",
        "/a/..%3bx/b",
        "/a/%252e%252e/b",
        "/a/%25252e%25252e/b",
        "/a/%c0%ae%c0%ae/b",
        "/a/..%c0%af",
        "/a/%ef%bc%8e%ef%bc%8e/b",
        "/a/.%2e%20/b",
        "/..",
        "/.",
        "..",
    ],
)
def test_dot_segments(path):
    """Dot segments are refused in every encoding that a server might decode."""
    assert refused_path(path) == "dot segments in the path"


@pytest.mark.parametrize("code", ["%00", "%0a", "%0D", "%1f", "%7f", "%2500", "%09"])
def test_control_characters(code):
    """Encoded control characters are refused: servers cut paths off there."""
    reason = "control characters in the path"
    assert refused_path(f"/v1/chat/completions{code}") == reason
    assert refused_path(f"/v1/{code}files") == reason


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "*",
        "/v1/chat/completions",
        "/v1/files/a.b..c",
        "/.well-known/x",
        "/v1/files/...",
        "/model/arn%3Aaws%3Abedrock%3A%3A1%2Fm/converse",
        "/v1/models/a%20b",
        "/v1beta/models/gemini-2.5-pro:generateContent",
        "/%zz/%e4",
    ],
)
def test_ordinary_paths_pass(path):
    """Dots inside names, encoded slashes and broken encodings are no dot segments."""
    assert refused_path(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "/v1//chat/completions",
        "/v1/chat//completions",
        "//v1/chat/completions",
        "/v1\\chat\\completions",
        "/v1/chat%5Ccompletions",
        "/v1/chat%252fcompletions",
        "/v1/chat;a/completions;b=c",
        "/v1/chat/completions%3fx=y",
        "/v1/chat/completions%23x",
        "/v1/chat/completions%20",
        "/v1/chat/com%20pletions",
        "/v1/chat/completions%e2%80%8b",
        "/v1/chat/completions.",
        "/v1/chat./completions..",
        "/v1/Chat/COMPLETIONS",
        "/v1/chat/completion%C5%BF",
        "/v1/chat/%ef%bd%83ompletions",
    ],
)
def test_spellings(path):
    """The plain path is among the spellings of a disguised one."""
    assert "/v1/chat/completions" in other_spellings(path)


def test_plain_path_has_no_other_spelling():
    """A path in its usual spelling is looked up once."""
    assert other_spellings("/v1/chat/completions") == []
    assert other_spellings("*") == []
    assert has_spaces("/a%20b")
    assert not has_spaces("/a+b")


@given(st.text(max_size=40))
def test_any_path(text):
    """Any text has a verdict and a bounded number of spellings."""
    path = text.encode("utf-8", "replace").decode("latin-1")
    assert len(other_spellings(path)) <= 10
    refused_path(path)
