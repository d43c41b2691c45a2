"""``tidegate top`` and ``tidegate tail`` against a running gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.gateway_process import REPOSITORY, call, running_gateway, until

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(name="gateway", scope="module")
def _gateway(mock):
    config = f'[[upstream]]\nurl = "{mock.url}"\n[policy.default]\nmode = "enforce"\n'
    with running_gateway(config) as gateway:
        yield gateway


def test_top_without_a_terminal_prints_one_screen(gateway):
    """``tidegate top`` without a terminal prints one screen as text."""
    call("POST", f"{gateway.url}/v1/chat/completions", CHAT, key="k")
    until(lambda: gateway.api("GET", "/api/v1/clients")["items"])
    done = gateway.command("top", "--admin", gateway.admin)
    assert done.returncode == 0, done.stderr
    assert "serving" in done.stdout
    assert "127.0.0.1" in done.stdout


def test_tail_prints_actions_of_operators(gateway):
    """``tidegate tail --json`` prints a block by an operator as one JSON line."""
    child = subprocess.Popen(
        [sys.executable, "-m", "gateway", "tail", "--json", "--admin", gateway.admin],
        cwd=gateway.directory,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: _block(gateway) and _readable(child))
        line = json.loads(child.stdout.readline())
    finally:
        child.terminate()
        child.wait()
        child.stdout.close()
    assert (line["what"], line["kind"], line["id"]) == ("block", "user", "somebody")


def _block(gateway) -> bool:
    body = {"kind": "user", "id": "somebody", "ttl": "1m"}
    return bool(gateway.api("POST", "/api/v1/blocks", body))


def _readable(child) -> bool:
    import select  # noqa: PLC0415

    return bool(select.select([child.stdout], [], [], 0.2)[0])
