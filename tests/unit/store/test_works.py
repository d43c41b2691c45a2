"""Notes of work that is paid later, while the store is away or answers oddly."""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis
import pytest

from gateway.limits.ports import WorkAnswer
from gateway.store import works
from gateway.store.works import RedisWorks, framed, split_notes

UNKNOWN = WorkAnswer(known=False)


class Connection:
    """Keeps the callbacks of commands."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def send(self, _command: bytes, answered: Any) -> None:
        """Answered by the test."""
        self.waiting.append(answered)


@pytest.fixture(name="asked")
async def _asked() -> Any:
    """Notes with a connection, and the answers of one question."""
    notes = RedisWorks(b"p:", asyncio.get_running_loop())
    connection = Connection()
    notes.channel = connection  # type: ignore[assignment]
    answers: list[WorkAnswer] = []
    notes.take(b"t", b"work", answers.append)
    return notes, connection, answers


async def test_without_a_connection():
    """Answered at once: it is not known."""
    notes = RedisWorks(b"p:", asyncio.get_running_loop())
    answers: list[WorkAnswer] = []
    notes.keep(b"t", b"work", b"note", answers.append)
    assert answers == [UNKNOWN]


async def test_an_answer(asked):
    """Notes that were taken, then those that were dropped."""
    _, connection, answers = asked
    connection.waiting[0]([framed(b"a") + framed(b"b"), framed(b"c"), framed(b"d")])
    assert answers == [WorkAnswer(notes=[b"a", b"b"], dropped=[b"c", b"d"])]


@pytest.mark.parametrize("answer", [hiredis.ReplyError("OOM"), None, b"x"])
async def test_an_error(asked, answer):
    """Anything but a list is no answer."""
    _, connection, answers = asked
    connection.waiting[0](answer)
    assert answers == [UNKNOWN]


async def test_a_lost_connection(asked):
    """Open questions are answered once."""
    notes, connection, answers = asked
    notes.leave()
    notes.leave()
    connection.waiting[0]([b""])
    assert answers == [UNKNOWN]
    assert notes.channel is None


async def test_silence(monkeypatch):
    """A store that does not answer in time is away."""
    monkeypatch.setattr(works, "ANSWER_S", 0.01)
    notes = RedisWorks(b"p:", asyncio.get_running_loop())
    notes.channel = Connection()  # type: ignore[assignment]
    answers: list[WorkAnswer] = []
    notes.take(b"t", b"work", answers.append)
    await asyncio.sleep(0.05)
    assert answers == [UNKNOWN]


async def test_a_callback_that_fails(asked):
    """Its error goes to the loop; the connection goes on."""
    notes, connection, _ = asked
    loop = asyncio.get_running_loop()
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, fault: faults.append(fault))

    def fail(_answer: WorkAnswer) -> None:
        raise ValueError

    notes.take(b"t", b"other", fail)
    connection.waiting[1]([b""])
    assert [type(fault["exception"]) for fault in faults] == [ValueError]


def test_framing():
    """Notes of any bytes, and none."""
    assert split_notes(framed(b"\0") + framed(b"") + framed(b"x" * 300)) == [
        b"\0",
        b"",
        b"x" * 300,
    ]
    assert split_notes(b"") == []
