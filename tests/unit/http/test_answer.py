"""The framing of answers towards every kind of client."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.http.answer import AnswerWriter, status_line
from gateway.http.head import parse_request_head
from gateway.http.response import read_answer_head


class Wire:
    """A transport that records its writes."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.transport = SimpleNamespace(write=self.writes.append)


def written(
    fields: list[tuple[bytes, bytes]],
    pieces: list[list[bytes]],
    *,
    status: int = 200,
    method: str = "GET",
    version: bytes = b"1.1",
    keep: bool = True,
    rewritten: bool = False,
) -> tuple[Wire, AnswerWriter]:
    """What a client gets of an answer; one list of pieces for each flush."""
    raw = b"%b / HTTP/%b\r\nHost: a\r\n\r\n" % (method.encode(), version)
    wire = Wire()
    writer = AnswerWriter(wire)  # type: ignore[arg-type]
    answer = read_answer_head(status, False, fields, method, drop=frozenset())
    request = parse_request_head(raw)
    own = b"X-Own: 1\r\n"
    answer.request_id = b"up"  # so that none is added
    writer.head(request, answer, own, b"gw", keep=keep, rewritten=rewritten)
    for some in pieces:
        writer.pieces.extend(some)
        writer.flush()
    writer.finish()
    return wire, writer


LENGTH = [(b"Content-Length", b"4")]
CODED = [(b"Transfer-Encoding", b"chunked")]


def test_length_passes():
    """A stated length stays, head and body leave in one write."""
    wire, writer = written(LENGTH, [[b"ab", b"cd"]])
    assert len(wire.writes) == 1
    assert wire.writes[0] == (
        b"HTTP/1.1 200 OK\r\nX-Own: 1\r\nContent-Length: 4\r\n\r\nabcd"
    )
    assert writer.keep


@pytest.mark.parametrize("fields", [CODED, []])
def test_no_length_is_chunked(fields):
    """Each read becomes one chunk, an empty read none; one last chunk follows."""
    wire, _ = written(fields, [[b"ab", b"c"], [], [b""], [b"d"]])
    assert b"".join(wire.writes).endswith(
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
    )


def test_rewritten_body_loses_its_length():
    """A rewritten body is chunked, because its stated length would be wrong."""
    wire, _ = written(LENGTH, [[b"ab"]], rewritten=True)
    assert b"Content-Length" not in wire.writes[0]


@pytest.mark.parametrize("fields", [CODED, []])
def test_http10_gets_the_close(fields):
    """To HTTP/1.0 an answer of unknown length is close-delimited."""
    wire, writer = written(fields, [[b"ab"]], version=b"1.0")
    assert b"".join(wire.writes).endswith(b"Connection: close\r\n\r\nab")
    assert (writer.keep, writer.until_close) == (False, True)


def test_http10_keeps_alive_with_a_length():
    """An HTTP/1.0 client gets ``Connection: keep-alive``, which is not its default."""
    wire, writer = written(LENGTH, [[b"abcd"]], version=b"1.0")
    assert b"Connection: keep-alive\r\n" in wire.writes[0]
    assert writer.keep


@pytest.mark.parametrize(
    ("status", "method", "framing"),
    [(204, "GET", b""), (304, "GET", b"Content-Length: 4\r\n"), (200, "HEAD", b"Content-Length: 4\r\n")],
)  # fmt: skip
def test_answers_without_a_body(status, method, framing):
    """An answer without body has no chunk; a stated length passes except for 204."""
    wire, _ = written(LENGTH, [], status=status, method=method)
    assert wire.writes == [status_line(status) + b"X-Own: 1\r\n" + framing + b"\r\n"]


def test_close_is_announced():
    """An answer before a close has ``Connection: close``."""
    assert b"Connection: close\r\n" in written(LENGTH, [], keep=False)[0].writes[0]


def test_status_without_a_name():
    """An unknown status gets the phrase Unknown."""
    assert status_line(799) == b"HTTP/1.1 799 Unknown\r\n"


def test_client_that_left():
    """Writing to a client that left does nothing."""
    writer = AnswerWriter(Wire())  # type: ignore[arg-type]
    writer.conn = None
    writer.chunked = True
    writer.pieces = [b"x"]
    writer.flush()
    writer.finish()
    assert not writer.pieces


@pytest.mark.parametrize(
    ("sent", "added"), [([], b"X-Request-Id: gw\r\n"), ([(b"X-Request-Id", b"a")], b"")]
)
def test_request_id_is_added_where_the_upstream_sent_none(sent, added):
    """The client gets one X-Request-Id: the upstream's, or else the gateway's."""
    wire = Wire()
    writer = AnswerWriter(wire)  # type: ignore[arg-type]
    answer = read_answer_head(204, False, sent, "GET", drop=frozenset())
    request = parse_request_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    writer.head(request, answer, b"", b"gw", keep=True, rewritten=False)
    writer.finish()
    head = b"".join(wire.writes)
    assert head.count(b"X-Request-Id: ") == 1
    assert not added or added in head


def test_interim_answer():
    """An interim answer is a status line, its fields and an empty line."""
    wire = Wire()
    AnswerWriter(wire).interim(103, b"Link: </a>\r\n")  # type: ignore[arg-type]
    assert wire.writes == [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]
