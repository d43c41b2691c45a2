"""Which path goes to which upstream, and its path there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.http.target import Target
from gateway.proxy.route import Route, find_route


def route(prefix: str, *, strip: bool = False) -> Route:
    """A route with this prefix."""
    config = {
        "name": prefix, "prefix": prefix, "strip_prefix": strip, "dialect": None,
        "on_disconnect": "cancel", "drain_max": 1, "drain_s": 1.0, "websocket": False,
        "ask_usage": True, "trust_cost": False, "credential": None, "first_byte_s": 1.0, "idle_s": 1.0,
        "total_s": 1.0,
    }  # fmt: skip
    return Route(SimpleNamespace(**config), SimpleNamespace())  # type: ignore[arg-type]


def target(base: bytes = b"") -> Target:
    """A target whose URL has this path."""
    return Target("a", 80, tls=False, authority=b"a", base_path=base)


ROUTES = [route("/a/b"), route("/a"), route("")]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b", "/a/b"),
        ("/a/b/c", "/a/b"),
        ("/a/bc", "/a"),
        ("/a//b", "/a"),
        ("/a%2Fb", ""),
        ("/ab", ""),
        ("/A", ""),
        ("/", ""),
        ("*", ""),
    ],
)
def test_longest_prefix_on_whole_segments(path, name):
    """The longest prefix on whole segments wins; ``*`` takes the most general."""
    found = find_route(ROUTES, path)
    assert found is not None
    assert found.name == name


def test_no_route():
    """Without a general route some paths have no upstream."""
    assert find_route([route("/a")], "/b") is None
    assert find_route([], "*") is None


@pytest.mark.parametrize(
    ("path", "kept", "stripped"),
    [
        (b"/a/x%2F//y?q=/a", b"/base/a/x%2F//y?q=/a", b"/base/x%2F//y?q=/a"),
        (b"/a", b"/base/a", b"/base/"),
        (b"/a?q", b"/base/a?q", b"/base/?q"),
        (b"*", b"*", b"*"),
    ],
)
def test_target_path(path, kept, stripped):
    """The URL's path comes before the request's, with or without the prefix."""
    assert route("/a").target_path(target(b"/base"), path) == kept
    assert route("/a", strip=True).target_path(target(b"/base"), path) == stripped
    assert route("/a").target_path(target(), path) == path
