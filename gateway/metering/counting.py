"""Token counting off the event loop, for exchanges whose provider states no usage.

One thread feeds one child process, both started on first use. The tokenizer is in the
child because loading a vocabulary holds the interpreter lock for 0.7 s and needs 50 MB,
which no worker can afford. If the child dies or hangs, the usage is estimated.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import IO, cast

import msgspec

from gateway.core.model import Usage
from gateway.metering.dialects.base import CountTask
from gateway.metering.usage import count_usage, estimate_usage

# Tasks beyond either bound are estimated at once. Full, the queue takes about 2 s.
PENDING_MAX = 256
PENDING_BYTES = 32 * 1024 * 1024
# Larger bodies are not copied to the child: their prompt is estimated.
BODY_BYTES = 1024 * 1024
# Longest wait for the child: it loads a vocabulary on a busy machine, then counts.
ANSWER_TIMEOUT_S = 20.0
# An idle child is stopped after this time, to free its memory.
IDLE_S = 60.0
_CLOSE_S = 2.0

_FAMILIES = (
    (r"gpt-oss", "o200k_harmony"),
    (r"(?:chat)?gpt-(?:4o|4\.1|4\.5|[5-9])|o[1-9](?:-|$)", "o200k_base"),
    (r"gpt-(?:4|3\.5|35)|text-embedding-|(?:davinci|babbage)-002", "cl100k_base"),
    (r"(?:meta-)?llama-?3", "llama3"),
    (r"qwen-?(?:2|2\.5|3)", "qwen3"),
)
# Encodings of quicktok, which the extra tidegate[tokenizers] installs: its 8 MB depend on
# numpy's 73 MB. toktok, its port to Rust, has the others and gives the same counts.
_QUICKTOK_ENCODINGS = frozenset({"llama3", "qwen3"})
_DEFAULT_ENCODING = "o200k_base"
_FAMILY = [(re.compile(pattern), encoding) for pattern, encoding in _FAMILIES]
_VENDOR = re.compile(r"^(?:us\.|eu\.|apac\.)?(?:openai|meta|qwen)\.")

Done = Callable[[Usage], None]


def encoding_of(model: str) -> tuple[str, bool]:
    """(encoding, whether it is the model's own); other models are counted by o200k."""
    name = _VENDOR.sub("", model.lower().rpartition("/")[2])
    for pattern, encoding in _FAMILY:
        if pattern.match(name):
            return encoding, True
    return _DEFAULT_ENCODING, False


class TokenCounter:
    """Counts tasks one after the other; ``done`` is called on the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: SimpleQueue[tuple[CountTask, Done] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._child = _Child()
        self._waiting: dict[int, tuple[CountTask, Done, int]] = {}
        self._waiting_bytes = 0
        self._closed = False
        # Tasks estimated because the queue was full.
        self.overflows = 0

    @property
    def pending(self) -> int:
        """Tasks submitted and not answered yet."""
        return len(self._waiting)

    def submit(self, task: CountTask, done: Done) -> bool:
        """Queue ``task``; False when the queue is full and it is estimated instead."""
        if len(task.body) > BODY_BYTES:
            task.body = b""
        size = len(task.body) + sum(map(len, task.answer)) + sum(map(len, task.text))
        full = (
            len(self._waiting) >= PENDING_MAX
            or self._waiting_bytes + size > PENDING_BYTES
        )
        if self._closed or full:
            self.overflows += 1
            self._loop.call_soon(done, estimate_usage(task))
            return False
        self._waiting[id(task)] = (task, done, size)
        self._waiting_bytes += size
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="token-counter", daemon=True
            )
            self._thread.start()
        self._queue.put((task, done))
        return True

    def close(self) -> None:
        """Stop thread and child; tasks still waiting are estimated."""
        self._closed = True
        waiting, self._waiting = self._waiting, {}
        self._waiting_bytes = 0
        if self._thread is not None:
            self._queue.put(None)
            self._child.stop()
            self._thread.join(_CLOSE_S)
            self._thread = None
        for task, done, _ in waiting.values():
            done(estimate_usage(task))

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self._child.stop()

    def _serve(self) -> None:
        while not self._closed:
            try:
                item = self._queue.get(timeout=IDLE_S)
            except Empty:
                self._child.stop()
                continue
            if item is None:
                return
            task, _ = item
            usage = self._child.count(task) or estimate_usage(task)
            try:
                self._loop.call_soon_threadsafe(self._answer, task, usage)
            except RuntimeError:  # the event loop is closed
                return

    def _answer(self, task: CountTask, usage: Usage) -> None:
        waiting = self._waiting.pop(id(task), None)
        if waiting is not None:
            self._waiting_bytes -= waiting[2]
            waiting[1](usage)


class _Child:
    """The process with the tokenizer; used by one thread, stopped by any thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Usage)

    def count(self, task: CountTask) -> Usage | None:
        """The usage that the child counts; None when it fails or times out."""
        try:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            _write(process.stdin, self._encoder.encode(task))
            if not _readable(process.stdout, ANSWER_TIMEOUT_S):
                self.stop()
                return None
            answer = _read(process.stdout)
            if answer is not None:
                return self._decoder.decode(answer)
        except (OSError, ValueError, msgspec.MsgspecError):
            pass
        self.stop()
        return None

    def _started(self) -> subprocess.Popen[bytes]:
        process = self._process
        if process is not None and process.poll() is not None:
            self.stop()
            process = None
        if process is None:
            path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway.metering.counting"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
            )
        return process

    def stop(self) -> None:
        """Kill the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue


def _write(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(len(message).to_bytes(4, "big"))
    pipe.write(message)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes | None:
    """The next message; None at the end of the pipe."""
    head = pipe.read(4)
    if len(head) < 4:
        return None
    return pipe.read(int.from_bytes(head, "big"))


def _readable(pipe: IO[bytes], timeout_s: float) -> bool:
    poll = select.poll()  # not select(): file descriptors may be above 1,024
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def count_task(task: CountTask, encodings: dict[str, Callable[[str], int]]) -> Usage:
    """Count one task with the model's tokenizer; ``encodings`` caches loaded ones."""
    name, own = encoding_of(task.model)
    if name in _QUICKTOK_ENCODINGS and find_spec("quicktok") is None:
        name, own = _DEFAULT_ENCODING, False
    encoding = encodings.get(name)
    if encoding is None:
        encoding = encodings[name] = _load_encoding(name)

    def count(text: str) -> int:
        # Lone surrogates cannot be tokenized; providers replace them too.
        return encoding(text.encode("utf-8", "replace").decode())

    return count_usage(task, count, exact=own)


def _load_encoding(name: str) -> Callable[[str], int]:
    """A function that counts tokens. Only the child may load the vocabularies."""
    if name in _QUICKTOK_ENCODINGS:
        import quicktok  # noqa: PLC0415

        return cast("Callable[[str], int]", quicktok.get_encoding(name).count)
    import toktok  # noqa: PLC0415

    return lambda text: toktok.batch_count([text], name, threads=1)[0]


def main() -> None:
    """The child process: count tasks until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker handles Ctrl-C
    decode = msgspec.msgpack.Decoder(CountTask).decode
    encode = msgspec.msgpack.Encoder().encode
    encodings: dict[str, Callable[[str], int]] = {}
    nice = False
    while (message := _read(sys.stdin.buffer)) is not None:
        counted = encode(count_task(decode(message), encodings))
        if not nice:
            # Only after the first task: at low priority, loading a vocabulary takes too
            # long on a busy machine.
            os.nice(10)
            nice = True
        try:
            _write(sys.stdout.buffer, counted)
        except BrokenPipeError:
            os._exit(0)  # the worker was killed; an orderly exit would flush again


if __name__ == "__main__":
    main()
