"""Keys and prompts appear nowhere but at the upstream, whatever fails."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import json
import os
import random
import re
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psutil
import pytest

from gateway.admin.openapi import document
from gateway.admin.static import load_console
from tests.e2e.test_alerts import Hook, running_hook
from tests.e2e.test_detection import STOPPED_S, Client, ordinary_clients
from tests.engines import engine_binaries, running_engine
from tests.gateway_process import Gateway, MockLLM, call, running_gateway, until
from tests.words import WORDS

pytestmark = [
    pytest.mark.skipif(not engine_binaries(), reason="no store engine here"),
]
# Every substring of KEY with at least 13 characters contains it.
NEEDLE = "qzvxkjw"
KEY = "sk-" + NEEDLE * 4
PROMPT = f"the {NEEDLE} code is {NEEDLE} {NEEDLE}"
SIGNING = base64.b64encode(NEEDLE.encode() * 6).decode()
NEEDLES = re.compile(f"{NEEDLE}|{re.escape(SIGNING[8:24])}".encode(), re.IGNORECASE)
SHARED = Path("/dev/shm")
ATTACKER = "127.66.0.1"
# Allowed values that must be found: they show that the right places are searched.
NAMES = re.compile(rb"127\.66\.0\.1|key_[0-9a-f]{16}")
CHAT = "/v1/chat/completions"
PLACES: dict[str, tuple[str, dict[str, str]]] = {
    "bearer": (CHAT, {"Authorization": f"Bearer {KEY}b"}),
    "x-api-key": ("/v1/messages", {"x-api-key": f"{KEY}x"}),
    "api-key": (CHAT, {"api-key": f"{KEY}a"}),
    "goog": ("/v1beta/models/g:generateContent", {"x-goog-api-key": f"{KEY}g"}),
    "query": (f"/v1beta/models/g:generateContent?key={KEY}q", {}),
    "escaped": (f"/v1beta/models/g:generateContent?%6Bey={KEY}e", {}),
    "no scheme": (CHAT, {"Authorization": f"{KEY}n"}),
    "basic": (CHAT, {"Authorization": f"Basic {KEY}n"}),
    "cookie": (CHAT, {"Cookie": f"session={KEY}c"}),
    "proxy": (CHAT, {"Proxy-Authorization": f"Bearer {KEY}p"}),
}
TROUBLES = (
    {"x-mock-status": "401"},
    {"x-mock-status": "500"},
    {"x-mock-reset": "1"},
    {"x-mock-usage": "none"},
)


class _Parrot(socketserver.BaseRequestHandler):
    """An upstream that is no HTTP server: it echoes the request in its status line."""

    def handle(self) -> None:
        heard = self.request.recv(65536)
        self.request.sendall(b"HTTP/1.1 " + heard.partition(b"\r\n")[2] + b"\r\n\r\n")


@contextlib.contextmanager
def running_parrot() -> Iterator[int]:
    """Run the echoing upstream; yields its port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Parrot) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def config(mock: MockLLM, hook: Hook, parrot: int, secret: str = "") -> str:
    """A configuration with secrets in every field for one, with receivers that work and
    that fail.
    """
    receiver = f'[[alert]]\ntype = "webhook"\nurl = "{hook.url}?t={KEY}"\n'
    return (
        f'[[upstream]]\nname = "mock"\nurl = "{mock.url}"\n'
        f'[[upstream]]\nname = "keyed"\nprefix = "/keyed"\nstrip_prefix = true\n'
        f'url = "{mock.url}"\napi_key = "{KEY}u"\n'
        '[[upstream]]\nname = "down"\nprefix = "/down"\nurl = "http://127.0.0.1:9"\n'
        '[[upstream]]\nname = "mad"\nprefix = "/mad"\n'
        f'url = "http://127.0.0.1:{parrot}"\n'
        '[policy.default]\nmode = "enforce"\n'
        f'{receiver}name = "hook"\nallow_private = true\n'
        f'secret = "{secret or "whsec_" + SIGNING}"\n'
        '[[alert]]\ntype = "slack"\nname = "away"\nallow_private = true\n'
        f'url = "http://127.0.0.1:9/services/{KEY}"\n'
        f'[[alert]]\ntype = "pagerduty"\nname = "page"\nsecret = "{KEY}"\n'
        f'url = "http://127.0.0.1:9/{KEY}"\n'
    )


def body(path: str, **more: object) -> dict[str, object]:
    """A request body of the endpoint's dialect with the canary as prompt."""
    if "generateContent" in path:
        return {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]} | more
    said = {"role": "user", "content": PROMPT}
    return {"model": "gpt-4o", "max_tokens": 9, "messages": [said], "user": "u"} | more


def talk(gateway: Gateway) -> set[int]:
    """Send the key in every place of a credential with every kind of fault; the
    statuses.
    """
    seen = set()
    for path, headers in PLACES.values():
        for trouble in ({}, *TROUBLES):
            fields = headers | trouble
            seen.add(_ask(gateway, path, body(path), fields))
        for prefix in ("/down", "/mad", "/keyed"):
            seen.add(_ask(gateway, prefix + path, body(path), headers))
        seen.add(_ask(gateway, path, body(path, stream=True), headers))
        seen.add(_ask(gateway, path, f'{{"messages":["{PROMPT}'.encode(), headers))
        odd = body(path, messages=PROMPT, contents=KEY, n=KEY)
        seen.add(_ask(gateway, f"/down{path}", odd, headers))
        seen.add(_ask(gateway, path, PROMPT.encode() + b"\xff\xfe", headers))
        packed = gzip.compress(json.dumps(body(path)).encode())[:-9] + PROMPT.encode()
        coded = headers | {"Content-Encoding": "gzip"}
        seen.add(_ask(gateway, path, packed, coded))
    return seen


def _ask(gateway: Gateway, path: str, said: object, headers: dict[str, str]) -> int:
    with contextlib.suppress(ConnectionError, http.client.HTTPException):
        return call("POST", gateway.url + path, said, headers=headers)[0]
    return 0


MALFORMED = (
    f"{KEY}\r\n\r\n",
    f"POST {CHAT}?key={KEY} HTTP/9.9\r\nHost: x\r\n\r\n",
    f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {KEY}\r\n\r\n",
    f"POST {CHAT} HTTP/1.1\r\nHost: {KEY} {KEY}\r\nx-api-key: {KEY}\r\n\r\n",
    f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {KEY}\r\n\r\n",
    f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\0\x01\r\n\r\n",
    f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    f"x-api-key: {KEY}\r\n\r\n{PROMPT}\r\n{PROMPT}\r\n",
    f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {KEY}\r\n\r\n{PROMPT}",
    f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY * 5000}\r\n\r\n",
    f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\nx-api-key: {KEY}2\r\n"
    f"Content-Length: 500\r\n\r\n{PROMPT}",
    f"GET http://{KEY}:{KEY}@x/v1/models?key={KEY} HTTP/1.1\r\nHost: x\r\n\r\n",
    f"CONNECT {KEY}:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /v1/realtime?model=m HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{KEY}w\r\n\r\n",
)


def send_malformed(port: int) -> None:
    """Send malformed and incomplete requests, and read the start of the answer."""
    for text in MALFORMED:
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            connection.settimeout(0.5)
            with contextlib.suppress(OSError):
                connection.sendall(text.encode())
                connection.recv(65536)


def attack(gateway: Gateway, hook: Hook) -> None:
    """Send variations of a template with the canary until the block is reported."""
    chance = random.Random(ATTACKER)
    template = " ".join(chance.choices(WORDS, k=18))
    end = time.monotonic() + STOPPED_S
    with contextlib.closing(Client(gateway, ATTACKER, KEY)) as client:
        for count in range(1_000_000):
            prompt = f"{template} {NEEDLE} {chance.choice(WORDS)} {PROMPT} {count}"
            refused = client.ask(prompt).status == 403
            if refused and "client.blocked" in hook.kinds():
                return
            assert time.monotonic() < end, "the attacker is not found"


def crash(gateway: Gateway) -> None:
    """Kill one worker, make another dump its stack, and wait for replacements."""
    for number in (signal.SIGKILL, signal.SIGABRT):
        worker = gateway.children("worker")[0]
        worker.send_signal(number)
        psutil.wait_procs([worker], timeout=60)

        def is_back(gone: int = worker.pid) -> bool:
            pids = {one.pid for one in gateway.children("worker")}
            return len(pids) == 2 and gone not in pids

        until(is_back, why="the next worker")
    until(lambda: gateway.status()["ready"])


def misconfigure(gateway: Gateway, mock: MockLLM, hook: Hook, parrot: int) -> None:
    """Reload files with an invalid secret, whose error message must not quote it."""
    good = gateway.config_file.read_text()
    gateway.write_config(config(mock, hook, parrot, secret=KEY))
    assert call("POST", f"{gateway.admin}/api/v1/reload")[0] == 422
    gateway.config_file.write_text(good.replace("[policy.default]", f"[[{KEY}"))
    assert call("POST", f"{gateway.admin}/api/v1/reload")[0] == 422
    gateway.config_file.write_text(good)


class Listener:
    """Records what a socket sends: the live stream, or MONITOR of the store."""

    def __init__(self, connection: socket.socket, said: bytes) -> None:
        self._connection = connection
        self.heard = bytearray()
        connection.sendall(said)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := self._connection.recv(65536):
                self.heard += chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()


def listen_to_store(path: str) -> Listener:
    """Record every store command with its arguments, those of scripts included."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return Listener(connection, b"MONITOR\r\n")


def listen_to_stream(gateway: Gateway) -> Listener:
    """Record the live stream of the console."""
    port = int(gateway.admin.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port))
    said = f"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
    return Listener(connection, said.encode())


def answers(gateway: Gateway) -> Iterator[tuple[str, bytes]]:
    """Responses of every GET route, client, incident and console page, and command
    outputs.
    """
    paths = ["/metrics", "/healthz", "/readyz", "/", "/nothing"]
    paths += [f"/console/{name}" for name in load_console()]
    clients = gateway.api("GET", "/api/v1/clients?limit=1000")["items"]
    incidents = gateway.api("GET", "/api/v1/incidents")["items"]
    assert clients
    assert incidents
    for path, methods in document()["paths"].items():
        if "get" not in methods or path.endswith("/stream"):
            continue
        if "/clients/{kind}" in path:
            paths += [
                path.format(kind=one["kind"], id=quote(one["id"], safe=""))
                for one in clients
            ]
        elif "{id}" in path:
            paths += [path.format(id=one["id"]) for one in incidents]
        else:
            paths.append(path)
    for path in paths:
        _, headers, answer = call("GET", gateway.admin + path)
        yield path, repr(headers).encode() + answer
    for command in ("incidents", "alerts", "blocks"):
        done = gateway.command(command, "list", "--admin", gateway.admin)
        assert done.returncode == 0, done
        yield command, (done.stdout + done.stderr).encode()


def written(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Contents of every file, except the configuration and its snapshot, which hold
    secrets.
    """
    for folder in folders:
        # Unlike a glob, os.walk continues when another gateway's directory disappears.
        for path in (
            Path(at, name) for at, _, names in os.walk(folder) for name in names
        ):
            if path.is_file() and path.name not in {"tidegate.toml", "config.mp"}:
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    yield str(path), path.read_bytes()


def leaks(found: Iterable[tuple[str, bytes | bytearray]]) -> list[str]:
    """Places where a canary is found, with the bytes around it."""
    return [
        f"{name}: …{content[max(0, match.start() - 120) : match.end() + 60]!r}"
        for name, content in found
        for match in [NEEDLES.search(content)]
        if match
    ]


@pytest.fixture(name="runtime")
def _runtime(tmp_path_factory, monkeypatch) -> Path:
    """The directory of sockets, rings and write-ahead logs."""
    folder = Path(tmp_path_factory.mktemp("r"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@contextlib.contextmanager
def own_engine() -> Iterator[tuple[str, Path, Callable[[Path], str]]]:
    """An external store: its URL, its directory and a function for its socket."""
    with running_engine(next(iter(engine_binaries().values()))) as engine:
        yield engine.url, engine.directory, lambda _runtime: engine.socket_path


@contextlib.contextmanager
def embedded() -> Iterator[tuple[str, Path, Callable[[Path], str]]]:
    """The embedded store, in the same form as `own_engine`."""
    yield (
        "embedded:./store",
        Path("/nonexistent"),
        lambda runtime: str(next(runtime.rglob("store-*.sock"))),
    )


@pytest.mark.slow
@pytest.mark.parametrize("store", [own_engine, embedded])
def test_keys_and_prompts_are_nowhere_but_at_the_upstream(mock, runtime, store):
    """No key and no prompt is in the store, files, answers, alerts or output, after
    malformed, refused and attacking requests, crashes and reloads.
    """
    with running_hook() as hook, running_parrot() as parrot, store() as store_:
        url, folder, socket_of = store_
        text = config(mock, hook, parrot)
        with running_gateway(text, store=url, workers=2) as gateway:
            with (
                listen_to_store(socket_of(runtime)) as monitor,
                listen_to_stream(gateway) as stream,
            ):
                everything_goes_wrong(gateway, mock, hook, parrot)
            seen = [("MONITOR", monitor.heard), ("stream", stream.heard)]
            seen += answers(gateway)
            seen += written(gateway.directory, runtime, folder, SHARED)
        seen += [("hook", repr(head).encode() + said) for head, said, _ in hook.seen]
    known = {name.rpartition("/")[2] for name, said in seen if NAMES.search(said)}
    assert known >= {
        "MONITOR",
        "stream",
        "hook",
        "incidents",
        "records.jsonl",
        "blocks",
    }
    assert any("aof" in name for name in known), "the store's own file"
    assert leaks(seen) == []


def everything_goes_wrong(
    gateway: Gateway, mock: MockLLM, hook: Hook, parrot: int
) -> None:
    """Run every fault, and check that the canaries reached the upstream."""
    assert ordinary_clients(gateway) == {200}
    assert talk(gateway) >= {200, 400, 401, 500, 502}
    send_malformed(gateway.port)
    attack(gateway, hook)
    crash(gateway)
    probe_admin(gateway)
    misconfigure(gateway, mock, hook, parrot)
    until(lambda: "incident.opened" in hook.kinds())
    assert any(NEEDLE in account for account in mock.ledger())
    until(lambda: len(gateway.records()) > 100)


def probe_admin(gateway: Gateway) -> None:
    """Send client keys to the admin port, and test alerts to every receiver."""
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
        address = f"{gateway.admin}/api/v1/status?token={KEY}"
        call("GET", address, headers=headers)
        address = f"{gateway.admin}/api/v1/session"
        call("POST", address, {"token": KEY}, headers=headers)
    send_malformed(int(gateway.admin.rpartition(":")[2]))
    for name in ("hook", "away", "page"):
        address = f"{gateway.admin}/api/v1/alerts/targets/{name}/test"
        call("POST", address, {}, timeout_s=40)
