"""Notes of work that was accepted and is paid later, by tenant and id.

A note says what is reserved for the work; ``proxy/later.py`` writes and reads it. It is
taken once, by the call that shows the work's end. Work that nobody fetches is dropped
after ``KEPT_S``, and the oldest of more than ``MOST_WORKS`` of a tenant.
"""

from __future__ import annotations

import asyncio
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from gateway.limits.ports import Plan, Reserved, WorkAnswer
from gateway.store.channel import Channel, pack_command
from gateway.store.states import resume

KEPT_S = 7 * 86_400
# Of one tenant; a note has about 500 bytes.
MOST_WORKS = 10_000
# Of one work: notes of the calls that continue it.
MOST_NOTE_BYTES = 64 * 1024
# Works dropped by one call because they waited for too long.
LATE_AT_ONCE = 8
# A store that does not answer within this time is away.
ANSWER_S = 1.0
_SCRIPT = files("gateway.store").joinpath("lua/works.lua").read_bytes()
_SIZE = struct.Struct("<I")

Done = Callable[[WorkAnswer], None]


def framed(note: bytes) -> bytes:
    """A note with its length, so that several can follow each other."""
    return _SIZE.pack(len(note)) + note


def split_notes(framed_notes: bytes) -> list[bytes]:
    """The notes of one work."""
    notes: list[bytes] = []
    at = 0
    while at + _SIZE.size <= len(framed_notes):
        (size,) = _SIZE.unpack_from(framed_notes, at)
        at += _SIZE.size
        notes.append(framed_notes[at : at + size])
        at += size
    return notes


class _Works:
    __slots__ = ()

    def resume(self, plan: Plan, costs: Sequence[int], at_us: int) -> Reserved:
        """See ``ports.Works``."""
        return resume(plan, costs, at_us)


class MemoryWorks(_Works):
    """The notes of one process."""

    __slots__ = ("_now_us", "_tenants")

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        # By tenant: work -> until when it is kept (store microseconds), its notes.
        self._tenants: dict[bytes, OrderedDict[bytes, tuple[int, list[bytes]]]] = {}

    def keep(self, tag: bytes, work: bytes, note: bytes, done: Done) -> None:
        """Answer at once; see ``ports.Works``."""
        works = self._tenants.setdefault(tag, OrderedDict())
        _, before = works.get(work, (0, []))
        if sum(map(len, before)) + len(note) > MOST_NOTE_BYTES:
            done(WorkAnswer())
            return
        works.pop(work, None)
        works[work] = self._now_us() + int(KEPT_S * 1e6), [*before, note]
        dropped = works.popitem(last=False)[1][1] if len(works) > MOST_WORKS else []
        done(WorkAnswer(notes=[note], dropped=dropped + self._late(works)))

    def take(self, tag: bytes, work: bytes, done: Done) -> None:
        """Answer at once; see ``ports.Works``."""
        works = self._tenants.get(tag, OrderedDict())
        _, notes = works.pop(work, (0, []))
        done(WorkAnswer(notes=notes, dropped=self._late(works)))

    def _late(self, works: OrderedDict[bytes, tuple[int, list[bytes]]]) -> list[bytes]:
        dropped: list[bytes] = []
        now_us = self._now_us()
        for work in list(works)[:LATE_AT_ONCE]:
            until_us, notes = works[work]
            if until_us > now_us:
                break
            del works[work]
            dropped += notes
        return dropped


class RedisWorks(_Works):
    """The notes of all workers of one store. Every question is answered once, in time.

    ``channel``: the store's connection; None while the store is away.
    """

    __slots__ = ("_loop", "_stem", "_waiting", "channel")

    def __init__(self, prefix: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self.channel: Channel | None = None
        self._stem = prefix + b"1:{"
        self._loop = loop
        self._waiting: dict[object, tuple[Done, asyncio.TimerHandle]] = {}

    def keep(self, tag: bytes, work: bytes, note: bytes, done: Done) -> None:
        """See ``ports.Works``."""
        bounds = (int(KEPT_S * 1000), MOST_WORKS, MOST_NOTE_BYTES)
        self._ask(tag, (b"keep", work, framed(note), *bounds), done)

    def take(self, tag: bytes, work: bytes, done: Done) -> None:
        """See ``ports.Works``."""
        self._ask(tag, (b"take", work), done)

    def leave(self) -> None:
        """The connection is gone: answer every open question."""
        self.channel = None
        for question in list(self._waiting):
            self._answer(question, None)

    def _ask(self, tag: bytes, arguments: tuple[bytes | int, ...], done: Done) -> None:
        channel = self.channel
        if channel is None:
            done(WorkAnswer(known=False))
            return
        stem = self._stem + tag + b"}:later:"
        question = object()
        timer = self._loop.call_later(ANSWER_S, self._answer, question, None)
        self._waiting[question] = done, timer
        command = pack_command(
            b"EVAL", _SCRIPT, 2, stem + b"order", stem + b"notes", *arguments
        )
        channel.send(command, lambda answer: self._answer(question, answer))

    def _answer(self, question: object, answer: Any) -> None:
        waiting = self._waiting.pop(question, None)
        if waiting is None:
            return  # too late
        done, timer = waiting
        timer.cancel()
        try:
            done(_read(answer))
        except Exception as error:  # noqa: BLE001 - the connection must go on
            self._loop.call_exception_handler(
                {"message": "the callback of a note failed", "exception": error}
            )


def _read(answer: Any) -> WorkAnswer:
    if not isinstance(answer, list):
        return WorkAnswer(known=False)
    dropped = [
        note for framed_notes in answer[1:] for note in split_notes(framed_notes)
    ]
    return WorkAnswer(notes=split_notes(answer[0]), dropped=dropped)
