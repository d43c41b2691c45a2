"""Fixtures of the control tests."""

from __future__ import annotations

import pytest

from tests.engines import Engine, engine_binaries


@pytest.fixture(name="engine", scope="module")
def _engine(tmp_path_factory):
    binaries = engine_binaries()
    if not binaries:
        pytest.skip("no store engine on this machine")
    engine = Engine(next(iter(binaries.values())), tmp_path_factory.mktemp("e"))
    engine.start()
    yield engine
    engine.kill()
