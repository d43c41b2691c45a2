"""What every test shares: hypothesis profiles, ports, the leaked-task check."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.ports import free_port

REPOSITORY = Path(__file__).resolve().parent.parent

# "fast" runs with every change and always draws the same examples, so that a red run
# is about the change; "deep" draws new ones, at night: HYPOTHESIS_PROFILE=deep.
settings.register_profile("fast", max_examples=60, deadline=None, derandomize=True)
settings.register_profile(
    "deep",
    max_examples=2_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


@pytest.fixture(name="repository", scope="session")
def _repository() -> Path:
    """The root of the working tree."""
    return REPOSITORY


@pytest.fixture(name="shared", scope="session")
def _shared() -> Path:
    """The folder of reference answers and traces beside the repository."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the reference folder ../shared is not there")
    return folder


@pytest.fixture(name="free_port")
def _free_port() -> Callable[[], int]:
    """A function that gives a loopback TCP port free at this moment."""
    return free_port


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees configuration of the person who runs it."""
    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        if name != "TIDEGATE_CASSETTES":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_leaked_tasks(request: pytest.FixtureRequest) -> None:
    """An asyncio test that leaves a task of its own behind fails."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_leak_probe")


@pytest.fixture(name="_leak_probe")
async def _leak_probe():
    """Looks at the test's own loop, before it and after all its other fixtures."""
    before = asyncio.all_tasks()
    yield
    # Tasks that were cancelled or are about to end get a few turns to do so.
    for _ in range(5):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    names = sorted(str(task.get_coro()) for task in left)
    assert not left, f"tasks left running: {names}"
