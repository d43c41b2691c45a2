"""What processes share: directory, specs, snapshot, limits."""

from __future__ import annotations

import os
import resource
import tempfile

import msgspec
import pytest

from gateway.serve import runtime as module
from gateway.serve.ring import RingReader, RingWriter
from gateway.serve.runtime import (
    ChildSpec,
    ServeSpec,
    Snapshot,
    child_spec,
    gateway_name,
    load_snapshot,
    make_private,
    open_runtime,
    raise_file_limit,
    read_snapshot,
    runtime_base,
    serve_spec,
    write_private,
    write_snapshot,
)
from tests.disks import full_disk


@pytest.fixture(name="short")
def _short():
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tg", dir="/tmp") as folder:
        yield folder


def test_same_gateway_finds_its_directory_again(short):
    """A restarted supervisor finds the rings of its killed predecessor."""
    environ = {"XDG_RUNTIME_DIR": short}
    first = open_runtime("a gateway", environ)
    RingWriter(first.make_ring(0)).append(b"left behind")
    os.close(first._lock_fd)  # what a SIGKILL does
    second = open_runtime("a gateway", environ)
    assert second.path == first.path
    assert RingReader(second.make_ring(0)).read() == [b"left behind"]
    assert len(second.link) < 107
    second.remove()
    assert not os.path.exists(second.path)


def test_two_alike_do_not_share(short):
    """A second gateway of the same identity gets another directory."""
    environ = {"XDG_RUNTIME_DIR": short}
    one, two = (open_runtime("twin", environ) for _ in range(2))
    other = open_runtime("other", environ)
    assert len({one.path, two.path, other.path}) == 3
    for runtime in (one, two, other):
        assert os.stat(runtime.path).st_mode & 0o777 == 0o700
        runtime.remove()


def test_what_was_abandoned_is_removed(short):
    """A directory is removed a day after its owner was killed, never while it is locked."""
    environ = {"XDG_RUNTIME_DIR": short}
    dead, fresh, alive = (open_runtime(name, environ) for name in "abc")
    ring = dead.make_ring(0)
    for runtime in (dead, fresh):
        os.close(runtime._lock_fd)
    for runtime in (dead, alive):
        os.utime(f"{runtime.path}/lock", (0, 0))
    other = open_runtime("d", environ)
    assert not os.path.exists(dead.path)
    assert not os.path.exists(ring)
    assert os.path.exists(fresh.path)
    assert os.path.exists(alive.path)
    other.remove()
    alive.remove()
    open_runtime("b", environ).remove()


def test_there_is_an_end_to_twins(short, monkeypatch):
    """The number of directories for one identity is bounded."""
    monkeypatch.setattr(module, "_SLOTS", 1)
    first = open_runtime("twin", {"XDG_RUNTIME_DIR": short})
    with pytest.raises(OSError, match="taken"):
        open_runtime("twin", {"XDG_RUNTIME_DIR": short})
    first.remove()


def test_ring_goes_where_there_is_room(short):
    """Without room in /dev/shm the ring is in the runtime directory."""
    runtime = open_runtime("small", {"XDG_RUNTIME_DIR": short})
    shared, runtime._shared = runtime._shared, "/nonexistent"
    assert runtime.make_ring(0) == f"{runtime.path}/ring-0"
    runtime._shared = ""
    assert runtime.make_ring(1) == f"{runtime.path}/ring-1"
    runtime._shared = shared
    runtime.remove()


def test_long_or_missing_runtime_directory_is_not_used():
    """A directory that is too long for socket paths is not used."""
    own = f"/tmp/tidegate-{os.getuid()}"
    assert runtime_base({}) == own
    assert runtime_base({"XDG_RUNTIME_DIR": "/" + "x" * 90}) == own
    assert runtime_base({"XDG_RUNTIME_DIR": "/nonexistent"}) == own


def test_a_link_or_file_is_refused(tmp_path):
    """A link or a file in place of the directory is refused."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(OSError, match="not a directory of this user"):
            make_private(str(tmp_path / name))
    (tmp_path / "wide").mkdir(mode=0o755)
    make_private(str(tmp_path / "wide"))
    assert os.stat(tmp_path / "wide").st_mode & 0o777 == 0o700


def test_private_file_is_replaced_in_one_step(tmp_path):
    """A private file is replaced atomically and has mode 0600."""
    path = str(tmp_path / "f")
    write_private(path, b"one")
    write_private(path, b"two")
    with open(path, "rb") as file:
        assert file.read() == b"two"
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["f"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """After a failed write the old file is kept."""
    path = tmp_path / "file"
    write_private(str(path), b"old")
    with full_disk(10), pytest.raises(OSError, match="File too large"):
        write_private(str(path), b"x" * 100)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_gateway_keeps_its_unique_name(tmp_path):
    """The name is kept over restarts; a damaged one is replaced, and without a writable
    directory it is derived from host name and path.
    """
    name = gateway_name(str(tmp_path / "a"))
    assert gateway_name(str(tmp_path / "a")) == name
    assert len(name) == len(gateway_name(str(tmp_path / "b"))) == 16
    assert gateway_name(str(tmp_path / "b")) != name
    (tmp_path / "a.name").write_bytes(b"\xff" * 16)
    assert gateway_name(str(tmp_path / "a")) != name
    nowhere = str(tmp_path / "missing" / "a")
    assert gateway_name(nowhere) == gateway_name(nowhere)


def test_snapshot_is_what_was_validated(tmp_path):
    """A worker starts from the snapshot, even if the file on disk is invalid."""
    text = '[[upstream]]\nurl = "http://127.0.0.1:9"\n'
    snapshot = Snapshot(3, str(tmp_path / "broken.toml"), {"mode": "observe"}, text)
    write_snapshot(str(tmp_path), snapshot)
    assert read_snapshot(str(tmp_path)) == snapshot
    loaded = load_snapshot(snapshot)
    assert loaded.config.upstreams[0].url == "http://127.0.0.1:9"


def test_specs_travel_as_json():
    """A child reads the spec that the supervisor wrote."""
    spec = ChildSpec(
        "worker", 1, 2, "/r", "/r/link.sock", "/r/ring-1", "memory:", ("h", 1),
        ("a", 2), None, {"mode": "observe"}, 2,
    )  # fmt: skip
    environ = {"TIDEGATE_CHILD": msgspec.json.encode(spec).decode()}
    assert child_spec(environ) == spec
    with pytest.raises(KeyError):
        child_spec({})
    assert serve_spec({}) == ServeSpec()
    assert serve_spec({"TIDEGATE_SPEC": '{"config":"x"}'}).config == "x"


def test_file_limit_goes_to_what_is_allowed():
    """The file limit is never lowered and never raises an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = raise_file_limit()
    assert raised >= soft
    assert raise_file_limit(10) == raised
    if hard != resource.RLIM_INFINITY:
        assert raised == min(module.WANTED_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
