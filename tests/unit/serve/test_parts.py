"""The small parts of supervisor and control."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from aiohttp import web

from gateway.control.jwks import (
    JwksFetcher,
    JwksFetchError,
    fetch_bounded,
    read_key_set,
)
from gateway.core.model import JwtRule, Policy, Tenant
from gateway.serve.background import Background
from gateway.serve.children import Child, child_environ, describe_status
from gateway.serve.ports import AddressTaken, HeldAddress, format_address
from gateway.serve.secret import SecretKeeper

# -- ports -------------------------------------------------------------------------------


def open_listener(address):
    worker = socket.socket()
    worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    worker.bind(address)
    worker.listen()
    return worker


def test_free_port_is_found_and_shared_with_workers():
    """Port 0 becomes an actual port; the held socket accepts no connection."""
    held = HeldAddress("127.0.0.1", 0)
    assert held.address[1] > 0
    with open_listener(held.address) as worker:
        for _ in range(8):
            with socket.create_connection(held.address, 1) as client:
                peer, _ = worker.accept()
                peer.sendall(b"x")
                assert client.recv(1) == b"x"
                peer.close()
    held.close()


def test_port_stays_ours_while_workers_restart():
    """A held address stays reserved while no worker listens."""
    held = HeldAddress("127.0.0.1", 0)
    open_listener(held.address).close()
    with pytest.raises(AddressTaken, match="the address is in use"):
        HeldAddress(*held.address)
    held.close()
    HeldAddress(*held.address).close()


def test_listener_with_reuseport_is_noticed():
    """An address that is in use is refused, also with SO_REUSEPORT."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(AddressTaken):
            HeldAddress(*other.getsockname())


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid"])
def test_address_of_another_machine(host):
    """An address that is not of this machine is refused with the reason."""
    with pytest.raises(AddressTaken, match="cannot listen on"):
        HeldAddress(host, 0)


def test_addresses_as_in_urls():
    """IPv6 addresses are formatted in brackets."""
    assert format_address("::1", 80) == "[::1]:80"
    assert format_address("127.0.0.1", 80) == "127.0.0.1:80"


# -- children ----------------------------------------------------------------------------


def make_child(code, dies_by=signal.SIGKILL):
    return Child(
        "c", lambda _: ([sys.executable, "-c", code], child_environ(X="1"), ()), dies_by
    )


def reap(child, now):
    while (status := child.reap(now)) is None:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return status


def test_child_that_lived_is_restarted_at_once():
    """A child that ran long enough is restarted without a delay."""
    child = make_child("")
    child.start(10.0)
    assert reap(child, 20.0) == 0
    assert (child.start_at, child.early_exits) == (20.0, 0)


def test_child_that_dies_at_once_waits_longer_each_time():
    """Early exits in a row delay the restart, up to one second."""
    child, delays = make_child("raise SystemExit(3)"), []
    for _ in range(7):
        child.start(10.0)
        assert reap(child, 10.5) == 3
        delays.append(round(child.start_at - 10.5, 3))
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 0.8, 0.8]
    assert child.starts == 7


def test_signal_reaches_a_child_that_runs():
    """A signal reaches a running child; without one it is ignored."""
    child = make_child("import time; time.sleep(60)")
    child.signal(signal.SIGTERM)
    child.start(10.0)
    child.signal(signal.SIGKILL)
    status = reap(child, 12.0)
    assert describe_status(status) == "SIGKILL"
    assert child.pid is None
    assert child.reap(13.0) is None
    assert describe_status(2) == "exit status 2"
    assert describe_status(-63) == "signal 63"


def test_children_die_with_a_killed_parent(tmp_path):
    """A child dies with its supervisor."""
    code = (
        "import os, signal, sys, time\n"
        "from gateway.serve.children import Child\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "child = Child('c', lambda _: (sleep, dict(os.environ), ()))\n"
        "child.start(0.0)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = make_child(code)
    parent.start(0.0)
    reap(parent, 1.0)
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        wait_gone(pid)


def wait_gone(pid):
    """Raises ProcessLookupError when the process is gone (a zombie counts as gone)."""
    for _ in range(6000):
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "Z":
                raise ProcessLookupError
        signal.sigtimedwait([], 0.01)


# -- background --------------------------------------------------------------------------


async def test_failed_task_is_reported_and_others_end_at_close():
    """A task that fails is reported, and ``close`` ends the others."""
    failures = []
    background = Background(lambda name, error: failures.append((name, str(error))))

    async def fail():
        raise ValueError("why")

    background.start(fail(), "bad")
    background.start(asyncio.sleep(60), "good")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await background.close()
    assert failures == [("bad", "why")]


# -- jwks --------------------------------------------------------------------------------


def tenant_with(url):
    return Tenant("t", Policy("default"), jwt=JwtRule(jwks_url=url))


async def test_key_sets_are_pushed_when_they_change():
    """Keys are sent once per change; after a failure the old keys stay and it retries."""
    answers = [b'{"keys":[1]}', b'{"keys":[1]}', b"<html>", b'{"keys":[2]}']
    pushed, errors = [], []

    async def fetch(_url):
        return answers.pop(0)

    fetcher = JwksFetcher(
        pushed.append, lambda url, why: errors.append((url, why)), fetch
    )
    fetcher.configure([tenant_with("https://a/jwks"), Tenant("u", Policy("default"))])
    waits = [await fetcher.refresh() for _ in range(4)]
    assert [message["keys"]["keys"] for message in pushed] == [[1], [2]]
    assert waits[0] > waits[2]
    assert errors[0][0] == "https://a/jwks"
    assert fetcher.messages() == pushed[-1:]
    fetcher.configure([])
    assert fetcher.messages() == []


@pytest.mark.parametrize("body", [b"", b"[]", b'{"keys":1}', b"\xff", b"[" * 100_000])
def test_what_is_no_key_set(body):
    """An unusable key set is refused with a reason."""
    with pytest.raises(JwksFetchError):
        read_key_set(body)


async def test_fetch_is_bounded():
    """An answer beyond the size limit is refused, a small one is accepted."""

    async def answer(request):
        return web.Response(body=b"x" * int(request.match_info["size"]))

    app = web.Application()
    app.router.add_get("/{size}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    assert await fetch_bounded(f"{base}/5000") == b"x" * 5000
    with pytest.raises(JwksFetchError, match="larger"):
        await fetch_bounded(f"{base}/2000000")
    await runner.cleanup()


# -- secret ------------------------------------------------------------------------------


def test_secret_is_kept_over_a_restart(tmp_path):
    """The secret file has mode 0600; an invalid one is replaced; each store has its own."""
    first = SecretKeeper("memory:", "t:", str(tmp_path))
    first.keep_copy()
    assert SecretKeeper("memory:", "t:", str(tmp_path)).value == first.value
    assert SecretKeeper("memory:", "u:", str(tmp_path)).value != first.value
    (copy,) = tmp_path.iterdir()
    assert copy.stat().st_mode & 0o777 == 0o600
    copy.write_text("short")
    assert SecretKeeper("memory:", "t:", str(tmp_path)).value not in (
        first.value,
        "short",
    )


# -- logs --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "console", "auto"])
def test_logs_go_to_standard_error(form):
    """Each event is one line; events below the level are not written."""
    code = (
        "from gateway.serve.logs import set_up_logs\n"
        f"log = set_up_logs('info', {form!r}, 'control')\n"
        "log.debug('hidden'); log.info('shown', a=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=-1, check=True)
    text = done.stderr.decode()
    assert text.count("\n") == 1
    if form == "console":
        assert "shown" in text
    else:
        line = json.loads(text)
        assert list(line) == ["timestamp", "level", "event", "role", "a"]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_traceback_shows_no_variables(form, terminal):
    """Tracebacks are logged without local variables."""
    code = (
        "import sys\n"
        f"sys.stderr.isatty = lambda: {terminal}\n"
        "from gateway.serve.logs import set_up_logs\n"
        f"log = set_up_logs('info', {form!r}, 'control')\n"
        "def serve(key):\n"
        "    raise ValueError('a fault')\n"
        "try:\n"
        "    serve(sys.argv[1])\n"
        "except ValueError as error:\n"
        "    log.error('task failed', exc_info=error)\n"
    )
    canary = "sk-canary-1"
    argv = [sys.executable, "-c", code, canary]
    text = subprocess.run(argv, stderr=-1, check=True).stderr.decode()
    assert "a fault" in text
    assert "serve" in text
    assert canary not in text
