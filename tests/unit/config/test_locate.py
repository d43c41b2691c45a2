"""Line numbers of keys."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gateway.config.locate import locate_keys

TRICKY = r'''
# [not.a.table]
top = "a # no comment" # one
"quoted key" = 1
a.b . "c.d" = 2
[[list]]
x = [ # comment ]
  { p = "}", q = [1,
    2] },

  { p = """
multi [x] = "1" # line
""" },
]
[list.inner]
y = QQQlit
[no]
QQQ
[[list]]
x = { d.e = 1 }
[[list.sub]]
z = 1979-05-27 07:32:00
[[list.sub]]
z = -inf
[ "t.t" . u ]
empty = []
nothing = {}
escaped = "\"]"
last = 1
'''.replace("Q", "'")


def paths(value, key=()):
    """Every key path of parsed TOML."""
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    else:
        children = ()
    if key:
        yield key
    for name, child in children:
        yield from paths(child, (*key, name))


def tables_made_by_headers(text):
    """Parents such as ``t.t`` of ``[t.t.u]`` have no line of their own."""
    found = set(locate_keys(text))
    return {k[:n] for k in found for n in range(1, len(k))}


def test_lines_of_tricky_toml():
    """Comments, strings and nesting of every kind do not disturb the count."""
    lines = locate_keys(TRICKY)
    source = TRICKY.splitlines()
    expected = {
        ("top",): "top =",
        ("quoted key",): '"quoted',
        ("a", "b", "c.d"): "a.b",
        ("list", 0, "x", 0, "q", 1): "    2]",
        ("list", 0, "x", 1, "p"): '  { p = """',
        ("list", 0, "inner", "y"): "y =",
        ("list", 1, "x", "d", "e"): "x = { d",
        ("list", 1, "sub", 1, "z"): "z = -inf",
        ("t.t", "u", "last"): "last",
    }
    for key, start in expected.items():
        assert source[lines[key] - 1].startswith(start), key


@pytest.mark.parametrize("text", [TRICKY, "", "\n\n", "a = 1"])
def test_every_key_has_a_line(text):
    """Every key that tomllib finds has a line, and no other key has one."""
    found = set(locate_keys(text))
    wanted = set(paths(tomllib.loads(text)))
    assert wanted <= found | tables_made_by_headers(text)
    assert found <= wanted


def test_every_key_of_the_example_has_a_line(repository: Path):
    """Every key of the example file has a line."""
    text = (repository / "config.example.toml").read_text()
    assert set(paths(tomllib.loads(text))) - {("policy",)} <= set(locate_keys(text))
