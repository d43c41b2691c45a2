"""Endpoints by path: remembered, and not to be disguised."""

from __future__ import annotations

import pytest

from gateway.proxy.tables import MAX_PATHS, DataSettings, Tables


@pytest.fixture(name="tables")
def _tables() -> Tables:
    """Tables in which only endpoints are looked up."""
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
    ],
)
def test_disguised_path_is_metered(path, tables):
    """Spellings that some server takes for a metered path are read like it."""
    match = tables.find_endpoint("POST", path, None)
    assert (match.endpoint, match.metered) == ("chat.completions", True)


@pytest.mark.parametrize("path", ["/", "/v1/models", "/FILES/a%20b;c", "/%zz", "*"])
def test_other_paths_stay_what_they_are(path, tables):
    """What is no metered endpoint in any spelling is not read."""
    assert not tables.find_endpoint("GET", path, None).metered


def test_endpoints_are_remembered_and_bounded(tables):
    """The same path finds the same match; random paths do not pile up."""
    first = tables.find_endpoint("POST", "/v1/chat/completions", None)
    assert tables.find_endpoint("POST", "/v1/chat/completions", None) is first
    for number in range(MAX_PATHS + 10):
        tables.find_endpoint("GET", f"/{number}", None)
    assert len(tables._endpoints) <= MAX_PATHS
