"""Short names are stable and differ."""

from __future__ import annotations

import pytest

from gateway.core.names import short_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"", "cbf29ce484222325"),
        (b"a", "af63dc4c8601ec8c"),
        (b"foobar", "85944171f73967e8"),
    ],
)
def test_known_values(text, name):
    """Short names match the published test values of 64-bit FNV-1a."""
    assert short_name(text) == name
