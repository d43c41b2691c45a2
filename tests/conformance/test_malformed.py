"""The corpus over real sockets: what is malformed is answered, closed, and goes no
further; what is well-formed arrives alike however its bytes are cut.
"""

from __future__ import annotations

import random
import re
import socket
from itertools import pairwise

import pytest

from tests.corpus.malformed import CASES, PATH
from tests.corpus.reader import read_all
from tests.corpus.wellformed import VALID
from tests.doubles import Recorded, gateway_with_recorder  # noqa: F401

WAIT_S = 20.0
STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
CANARY = b"GET /canary HTTP/1.0\r\n\r\n"


def talk(address: tuple[str, int], pieces: list[bytes], *, leave: bool) -> bytes:
    """All bytes that the gateway answers until it closes; ``leave``: close first."""
    with socket.create_connection(address, WAIT_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = bytearray()
        try:
            for piece in pieces:
                client.sendall(piece)
            if leave:
                client.shutdown(socket.SHUT_WR)
            while part := client.recv(65_536):
                answer += part
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused while still sending: keep what was read
        return bytes(answer)


def forwarded(gateway: Recorded, pieces: list[bytes], *, leave: bool = False):
    """The answer, the complete requests upstream, and all other bytes it got."""
    gateway.recorder.ask(lambda upstream: upstream.clear())
    answer = talk(gateway.address, pieces, leave=leave)
    # When a later request has arrived, so has anything of this one.
    talk(gateway.address, [CANARY], leave=False)
    requests, received = gateway.recorder.ask(
        lambda upstream: (list(upstream.requests), upstream.received)
    )
    requests = [raw for raw in requests if b"/canary" not in raw.split(b"\r\n")[0]]
    whole = sum(len(raw) for raw in requests)
    canary = received.count(b"GET /canary ")
    assert canary == 1
    return answer, requests, received, whole


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_malformed_never_reaches_the_upstream(case, gateway_with_recorder):
    """Every malformed request gets its status and a close; no byte goes upstream."""
    leave = not case.status
    answer, requests, received, whole = forwarded(
        gateway_with_recorder, [case.raw], leave=leave
    )
    assert len(requests) == case.passes
    canary = received[received.index(b"GET /canary ") :]
    others = len(received) - (canary.index(b"\r\n\r\n") + 4)
    assert others == whole
    statuses = [int(status) for status in STATUS.findall(answer)]
    assert statuses == [200] * case.passes + ([case.status] if case.status else [])
    assert leave or b"connection: close\r\n" in answer.lower()


SMALL = [case for case in CASES if len(case.raw) < 1500]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_malformed_in_pieces(case, gateway_with_recorder):
    """A malformed request cut at random places has the same result."""
    pieces = rounds(case.raw, case.name)[1]
    answer, requests, _, _ = forwarded(
        gateway_with_recorder, pieces, leave=not case.status
    )
    assert len(requests) == case.passes
    statuses = [int(status) for status in STATUS.findall(answer)]
    assert statuses == [200] * case.passes + ([case.status] if case.status else [])


def rounds(raw: bytes, seed: str) -> list[list[bytes]]:
    """The request whole, in three random cuts, and byte by byte."""
    random_cuts = random.Random(seed)
    cuts = sorted(random_cuts.randrange(len(raw) + 1) for _ in range(3))
    places = [0, *cuts, len(raw)]
    parts = [raw[a:b] for a, b in pairwise(places)]
    return [[raw], parts, [raw[i : i + 1] for i in range(len(raw))]]


def seen(raw: bytes):
    """A forwarded request without its variable fields."""
    ((head, body),), error, _ = read_all([raw])
    assert error is None
    fields = dict(head.fields)
    for name in (b"x-request-id", b"content-length", b"transfer-encoding"):
        fields.pop(name, None)
    return head.method, head.target, head.forward, fields, body


@pytest.mark.parametrize("valid", VALID, ids=lambda valid: valid.name)
def test_valid_exchange_arrives_alike(valid, gateway_with_recorder):
    """A valid request reaches the upstream the same however it is cut."""
    arrived = []
    closing = valid.raw.removeprefix(b"\r\n")
    if b"Connection:" not in closing and b"HTTP/1.0" not in closing:
        closing = closing.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    elif b"close" not in closing:
        closing = closing.replace(b"Connection: ", b"Connection: close, ", 1)
    for pieces in rounds(closing, valid.name):
        answer, requests, _, _ = forwarded(gateway_with_recorder, pieces)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        arrived.append(seen(requests[0]))
    assert arrived[0] == arrived[1] == arrived[2]
    assert arrived[0][:2] == (valid.method, valid.target)
    assert arrived[0][4] == valid.body


def test_metered_path_is_the_corpus_path():
    """Bodies of the corpus are read before anything is forwarded."""
    assert PATH == b"/v1/chat/completions"
