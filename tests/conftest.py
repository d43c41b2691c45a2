"""Fixtures of all tests: hypothesis profiles, ports, an empty directory, leaked tasks."""

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

# "fast" always draws the same examples, so that a failure is due to the change; "deep"
# draws new ones: HYPOTHESIS_PROFILE=deep. Neither checks the speed of drawing.
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


# Variables of the environment that would change results: our configuration, HTTP
# proxies, size and colours of the terminal.
_VARIABLES = re.compile(
    r"(TIDEGATE|OTEL|INFLUX)_.*|(HTTPS?|ALL|NO|FTP)_PROXY|COLUMNS|LINES|(NO|FORCE)_COLOR",
    re.IGNORECASE,
)


def _clean_environment() -> None:
    """Remove them before the first fixture of any scope, for children as well."""
    for name in [name for name in os.environ if _VARIABLES.fullmatch(name)]:
        if name != "TIDEGATE_CASSETTES":
            del os.environ[name]
    # A background job of a shell ignores SIGINT, and its children inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_clean_environment()


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
    """A function that returns a free loopback TCP port."""
    return free_port


@pytest.fixture(name="empty_directory", scope="session")
def _empty_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One empty directory for all tests of this process."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(autouse=True)
def _no_configuration_file(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests run in an empty directory, so that no ./tidegate.toml of the clone is read.

    Children import the package from the clone all the same.
    """
    monkeypatch.chdir(empty_directory)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.fixture(autouse=True)
def _no_leaked_tasks(request: pytest.FixtureRequest) -> None:
    """Fail an asyncio test that leaves a task running."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_leak_probe")


@pytest.fixture(name="_leak_probe")
async def _leak_probe():
    """Compare the tasks of the loop before the test and after its other fixtures."""
    before = asyncio.all_tasks()
    yield
    # A few loop iterations for cancelled tasks to end.
    for _ in range(5):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    names = sorted(str(task.get_coro()) for task in left)
    assert not left, f"tasks left running: {names}"
