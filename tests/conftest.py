"""What every test shares: hypothesis profiles, ports, the leaked-task check."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.ports import free_port

REPOSITORY = Path(__file__).resolve().parent.parent

# "fast" runs with every change and always draws the same examples, so that a red run
# is about the change; "deep" draws new ones, at night: HYPOTHESIS_PROFILE=deep.
# How fast examples are drawn is the machine's affair in both.
settings.register_profile(
    "fast",
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "deep",
    max_examples=2_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


# What the person, or the machine, who runs the tests has set: configuration, proxies that
# no address of loopback is behind, and how wide and how bright a terminal is.
_FOREIGN = re.compile(
    r"(TIDEGATE|OTEL|INFLUX)_.*|(HTTPS?|ALL|NO|FTP)_PROXY|COLUMNS|LINES|(NO|FORCE)_COLOR",
    re.IGNORECASE,
)


def _forget_surroundings() -> None:
    """Before the first fixture, whatever its scope; children inherit nothing else."""
    for name in [name for name in os.environ if _FOREIGN.fullmatch(name)]:
        if name != "TIDEGATE_CASSETTES":
            del os.environ[name]
    # In the background of a shell Ctrl-C is ignored, by all children as well.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_forget_surroundings()


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
