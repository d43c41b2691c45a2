"""One mock LLM API for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway_process import MockLLM, running_mock


@pytest.fixture(name="mock", scope="session")
def _mock() -> Iterator[MockLLM]:
    """A mock LLM API on a free port that counts tokens."""
    with running_mock() as mock:
        yield mock
