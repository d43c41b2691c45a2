"""``tidegate demo`` shows every attack and leaves no process or file."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.gateway_process import REPOSITORY, until


class DemoRun:
    """``tidegate demo --fast`` as a process in its own directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environ = {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder)}
        self._out = folder / "out"
        with self._out.open("wb") as out:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "gateway", "demo", "--fast"],
                cwd=folder,
                env=os.environ | environ | {"PYTHONUNBUFFERED": "1"},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.family: set[psutil.Process] = set()

    def text(self) -> str:
        """The output so far; the demo's child processes are collected on each call."""
        if self.child.poll() is None:
            running = psutil.Process(self.child.pid)
            self.family |= set(running.children(recursive=True))
        return self._out.read_text()

    def is_over(self) -> bool:
        self.text()
        return self.child.poll() is not None

    def left(self) -> list[str]:
        """Processes and directories that are left after the run."""
        found = [str(one) for one in self.family if one.is_running()]
        return found + glob.glob(f"{self.folder}/tidegate-demo-*")


@pytest.fixture
def play(tmp_path):
    play = DemoRun(tmp_path)
    yield play
    play.child.kill()
    play.child.wait()
    for process in play.family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_shows_all_and_leaves_nothing(play):
    """The attacks are stopped, the campaign and ordinary clients are not; the run ends
    by itself and leaves no process and no directory.
    """
    until(play.is_over, 240.0, "the end of the demo")
    text = play.text()
    assert play.child.returncode == 0, text
    assert len(play.family) >= 3, "supervisor, control, worker"
    until(lambda: not play.left(), 30.0, "a clean stage")
    assert re.search(r"Console  http://127\.0\.0\.1:\d+/", text)
    rows = {
        name: int(refused)
        for name, refused in re.findall(r"│ ([A-Z][^│]*?) +│.*│ +(\d+) │", text)
    }
    assert rows["Ordinary clients"] == 0, text
    assert rows["A campaign"] == 0, text
    for stopped in ("A scraper", "A cost spike", "A DDoS from many addresses"):
        assert rows[stopped] > 20, text
    # Members of the botnet send few requests, so most first prompts are refused as well.
    shares = [int(share) for share in re.findall(r"then\s+(\d+) %", text)]
    assert shares[2] >= 80, text
    # A surge counts within one ten-minute window; it may span two of them.
    turned = time.time() % 600.0 < 30.0
    for said in ("scraping", "cost_spike", *(() if turned else ("surge",))):
        assert re.search(rf"Detected      {said}", text), text
    assert re.search(r"Detected      (ddos|scraping), .*: tenant shop", text), text


@pytest.mark.timeout(300)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(play, signum):
    """A signal while the gateway runs ends the demo, and no process or file is left."""
    until(lambda: "Ordinary clients send" in play.text(), 120.0, "the play")
    play.child.send_signal(signum)
    until(play.is_over, 90.0, "the end")
    assert play.child.returncode == 130
    assert "processes and files are removed" in play.text()
    assert "Traceback" not in play.text()
    until(lambda: not play.left(), 30.0, "a clean stage")


@pytest.mark.timeout(300)
def test_a_signal_while_it_learns(play):
    """A signal before the gateway runs ends the demo and its engine of that time."""
    until(lambda: "learns a day" in play.text(), 90.0, "the beginning")
    until(lambda: (play.text(), play.family)[1], 90.0, "a child")
    play.child.send_signal(signal.SIGINT)
    until(play.is_over, 90.0, "the end")
    assert play.child.returncode == 130
    assert "Traceback" not in play.text()
    until(lambda: not play.left(), 30.0, "a clean stage")


@pytest.mark.timeout(300)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells children")
def test_a_killed_demo_takes_its_gateway_with_it(play):
    """When the demo is killed with SIGKILL, its processes end within seconds; its
    directory remains.
    """
    until(lambda: "Ordinary clients send" in play.text(), 120.0, "the play")
    play.child.kill()
    play.child.wait()
    until(lambda: not any(one.is_running() for one in play.family), 60.0, "their end")
