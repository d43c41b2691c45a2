"""The link between control and workers: reconnects, bounds, frames at any split."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.serve.link import (
    MAX_WAITING,
    FrameReader,
    LinkError,
    LinkServer,
    WorkerLink,
    encode_frame,
)


@given(st.lists(st.dictionaries(st.text(), st.integers(0, 99))), st.integers(1, 9))
def test_frames_come_whole_at_any_split(bodies, step):
    """Any split of the bytes gives the same messages."""
    messages = [{**body, "type": "x"} for body in bodies]
    stream = b"".join(map(encode_frame, messages))
    reader = FrameReader()
    seen = []
    for start in range(0, len(stream), step):
        seen += reader.feed(stream[start : start + step])
    assert seen == messages


@pytest.mark.parametrize(
    "junk",
    [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\1\x80", b"\0\0\0\2\x91\x01"],
    ids=["length", "msgpack", "no type", "no map"],
)
def test_what_is_no_message_is_refused(junk):
    """Invalid frames raise an error."""
    with pytest.raises(LinkError):
        FrameReader().feed(junk)


class Ends:
    """A server and a worker on one socket, with the received messages."""

    def __init__(self, folder):
        self.path = str(folder / "link")
        self.at_control: asyncio.Queue = asyncio.Queue()
        self.at_worker: asyncio.Queue = asyncio.Queue()
        self.gone: asyncio.Queue = asyncio.Queue()
        self.worker = WorkerLink(self.path, 3, 7, self.at_worker.put_nowait)
        self.server = self.new_server()

    def new_server(self):
        return LinkServer(
            self.path,
            lambda peer, message: self.at_control.put_nowait((peer.index, message)),
            lambda peer: self.gone.put_nowait(peer.index),
        )


@pytest.fixture(name="ends")
async def _ends(tmp_path):
    ends = Ends(tmp_path)
    yield ends
    await ends.worker.close()
    await ends.server.close()


async def test_messages_travel_in_both_directions(ends):
    """Messages travel in both directions; the server knows the worker by its index."""
    await ends.server.start()
    await ends.worker.start()
    index, hello = await ends.at_control.get()
    assert (index, hello["type"], hello["incarnation"]) == (3, "hello", 7)
    ends.server.broadcast({"type": "drain"})
    assert await ends.at_worker.get() == {"type": "drain"}


async def test_worker_started_before_control(ends):
    """Messages sent before control listens are delivered later; statistics are not."""
    await ends.worker.start()
    ends.worker.send({"type": "stats", "inflight": 1})
    ends.worker.send({"type": "event", "name": "gateway.degraded"})
    ends.worker.send({"type": "ready"})
    await ends.server.start()
    kinds = [(await ends.at_control.get())[1]["type"] for _ in range(3)]
    assert kinds == ["hello", "ready", "event"]


async def test_worker_comes_back_to_a_new_control(ends):
    """After control restarts, the worker sends hello and ready again."""
    await ends.server.start()
    await ends.worker.start()
    await ends.at_control.get()
    ends.worker.send({"type": "ready"})
    await ends.at_control.get()
    await ends.server.close()
    assert await ends.gone.get() == 3
    ends.server = ends.new_server()
    await ends.server.start()
    kinds = [(await ends.at_control.get())[1]["type"] for _ in range(2)]
    assert kinds == ["hello", "ready"]
    assert ends.worker.connected


async def test_a_new_control_gets_the_missed_and_lasting_messages(ends):
    """A new control receives the missed messages, then the one for its connection."""
    ends.worker.on_connect = lambda: {"type": "event", "name": "gateway.degraded"}
    ends.worker.send({"type": "event", "name": "missed"})
    await ends.server.start()
    await ends.worker.start()
    said = [(await ends.at_control.get())[1] for _ in range(3)]
    names = [message.get("name") for message in said]
    assert names == [None, "missed", "gateway.degraded"]


async def test_what_waits_for_control_is_bounded(ends):
    """While control is down, the oldest messages are dropped and counted."""
    for number in range(MAX_WAITING + 5):
        ends.worker.send({"type": "event", "name": str(number)})
    assert ends.worker.dropped == 5


async def test_junk_closes_the_connection_only(ends):
    """A peer that sends invalid frames is disconnected; the server keeps working."""
    await ends.server.start()
    reader, writer = await asyncio.open_unix_connection(ends.path)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await reader.read() == b""
    writer.close()
    await ends.worker.start()
    assert (await ends.at_control.get())[1]["type"] == "hello"
