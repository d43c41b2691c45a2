"""Bounds on the connections of the admin port."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admin.auth import ROLE
from gateway.control import admin_connections
from gateway.control.admin_connections import AdminConnections


class Wire(asyncio.Transport):
    """A connection of a client."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class Server(asyncio.Protocol):
    """The server's own protocol."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def connection_made(self, transport) -> None:
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.calls.append(data)

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return True

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc) -> None:
        self.calls.append("lost")


@pytest.fixture(name="servers")
def _servers() -> list[Server]:
    return []


@pytest.fixture(name="connections")
async def _connections(servers, monkeypatch) -> AdminConnections:
    monkeypatch.setattr(admin_connections, "CONNECTIONS_MAX", 3)

    def make() -> Server:
        servers.append(Server())
        return servers[-1]

    return AdminConnections(make)


def connect(connections: AdminConnections) -> tuple[asyncio.Protocol, Wire]:
    protocol, wire = connections(), Wire()
    protocol.connection_made(wire)
    return protocol, wire


async def prove(connections: AdminConnections, wire: Wire) -> None:
    request = {ROLE: "viewer"}
    await connections.prove(Request(request, wire), None)


class Request(dict):
    """What ``prove`` reads of a request."""

    def __init__(self, members, transport) -> None:
        super().__init__(members)
        self.transport = transport


async def test_everything_passes(connections, servers):
    """To the server's own protocol and back."""
    protocol, _ = connect(connections)
    protocol.data_received(b"GET / HTTP/1.1\r\n\r")
    protocol.data_received(b"\n")
    protocol.data_received(b"more")
    protocol.pause_writing()
    protocol.resume_writing()
    assert protocol.eof_received()
    protocol.connection_lost(None)
    assert servers[0].calls == [
        "made",
        b"GET / HTTP/1.1\r\n\r",
        b"\n",
        b"more",
        "pause",
        "resume",
        "eof",
        "lost",
    ]
    assert connections.closed == 0


async def test_the_oldest_silent_connection_makes_room(connections):
    """Those with an authorized request stay."""
    _, proven = connect(connections)
    await prove(connections, proven)
    _, oldest = connect(connections)
    _, other = connect(connections)
    await connections.prove(Request({}, other), None)  # not authorized
    _, new = connect(connections)
    assert [w.aborted for w in (proven, oldest, other, new)] == [0, 1, 0, 0]
    assert connections.closed == 1


async def test_without_room_the_new_one_is_closed(connections, servers):
    """If all have made authorized requests."""
    made = [connect(connections) for _ in range(3)]
    for _, wire in made:
        await prove(connections, wire)
    protocol, new = connect(connections)
    assert new.aborted
    protocol.data_received(b"x")
    assert protocol.eof_received() is None
    protocol.connection_lost(None)
    assert servers[3].calls == []
    made[0][0].connection_lost(None)
    _, later = connect(connections)
    assert not later.aborted
    assert connections.closed == 1


async def test_a_connection_without_a_request_is_closed(connections, monkeypatch):
    """After HEAD_S; one with a whole head is not."""
    monkeypatch.setattr(admin_connections, "HEAD_S", 0.01)
    _, silent = connect(connections)
    asking, wire = connect(connections)
    asking.data_received(b"GET / HTTP/1.1\r\n\r\n")
    await asyncio.sleep(0.05)
    assert (silent.aborted, wire.aborted) == (True, False)
    assert connections.closed == 1
