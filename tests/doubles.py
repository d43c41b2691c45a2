"""Test doubles around a gateway: an upstream that records every byte.

`RecordingUpstream` plays literal bytes and pauses. `RunningUpstream` is the same in a
thread of its own, for tests with blocking sockets. `gateway_with_recorder` is a real
gateway process in front of one; import it into the test module that uses it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import pytest

from tests.ports import free_port

REPOSITORY = Path(__file__).resolve().parent.parent
START_S = 90.0
# Timeout for what takes milliseconds on an idle machine.
LONGEST_S = 60.0
T = TypeVar("T")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)


class Cut(Enum):
    """How a script may end the upstream's connection."""

    CLOSE = "close"
    RESET = "reset"


# Bytes are written, numbers are pauses in seconds.
Script = Sequence[bytes | float | Cut]

ANSWER_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
)
ANSWER: Script = (ANSWER_HEAD + b"{}",)


def request_end(raw: bytes | bytearray) -> int | None:
    """Index at which the first request in ``raw`` ends; None while it is incomplete."""
    end = raw.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    if _CHUNKED.search(raw, 0, end):
        last = raw.find(b"0\r\n\r\n", end)
        # The gateway sends no trailers; a chunk's content may look like the end.
        while last > end and raw[last - 2 : last] != b"\r\n":
            last = raw.find(b"0\r\n\r\n", last + 1)
        return None if last < 0 else last + 5
    length = _LENGTH.search(raw, 0, end)
    end += int(length[1]) if length else 0
    return end if len(raw) >= end else None


class _Recorded(asyncio.Protocol):
    """One connection from the gateway."""

    def __init__(self, upstream: RecordingUpstream) -> None:
        self.upstream = upstream
        self.received = bytearray()
        self.closed = asyncio.Event()
        self._seen = 0
        self._steps: deque[bytes | float | Cut] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.upstream.connections.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._steps.clear()
        if self._timer is not None:
            self._timer.cancel()
        self.closed.set()

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := request_end(self.received[self._seen :])) is not None:
            request = bytes(self.received[self._seen : self._seen + end])
            self._seen += end
            self.upstream.requests.append(request)
            self._steps.extend(self.upstream.script_for(request))
            if self._timer is None:
                self._play()

    def _play(self) -> None:
        self._timer = None
        while self._steps:
            step = self._steps.popleft()
            if isinstance(step, bytes):
                self._transport.write(step)
            elif step is Cut.CLOSE:
                self._transport.close()
            elif step is Cut.RESET:
                # SO_LINGER of 0 s makes the kernel send RST instead of FIN.
                self._transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self._transport.abort()
            else:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(float(step), self._play)  # type: ignore[arg-type]
                return

    def cut(self) -> None:
        self._transport.abort()


class RecordingUpstream:
    """A raw TCP server that records what it receives and plays scripts of bytes.

    ``requests`` holds whole requests, ``connections`` every connection with its
    ``received`` bytes and ``closed`` event. The next request is answered by the first
    of ``scripts``, or by ``default`` when there is none; a HEAD gets no body.
    """

    def __init__(self, default: Script = ANSWER) -> None:
        self.default = default
        self.scripts: deque[Script] = deque()
        self.requests: list[bytes] = []
        self.connections: list[_Recorded] = []
        self.host = "127.0.0.1"
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The base URL for a gateway."""
        return f"http://{self.host}:{self.port}"

    @property
    def received(self) -> bytes:
        """Every received byte, by connection in order of connecting."""
        return b"".join(bytes(one.received) for one in self.connections)

    def script_for(self, request: bytes) -> Script:
        if self.scripts:
            return self.scripts.popleft()
        if request.startswith(b"HEAD ") and self.default is ANSWER:
            return (ANSWER_HEAD,)
        return self.default

    def clear(self) -> None:
        """Drop what was recorded; open connections stay usable."""
        self.requests.clear()
        self.connections = [one for one in self.connections if not one.closed.is_set()]
        for one in self.connections:
            # The received part of an incomplete request is dropped as well.
            one.received.clear()
            one._seen = 0

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Recorded(self), self.host, self.port
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for one in self.connections:
            one.cut()
            await one.closed.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()


class RunningUpstream:
    """A `RecordingUpstream` in a thread with its own loop."""

    def __init__(self, default: Script = ANSWER) -> None:
        self.upstream = RecordingUpstream(default)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.upstream.start(), self._loop).result(
            LONGEST_S
        )
        return self

    def __exit__(self, *_exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self.upstream.close(), self._loop).result(
            LONGEST_S
        )
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LONGEST_S)
        self._loop.close()

    def ask(self, question: Callable[[RecordingUpstream], T]) -> T:
        """Call ``question`` in the upstream's thread, between two reads; its result."""

        async def answer() -> T:
            return question(self.upstream)

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(LONGEST_S)

    def wait_closed(self, index: int) -> None:
        """Wait until the gateway has closed this connection."""

        async def closed() -> None:
            await self.upstream.connections[index].closed.wait()

        asyncio.run_coroutine_threadsafe(closed(), self._loop).result(LONGEST_S)


class GatewayProcess:
    """`tidegate serve` as a child process, ready when entered."""

    def __init__(self, config: Path, repository: Path = REPOSITORY) -> None:
        self.config = config
        self._repository = repository
        self.log: list[str] = []
        self._ready = threading.Event()
        self._child: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        child = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--config", str(self.config)],
            cwd=self.config.parent,
            env={**os.environ, "PYTHONPATH": str(self._repository)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._child = child
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        if not self._ready.wait(START_S) or child.poll() is not None:
            self.__exit__()
            pytest.fail("the gateway did not start:\n" + "".join(self.log[-20:]))
        return self

    def _read_log(self) -> None:
        assert self._child is not None
        assert self._child.stderr is not None
        for line in self._child.stderr:
            self.log.append(line)
            if line.startswith("tidegate ready "):
                self._ready.set()
        self._ready.set()  # the process ended: release the waiting thread

    def __exit__(self, *_exc: object) -> None:
        child, reader = self._child, self._reader
        assert child is not None
        assert reader is not None
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(LONGEST_S)
        reader.join(LONGEST_S)
        assert child.stderr is not None
        child.stderr.close()


class Recorded(NamedTuple):
    """A running gateway's address and the upstream behind it."""

    address: tuple[str, int]
    recorder: RunningUpstream
    process: GatewayProcess


def write_config(folder: Path, upstream: RunningUpstream, port: int) -> Path:
    """Write a configuration with one worker, no limits and the store in memory."""
    path = folder / "tidegate.toml"
    path.write_text(
        f"""
[server]
listen = "127.0.0.1:{port}"
workers = 1
[admin]
listen = "127.0.0.1:{free_port()}"
[store]
url = "memory:"
[[upstream]]
name = "recorder"
url = "{upstream.upstream.url}"
websocket = true
[policy.default]
mode = "enforce"
""",
        encoding="utf-8",
    )
    return path


@pytest.fixture(name="gateway_with_recorder", scope="module")
def gateway_with_recorder(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Recorded]:
    """One gateway process and its recording upstream for a whole test module."""
    port = free_port()
    with RunningUpstream() as upstream:
        config = write_config(tmp_path_factory.mktemp("gateway"), upstream, port)
        with GatewayProcess(config) as process:
            yield Recorded(("127.0.0.1", port), upstream, process)
