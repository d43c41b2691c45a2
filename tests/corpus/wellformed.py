"""Raw requests that must be accepted, with the expected result of parsing."""

from __future__ import annotations

from typing import NamedTuple

from tests.corpus.malformed import BODY, CHUNKED, HOST, JSON, PATH, chunks, get, sized


class Valid(NamedTuple):
    """One raw request, its method, target as forwarded, and decoded body."""

    name: str
    raw: bytes
    method: str
    target: bytes
    body: bytes = b""


# A path that is not metered: any body is accepted.
PLAIN = b"/x"


def plain(raw: bytes) -> bytes:
    """The same request for the path that is not metered."""
    return raw.replace(PATH, PLAIN, 1)


TARGET = PATH
CHUNKED_BODY = b'5\r\n{"mod\r\n16\r\nel":"m","messages":[]}\r\n0\r\n\r\n'

VALID: list[Valid] = [
    Valid("get", get(), "GET", b"/v1/models"),
    Valid("get-crlf-lead", b"\r\n" + get(), "GET", b"/v1/models"),
    Valid("get-escapes", get(b"/a%2Fb//c/d?x=%00&y"), "GET", b"/a%2Fb//c/d?x=%00&y"),
    Valid("get-odd-bytes", get(b"/a\\b\"<>^`{|}'"), "GET", b"/a\\b\"<>^`{|}'"),
    Valid("get-double-slash", get(b"//evil.test/x"), "GET", b"//evil.test/x"),
    Valid("get-absolute", get(b"http://other.test:81/a?b"), "GET", b"/a?b"),
    Valid("get-absolute-bare", get(b"HTTPS://other.test"), "GET", b"/"),
    Valid("get-absolute-query", get(b"http://other.test?b"), "GET", b"/?b"),
    Valid("get-1.0", b"GET / HTTP/1.0\r\n\r\n", "GET", b"/"),
    Valid("get-v6-host", b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", "GET", b"/"),
    Valid("get-host-port", b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", "GET", b"/"),
    Valid("get-obs-text", get(fields=b"X-Note: caf\xc3\xa9\r\n"), "GET", b"/v1/models"),
    Valid("get-empty-field", get(fields=b"X-Note:\r\n"), "GET", b"/v1/models"),
    Valid("get-spaced-field", get(fields=b"X-Note:\t b \t\r\n"), "GET", b"/v1/models"),
    Valid("get-underscore", get(fields=b"x_note: b\r\n"), "GET", b"/v1/models"),
    Valid("get-repeated", get(fields=b"A: b\r\nA: c\r\n"), "GET", b"/v1/models"),
    Valid(
        "get-close-te",
        get(fields=b"Connection: close, te\r\nTE: trailers\r\n"),
        "GET",
        b"/v1/models",
    ),
    Valid("options-star", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", "OPTIONS", b"*"),
    Valid(
        "options-absolute",
        b"OPTIONS http://a.test HTTP/1.1\r\n" + HOST + b"\r\n",
        "OPTIONS",
        b"*",
    ),
    Valid("head", get().replace(b"GET", b"HEAD"), "HEAD", b"/v1/models"),
    Valid(
        "delete-with-body", sized().replace(b"POST", b"DELETE"), "DELETE", TARGET, BODY
    ),
    Valid("get-with-body", sized().replace(b"POST", b"GET"), "GET", TARGET, BODY),
    Valid("post", sized(), "POST", TARGET, BODY),
    Valid("post-empty", plain(sized(body=b"")), "POST", PLAIN),
    Valid("post-no-length", b"POST /x HTTP/1.1\r\n" + HOST + b"\r\n", "POST", b"/x"),
    Valid("post-1.0", sized().replace(b"HTTP/1.1", b"HTTP/1.0"), "POST", TARGET, BODY),
    Valid(
        "post-zeros",
        b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 002\r\n\r\n{}",
        "POST",
        b"/x",
        b"{}",
    ),
    Valid(
        "post-h2c",
        sized(
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        ),
        "POST",
        TARGET,
        BODY,
    ),
    Valid(
        "post-keys",
        sized(b"Authorization: Bearer a\r\nx-api-key: b\r\n"),
        "POST",
        TARGET,
        BODY,
    ),
    Valid("chunked", chunks(CHUNKED_BODY), "POST", TARGET, BODY),
    Valid("chunked-empty", plain(chunks(b"0\r\n\r\n")), "POST", PLAIN),
    Valid(
        "chunked-case",
        b"POST /x HTTP/1.1\r\n"
        + HOST
        + JSON
        + b"transfer-encoding: CHUNKED\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "POST",
        b"/x",
        b"{}",
    ),
    Valid(
        "chunked-zeros",
        plain(chunks(b"00000002\r\n{}\r\n000\r\n\r\n")),
        "POST",
        PLAIN,
        b"{}",
    ),
    Valid(
        "chunked-extension",
        plain(chunks(b'2;a;b=c;d="e\\"f"\r\n{}\r\n0;x\r\n\r\n')),
        "POST",
        PLAIN,
        b"{}",
    ),
    Valid(
        "chunked-trailer",
        plain(chunks(b"2\r\n{}\r\n0\r\nX-Sum: 1\r\nServer-Timing: a\r\n\r\n")),
        "POST",
        PLAIN,
        b"{}",
    ),
    Valid(
        "chunked-looks-like-head",
        plain(chunks(b"4\r\n\r\n\r\n\r\n0\r\n\r\n")),
        "POST",
        PLAIN,
        b"\r\n\r\n",
    ),
    Valid(
        "chunked-binary",
        b"POST /x HTTP/1.1\r\n"
        + HOST
        + CHUNKED
        + b"\r\n4\r\n\x00\xff\r\n\r\n0\r\n\r\n",
        "POST",
        b"/x",
        b"\x00\xff\r\n",
    ),
]
