"""Tunnels: bytes, back-pressure and closing in both directions."""

from __future__ import annotations

import pytest

from gateway.http.tunnel import Tunnel


class Side:
    """A connection and its transport in one."""

    def __init__(self, *, halves: bool = True) -> None:
        self.transport = self
        self.halves = halves
        self.calls: list[str] = []
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent += data

    def can_write_eof(self) -> bool:
        return self.halves

    def is_closing(self) -> bool:
        return "close" in self.calls or "abort" in self.calls

    def __getattr__(self, name: str):
        return lambda: self.calls.append(name)


@pytest.fixture(name="ended")
def _ended() -> list[int]:
    """How often ``on_end`` was called."""
    return []


def joined(ended: list[int], *, tls: bool = False) -> tuple[Tunnel, Side, Side]:
    """A tunnel between two sides."""
    client, upstream = Side(halves=not tls), Side()
    return Tunnel(client, upstream, lambda: ended.append(1)), client, upstream  # type: ignore[arg-type]


def test_bytes_pass_and_are_watched(ended):
    """Bytes are counted; those of a watched client pass when the watcher sends them."""
    tunnel, client, upstream = joined(ended)
    seen: list[bytes] = []
    tunnel.from_client(b"up")
    tunnel.watch_client = seen.append
    tunnel.watch_upstream = seen.append
    tunnel.from_upstream(b"down")
    tunnel.from_client(b"no")
    assert (upstream.sent, client.sent, seen) == (b"up", b"down", [b"down", b"no"])
    tunnel.pass_up(b"yes")
    assert upstream.sent == b"upyes"
    assert (tunnel.bytes_up, tunnel.bytes_down) == (4, 4)


def test_a_held_client_is_not_read(ended):
    """It is read again when it is let go and the upstream takes bytes."""
    tunnel, client, _ = joined(ended)
    tunnel.hold_client(held=True)
    tunnel.hold_client(held=True)
    tunnel.upstream_writable(writable=False)
    tunnel.hold_client(held=False)
    assert client.calls == ["pause_reading"] * 3
    tunnel.upstream_writable(writable=True)
    assert client.calls[3:] == ["resume_reading"]


def test_pressure_passes_on(ended):
    """A full write buffer pauses reading from the other side."""
    tunnel, client, upstream = joined(ended)
    tunnel.client_writable(writable=False)
    tunnel.client_writable(writable=True)
    tunnel.upstream_writable(writable=False)
    tunnel.upstream_writable(writable=True)
    assert upstream.calls == client.calls == ["pause_reading", "resume_reading"]


def test_second_half_close_ends_both(ended):
    """One half-close is passed on; the second closes both sides."""
    tunnel, client, upstream = joined(ended)
    assert tunnel.client_eof()
    assert upstream.calls == ["write_eof"]
    assert not ended
    assert not tunnel.upstream_eof()
    assert client.calls == ["write_eof", "finish"]
    assert upstream.calls == ["write_eof", "close"]
    assert ended == [1]


@pytest.mark.parametrize("side", ["client_eof", "upstream_eof"])
def test_tls_has_no_halves(side, ended):
    """Without half-close the end of one direction closes both sides."""
    tunnel, client, upstream = joined(ended, tls=True)
    assert getattr(tunnel, side)() is False
    assert "write_eof" not in client.calls + upstream.calls


@pytest.mark.parametrize(
    ("event", "of_client", "of_upstream"),
    [
        ("client_lost", [], ["abort"]),
        ("upstream_lost", ["finish"], []),
        ("break_off", ["finish"], ["abort"]),
    ],
)
def test_ends_once(event, of_client, of_upstream, ended):
    """When one side ends the other is closed, and ``on_end`` is called once."""
    tunnel, client, upstream = joined(ended)
    for name in (event, "client_lost", "upstream_lost", "break_off", "client_eof"):
        getattr(tunnel, name)()
    tunnel.from_client(b"x")
    tunnel.from_upstream(b"x")
    tunnel.client_writable(writable=False)
    tunnel.upstream_writable(writable=False)
    assert (client.calls, upstream.calls) == (of_client, of_upstream)
    assert (client.sent, upstream.sent, ended) == (b"", b"", [1])
