"""Raw answers of an upstream, and what the client gets."""

from __future__ import annotations

from typing import NamedTuple

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Answer(NamedTuple):
    """A literal answer, after which the upstream closes, and the expected result.

    ``body`` None: the client must notice that the body is incomplete.
    """

    name: str
    raw: bytes
    status: int
    body: bytes | None
    method: bytes = b"GET"


def bad(name: str, raw: bytes) -> Answer:
    """An answer that must not be forwarded."""
    return Answer(name, raw, 502, b"")


AMBIGUOUS: list[Answer] = [
    bad("length-and-coding", OK + LENGTH + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n"),
    bad("coding-and-length", OK + CHUNKED + LENGTH + b"\r\n2\r\n{}\r\n0\r\n\r\n"),
    bad("lengths-differ", OK + LENGTH + b"Content-Length: 3\r\n\r\n{} "),
    bad("length-list", OK + b"Content-Length: 2, 2\r\n\r\n{}"),
    bad("length-signed", OK + b"Content-Length: +2\r\n\r\n{}"),
    bad("length-empty", OK + b"Content-Length:\r\n\r\n{}"),
    bad("length-huge", OK + b"Content-Length: 99999999999999999999\r\n\r\n{}"),
    bad("coding-gzip", OK + b"Transfer-Encoding: gzip\r\n\r\n{}"),
    bad("coding-two", OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    bad("coding-empty", OK + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n"),
    bad("coding-1.0", b"HTTP/1.0 200 OK\r\n" + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n"),
    bad("version-2", b"HTTP/2.0 200 OK\r\n" + LENGTH + b"\r\n{}"),
    bad("version-0.9", b"HTTP/0.9 200 OK\r\n" + LENGTH + b"\r\n{}"),
    bad("version-icy", b"ICY 200 OK\r\n" + LENGTH + b"\r\n{}"),
    bad("status-word", b"HTTP/1.1 abc OK\r\n" + LENGTH + b"\r\n{}"),
    bad("status-long", b"HTTP/1.1 2000 OK\r\n" + LENGTH + b"\r\n{}"),
    bad("space-colon", OK + b"A : b\r\n" + LENGTH + b"\r\n{}"),
    bad("name-bad", OK + b"A(: b\r\n" + LENGTH + b"\r\n{}"),
    bad("fold", OK + b"A: b\r\n c\r\n" + LENGTH + b"\r\n{}"),
    bad("nul", OK + b"A: b\x00\r\n" + LENGTH + b"\r\n{}"),
    bad("bare-cr", OK + b"A: b\rC: d\r\n" + LENGTH + b"\r\n{}"),
    bad("no-colon", OK + b"abc\r\n" + LENGTH + b"\r\n{}"),
    bad("garbage", b"\x15\x03\x01\x00\x02\x02\x0a"),
    bad("nothing", b""),
    bad("cut-head", OK + b"Content-Le"),
]
CUT: list[Answer] = [
    Answer("short-length", OK + b"Content-Length: 9\r\n\r\n{}", 200, None),
    Answer("no-last-chunk", OK + CHUNKED + b"\r\n2\r\n{}\r\n", 200, None),
    Answer("half-chunk", OK + CHUNKED + b"\r\n9\r\n{}", 200, None),
    Answer("half-last-chunk", OK + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n", 200, None),
    Answer("bad-chunk", OK + CHUNKED + b"\r\n2\r\n{}\r\nxyz\r\n", 200, None),
    Answer("long-chunk", OK + CHUNKED + b"\r\n2\r\n{}{}\r\n0\r\n\r\n", 200, None),
]
WHOLE: list[Answer] = [
    Answer("length", OK + LENGTH + b"\r\n{}", 200, b"{}"),
    Answer("spaced", OK + b"A:  b \r\nB:\r\n" + LENGTH + b"\r\n{}", 200, b"{}"),
    Answer("chunked", OK + CHUNKED + b"\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", 200, b"{}"),
    Answer("trailer", OK + CHUNKED + b"\r\n2\r\n{}\r\n0\r\nA: b\r\n\r\n", 200, b"{}"),
    Answer("extension", OK + CHUNKED + b"\r\n2;a=b\r\n{}\r\n0\r\n\r\n", 200, b"{}"),
    Answer("until-close", OK + b"\r\n{}", 200, b"{}"),
    Answer("until-close-1.0", b"HTTP/1.0 200 OK\r\n\r\n{}", 200, b"{}"),
    Answer("no-reason", b"HTTP/1.1 200 \r\n" + LENGTH + b"\r\n{}", 200, b"{}"),
    Answer("empty", OK + b"Content-Length: 0\r\n\r\n", 200, b""),
    Answer("no-content", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    Answer(
        "not-modified", b"HTTP/1.1 304 Not Modified\r\n" + LENGTH + b"\r\n", 304, b""
    ),
    Answer("head", OK + LENGTH + b"\r\n", 200, b"", b"HEAD"),
    Answer("head-chunked", OK + CHUNKED + b"\r\n", 200, b"", b"HEAD"),
    Answer(
        "continue-first",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + LENGTH + b"\r\n{}",
        200,
        b"{}",
    ),
    Answer("error", b"HTTP/1.1 500 Oops\r\n" + LENGTH + b"\r\n{}", 500, b"{}"),
]
ANSWERS = [*AMBIGUOUS, *CUT, *WHOLE]
