"""Literal answers of an upstream over real sockets: the ambiguous end in 502, the cut
never look whole, the good pass byte for byte, none leaks into another exchange.
"""

from __future__ import annotations

import http.client
import socket

import pytest

from tests.corpus.answers import ANSWERS
from tests.doubles import ANSWER, ANSWER_HEAD, Cut, gateway_with_recorder  # noqa: F401

WAIT_S = 20.0


def ask(address: tuple[str, int], method: bytes = b"GET") -> tuple[int, bytes, bool]:
    """Status, body, and whether the body is complete, as http.client reads it."""
    with socket.create_connection(address, WAIT_S) as client:
        client.sendall(method + b" /v1/models HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
        response = http.client.HTTPResponse(client, method=method.decode())
        response.begin()
        try:
            return response.status, response.read(), True
        except (http.client.IncompleteRead, ConnectionResetError):
            return response.status, b"", False


@pytest.fixture(name="gateway")
def _gateway(gateway_with_recorder):
    """The gateway, without state of earlier tests."""
    recorder = gateway_with_recorder.recorder
    recorder.ask(lambda upstream: upstream.scripts.clear())
    # Each test uses a new connection, which is then the last one.
    for index in range(recorder.ask(lambda upstream: len(upstream.connections))):
        recorder.ask(lambda upstream, at=index: upstream.connections[at].cut())
        recorder.wait_closed(index)
    recorder.ask(lambda upstream: upstream.clear())
    return gateway_with_recorder


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
@pytest.mark.parametrize("bytewise", [False, True])
def test_answer(answer, bytewise, gateway):
    """Every answer has the result stated in the corpus, at once or byte by byte."""
    raw = answer.raw
    script = [raw[i : i + 1] for i in range(len(raw))] if bytewise else [raw]
    script = [step for piece in script for step in (piece, 0.0)]
    gateway.recorder.ask(lambda upstream: upstream.scripts.append((*script, Cut.CLOSE)))
    status, body, whole = ask(gateway.address, answer.method)
    assert (status, whole) == (answer.status, answer.body is not None)
    if answer.body is not None and status != 502:
        assert body == answer.body


def test_reset_before_the_end_is_not_an_end(gateway):
    """A close-delimited body is incomplete when the connection was reset."""
    script = (b"HTTP/1.1 200 OK\r\n\r\n{}", 0.05, Cut.RESET)
    gateway.recorder.ask(lambda upstream: upstream.scripts.append(script))
    assert ask(gateway.address)[2] is False


@pytest.mark.parametrize(
    "extra", [b"HTTP/1.1 201 Evil\r\nContent-Length: 4\r\n\r\nevil", b"evil"]
)
@pytest.mark.parametrize("pause", [None, 0.02])
def test_bytes_after_an_answer_close_the_connection(extra, pause, gateway):
    """A connection with unsolicited bytes is closed, and no client gets them."""
    script = (
        (ANSWER_HEAD + b"{}" + extra,) if pause is None else (*ANSWER, pause, extra)
    )
    gateway.recorder.ask(lambda upstream: upstream.scripts.append(script))
    assert ask(gateway.address) == (200, b"{}", True)
    gateway.recorder.wait_closed(-1)
    assert ask(gateway.address) == (200, b"{}", True)


def test_early_hints_pass(gateway):
    """An interim answer other than 100 is forwarded before the final one."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    gateway.recorder.ask(lambda upstream: upstream.scripts.append((hints, *ANSWER)))
    request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with socket.create_connection(gateway.address, WAIT_S) as client:
        client.sendall(request)
        raw = b"".join(iter(lambda: client.recv(65_536), b""))
    assert raw.index(b"HTTP/1.1 103 ") < raw.index(b"Link: </a>")
    assert raw.index(b"Link: </a>") < raw.index(b"HTTP/1.1 200 ")
