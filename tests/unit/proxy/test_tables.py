"""Endpoints by path: cached, and recognised in other spellings."""

from __future__ import annotations

import pytest

from gateway.proxy.tables import MAX_PATHS, DataSettings, Tables


@pytest.fixture(name="tables")
def _tables() -> Tables:
    """Tables for endpoint look-ups only."""
    return Tables(
        generation=1, settings=DataSettings(), routes=(), identifier=None,
        plans=None, prices={}, trusts=lambda _peer: False,
    )  # type: ignore[arg-type] # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/chat%2fcompletions",
        "/v1/%63hat%2Fcompletions",
        "/V1/CHAT/Completions",
        "/v1/chat;a=b/completions;c",
        "/v1/chat/completions%3Bx",
        "/v1/chat//completions%3F",
        "/v1/chat/completions%20",
    ],
)
def test_disguised_path_is_metered(path, tables):
    """A spelling that some servers treat as a metered path is metered."""
    match = tables.find_endpoint("POST", path, None)
    assert (match.endpoint, match.metered) == ("chat.completions", True)


@pytest.mark.parametrize(
    "path",
    ["/v1/realtim%65", "/v1/Realtime", "/v1/realtime;a", "/v1//realtime", "/v1/realtime%2F"],
)  # fmt: skip
def test_disguised_session_is_found(path, tables):
    """The path of a WebSocket session is found in other spellings too."""
    assert tables.find_endpoint("GET", path, None).endpoint == "realtime"


@pytest.mark.parametrize("path", ["/", "/v1/models", "/FILES/a%20b;c", "/%zz", "*"])
def test_other_paths_stay_what_they_are(path, tables):
    """A path that is no metered endpoint in any spelling is not read."""
    assert not tables.find_endpoint("GET", path, None).metered


def test_endpoints_are_remembered_and_bounded(tables):
    """A path finds the cached match; the cache is bounded."""
    first = tables.find_endpoint("POST", "/v1/chat/completions", None)
    assert tables.find_endpoint("POST", "/v1/chat/completions", None) is first
    for number in range(MAX_PATHS + 10):
        tables.find_endpoint("GET", f"/{number}", None)
    assert len(tables._endpoints) <= MAX_PATHS
