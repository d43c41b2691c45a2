"""A reload applies the whole file or nothing."""

from __future__ import annotations

import pytest

from gateway.control.running_config import RunningConfig
from gateway.serve.runtime import Snapshot, read_snapshot, write_snapshot
from tests.disks import full_disk

GOOD = '[[upstream]]\nurl = "http://127.0.0.1:9"\n'


@pytest.fixture(name="file")
def _file(tmp_path):
    file = tmp_path / "t.toml"
    file.write_text(GOOD)
    return file


@pytest.fixture(name="settings")
def _settings(tmp_path, file):
    snapshot = Snapshot(1, str(file), {}, GOOD)
    write_snapshot(str(tmp_path), snapshot)
    return RunningConfig(str(tmp_path), snapshot, clock=lambda: 5.0)


def test_a_valid_file_is_applied(settings, file, tmp_path):
    """A valid file is applied as the next generation, also for workers that start
    later.
    """
    file.write_text(GOOD + "[policy.default]\nmode = 'observe'\n")
    result = settings.reload()
    assert (result.ok, settings.generation) == (True, 2)
    assert settings.resolved.tenants[0].policy.mode == "observe"
    assert read_snapshot(str(tmp_path)) == settings.message()["snapshot"]


@pytest.mark.parametrize(
    ("text", "line"),
    [("x = = 1", 3), ("[server]\nlisten = 7\n", 4), ("[sever]\n", 3)],
)
def test_bad_file_changes_nothing(settings, file, tmp_path, text, line):
    """With an invalid file the old configuration stays in force, and the error names
    file, line and key.
    """
    file.write_text(GOOD + text)
    result = settings.reload()
    assert (result.ok, settings.generation, settings.failures) == (False, 1, 1)
    assert f"{file}:{line}" in result.errors[0]
    assert read_snapshot(str(tmp_path)).text == GOOD


def test_a_configuration_applies_on_a_full_disk(settings, file):
    """A configuration applies although its snapshot cannot be written on a full disk."""
    file.write_text(GOOD + "[policy.default]\nmode = 'observe'\n")
    with full_disk(10):
        result = settings.reload()
    assert (result.ok, settings.generation) == (True, 2)
    assert "not saved for a restart" in result.warnings[-1]


def test_missing_file_and_bad_bytes_change_nothing(settings, file):
    """A missing or undecodable file is an error like any other."""
    file.unlink()
    assert "cannot read it" in settings.reload().errors[0]
    file.write_bytes(b"\xff")
    assert "not UTF-8" in settings.reload().errors[0]


def test_keys_bound_at_the_start_are_named(settings, file):
    """Keys that need a restart are named at each reload, and the rest applies."""
    file.write_text(
        '[server]\nlisten = "127.0.0.1:1"\nworkers = 2\n[store]\nurl = "redis://h"\n'
        + GOOD
    )
    result = settings.reload()
    assert result.ok
    assert set(result.needs_restart) == {"server.listen", "server.workers", "store"}
    file.write_text(GOOD)
    assert settings.reload().needs_restart == ()


def test_each_content_is_tried_once(settings, file):
    """An invalid file is tried once, and again after it changed."""
    assert not settings.is_changed()
    file.write_text("x = = 1")
    assert settings.is_changed()
    settings.reload()
    assert not settings.is_changed()
    file.write_text(GOOD)
    assert settings.is_changed()
    assert settings.reload().ok


def test_no_file_nothing_to_reload(tmp_path):
    """Without a file a reload applies the flags again."""
    overrides = {"upstream": "http://127.0.0.1:9"}
    settings = RunningConfig(str(tmp_path), Snapshot(1, None, overrides, None))
    assert not settings.is_changed()
    assert settings.reload().ok
