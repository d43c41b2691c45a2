"""Counting off the event loop: a real child, real vocabularies, all failures."""

import asyncio
import io
import sys

import msgspec
import pytest

from gateway.core.model import Usage
from gateway.metering import counting
from gateway.metering.counting import TokenCounter, encoding_of
from gateway.metering.dialects import CountTask

PLAIN = b'{"messages":[{"role":"user","content":"Say hi"}]}'


def task(**fields) -> CountTask:
    given = {
        "endpoint": "chat.completions",
        "model": "gpt-4o",
        "framing": "sse",
        "answer": [b'data: {"choices":[{"delta":{"content":"hello world"}}]}\n\n'],
        "body": b'{"messages":[{"role":"user","content":"Say hi \\ud800"}]}',
        "prompt_bytes": 40,
    }
    return CountTask(**(given | fields))


@pytest.fixture(name="counter")
async def _counter():
    counter = TokenCounter(asyncio.get_running_loop())
    yield counter
    counter.close()


async def counted(counter: TokenCounter, given: CountTask) -> Usage:
    answer: asyncio.Future[Usage] = asyncio.get_running_loop().create_future()
    counter.submit(given, answer.set_result)
    return await asyncio.wait_for(answer, 50)


@pytest.mark.parametrize(
    ("model", "encoding", "own"),
    [
        ("gpt-4o-mini", "o200k_base", True),
        ("openai/gpt-5.2", "o200k_base", True),
        ("o3-mini", "o200k_base", True),
        ("openai.gpt-oss-120b-1:0", "o200k_harmony", True),
        ("gpt-4-turbo", "cl100k_base", True),
        ("gpt-35-turbo", "cl100k_base", True),
        ("text-embedding-3-small", "cl100k_base", True),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama3", True),
        ("us.meta.llama3-8b-instruct-v1:0", "llama3", True),
        ("Qwen/Qwen2.5-VL-72B-Instruct", "qwen3", True),
        ("claude-sonnet-4-5", "o200k_base", False),
        ("", "o200k_base", False),
    ],
)
def test_encodings(model, encoding, own):
    """A model is counted with its own vocabulary if there is one, else with o200k."""
    assert encoding_of(model) == (encoding, own)


async def test_counts(counter):
    """Text is counted by the model's tokenizer; others' counts are estimates."""
    body = b'{"messages":[{"role":"user","content":"Say hi"}]}'
    usage = await counted(counter, task(body=body))
    assert usage == Usage(9, 2, 11, source="counted")
    other = await counted(counter, task(body=body, model="claude-3"))
    assert (other.total, other.source) == (11, "estimated")
    assert counter.pending == 0


def test_every_encoding_counts():
    """Each encoding loads and counts one word as at least one token."""
    for model in ("gpt-oss", "gpt-4o", "gpt-4", "llama-3", "qwen3"):
        usage = counting.count_task(task(model=model, body=PLAIN), {})
        assert (usage.source, usage.total > 0) == ("counted", True), model


def test_an_encoding_that_is_not_installed(monkeypatch):
    """Without the extra, Llama's tokens are estimated by the default encoding."""
    monkeypatch.setitem(sys.modules, "quicktok", None)
    usage = counting.count_task(task(model="llama-3", body=PLAIN), {})
    estimate = counting.count_task(task(model="claude-3", body=PLAIN), {})
    assert usage == estimate
    assert usage.source == "estimated"


async def test_a_killed_child(counter):
    """A child that died is started again; its task was estimated or counted."""
    await counted(counter, task())
    counter._child._process.kill()
    usage = await counted(counter, task())
    assert usage.total > 0
    assert (await counted(counter, task(body=b"{}"))).source in ("counted", "estimated")


async def test_full_queue(counter, monkeypatch):
    """Beyond the bounds of the queue tasks are estimated at once and counted as
    ``turned_away``.
    """
    monkeypatch.setattr(counting, "PENDING_BYTES", 10)
    usage = await counted(counter, task())
    assert usage.source == "estimated"
    assert counter.overflows == 1


async def test_large_bodies_stay_here(counter, monkeypatch):
    """A body too large for the child is dropped; the prompt is estimated."""
    monkeypatch.setattr(counting, "BODY_BYTES", 10)
    given = task()
    usage = await counted(counter, given)
    assert (given.body, usage.prompt, usage.source) == (b"", 11, "estimated")


async def test_closing():
    """Tasks that wait when counting closes are estimated, and so are later ones."""
    counter = TokenCounter(asyncio.get_running_loop())
    seen: list[Usage] = []
    assert counter.submit(task(), seen.append)
    counter.close()
    assert [usage.source for usage in seen] == ["estimated"]
    assert not counter.submit(task(), seen.append)
    await asyncio.sleep(0)
    assert len(seen) == 2


def test_the_child_itself(monkeypatch):
    """The child answers message by message until its input ends, and lowers its
    priority after the first one.
    """
    done: list[str] = []
    count = counting.count_task

    def noted(*arguments):
        done.append("count")
        return count(*arguments)

    class Pipe:
        def __init__(self, data=b""):
            self.buffer = io.BytesIO(data)

    message = msgspec.msgpack.encode(task())
    asked = Pipe(2 * (len(message).to_bytes(4, "big") + message))
    told = Pipe()
    monkeypatch.setattr(counting.sys, "stdin", asked)
    monkeypatch.setattr(counting.sys, "stdout", told)
    monkeypatch.setattr(counting, "count_task", noted)
    monkeypatch.setattr(counting.os, "nice", lambda _: done.append("nice"))
    monkeypatch.setattr(counting.signal, "signal", lambda *_: None)
    counting.main()
    told.buffer.seek(0)
    first = counting._read(told.buffer)
    assert first == counting._read(told.buffer)
    assert done == ["count", "nice", "count"]
    usage = msgspec.msgpack.decode(first, type=Usage)
    assert usage.completion == 2
