"""Raw requests that must be refused, each with its answer and the rule it breaks.

`raw` is everything the client sends. `status` is the expected answer; 0 means that the
client leaves before an answer is due. `passes` is the number of well-formed requests
before the fault, which reach the upstream. `rule` is a row of docs/http.md. Nothing
else of `raw` may reach an upstream. The path is a metered endpoint, so that bodies are
read before anything is forwarded.
"""

from __future__ import annotations

from typing import NamedTuple

PATH = b"/v1/chat/completions"
HOST = b"Host: gateway.test\r\n"
JSON = b"Content-Type: application/json\r\n"
BODY = b'{"model":"m","messages":[]}'
CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Case(NamedTuple):
    """One raw request; fields as described above."""

    name: str
    raw: bytes
    status: int
    rule: str
    passes: int = 0


def post(fields: bytes, body: bytes = BODY, version: bytes = b"1.1") -> bytes:
    """A POST to the metered path with exactly these header lines besides Host."""
    line = b"POST " + PATH + b" HTTP/" + version + b"\r\n"
    return line + HOST + JSON + fields + b"\r\n" + body


def sized(fields: bytes = b"", body: bytes = BODY) -> bytes:
    """A POST with a correct Content-Length and these further header lines."""
    return post(b"Content-Length: %d\r\n" % len(body) + fields, body)


def get(target: bytes = b"/v1/models", fields: bytes = b"") -> bytes:
    """A GET for this target."""
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + fields + b"\r\n"


def hosted(lines: bytes, version: bytes = b"1.1", target: bytes = b"/") -> bytes:
    """A GET with exactly these Host lines."""
    return b"GET " + target + b" HTTP/" + version + b"\r\n" + lines + b"\r\n"


def chunks(body: bytes) -> bytes:
    """A chunked POST with this literal body."""
    return post(CHUNKED, body)


GOOD = sized()
N = b"%d" % len(BODY)

FRAMING = [
    Case("cl-and-te", post(b"Content-Length: 5\r\n" + CHUNKED), 400, "cl-te"),
    Case("te-and-cl", post(CHUNKED + b"Content-Length: 5\r\n"), 400, "cl-te"),
    Case("cl-zero-and-te", post(CHUNKED + b"Content-Length: 0\r\n"), 400, "cl-te"),
    Case("cl-bad-and-te", post(CHUNKED + b"Content-Length: x\r\n"), 400, "cl-te"),
    Case("cl-twice-equal", sized(b"Content-Length: " + N + b"\r\n"), 400, "cl-repeat"),
    Case("cl-twice-differs", sized(b"Content-Length: 3\r\n"), 400, "cl-repeat"),
    Case("cl-twice-other-case", sized(b"content-length: 3\r\n"), 400, "cl-repeat"),
    Case("cl-list-equal", post(b"Content-Length: 5, 5\r\n"), 400, "cl-bad"),
    Case("cl-list-differs", post(b"Content-Length: 5,6\r\n"), 400, "cl-bad"),
    Case("cl-empty", post(b"Content-Length:\r\n"), 400, "cl-bad"),
    Case("cl-blank", post(b"Content-Length: \t \r\n"), 400, "cl-bad"),
    Case("cl-plus", post(b"Content-Length: +5\r\n"), 400, "cl-bad"),
    Case("cl-minus", post(b"Content-Length: -5\r\n"), 400, "cl-bad"),
    Case("cl-minus-zero", post(b"Content-Length: -0\r\n"), 400, "cl-bad"),
    Case("cl-hex", post(b"Content-Length: 0x5\r\n"), 400, "cl-bad"),
    Case("cl-hex-digits", post(b"Content-Length: 1b\r\n"), 400, "cl-bad"),
    Case("cl-float", post(b"Content-Length: 5.0\r\n"), 400, "cl-bad"),
    Case("cl-exponent", post(b"Content-Length: 1e1\r\n"), 400, "cl-bad"),
    Case("cl-underscore", post(b"Content-Length: 1_0\r\n"), 400, "cl-bad"),
    Case("cl-inner-space", post(b"Content-Length: 1 0\r\n"), 400, "cl-bad"),
    Case("cl-comma-end", post(b"Content-Length: 5,\r\n"), 400, "cl-bad"),
    Case("cl-semicolon", post(b"Content-Length: 5;a\r\n"), 400, "cl-bad"),
    Case("cl-quoted", post(b'Content-Length: "5"\r\n'), 400, "cl-bad"),
    Case(
        "cl-overflow-64",
        post(b"Content-Length: 18446744073709551621\r\n"),
        400,
        "cl-bad",
    ),
    Case(
        "cl-overflow-long",
        post(b"Content-Length: " + b"9" * 200 + b"\r\n"),
        400,
        "cl-bad",
    ),
    Case("cl-obs-digit", post(b"Content-Length: \xb2\r\n"), 400, "cl-bad"),
    Case("te-empty", post(b"Transfer-Encoding:\r\n"), 400, "te-empty"),
    Case("te-blank", post(b"Transfer-Encoding: \t\r\n"), 400, "te-empty"),
    Case("te-gzip", post(b"Transfer-Encoding: gzip\r\n"), 400, "te-other"),
    Case("te-identity", post(b"Transfer-Encoding: identity\r\n"), 400, "te-other"),
    Case(
        "te-gzip-chunked",
        post(b"Transfer-Encoding: gzip, chunked\r\n"),
        400,
        "te-other",
    ),
    Case(
        "te-chunked-gzip",
        post(b"Transfer-Encoding: chunked, gzip\r\n"),
        400,
        "te-other",
    ),
    Case(
        "te-chunked-identity",
        post(b"Transfer-Encoding: chunked, identity\r\n"),
        400,
        "te-other",
    ),
    Case(
        "te-identity-chunked",
        post(b"Transfer-Encoding: identity, chunked\r\n"),
        400,
        "te-other",
    ),
    Case(
        "te-chunked-chunked",
        post(b"Transfer-Encoding: chunked, chunked\r\n"),
        400,
        "te-other",
    ),
    Case("te-comma-chunked", post(b"Transfer-Encoding: ,chunked\r\n"), 400, "te-other"),
    Case("te-chunked-comma", post(b"Transfer-Encoding: chunked,\r\n"), 400, "te-other"),
    Case(
        "te-two-lines", post(b"Transfer-Encoding: gzip\r\n" + CHUNKED), 400, "te-repeat"
    ),
    Case("te-twice", post(CHUNKED + CHUNKED), 400, "te-repeat"),
    Case("te-quoted", post(b'Transfer-Encoding: "chunked"\r\n'), 400, "te-other"),
    Case("te-parameter", post(b"Transfer-Encoding: chunked;q=1\r\n"), 400, "te-other"),
    Case("te-xchunked", post(b"Transfer-Encoding: xchunked\r\n"), 400, "te-other"),
    Case("te-chunked-x", post(b"Transfer-Encoding: chunkedx\r\n"), 400, "te-other"),
    Case("te-chunk", post(b"Transfer-Encoding: chunk\r\n"), 400, "te-other"),
    Case(
        "te-vertical-tab", post(b"Transfer-Encoding: \x0bchunked\r\n"), 400, "control"
    ),
    Case("te-nbsp", post(b"Transfer-Encoding: \xa0chunked\r\n"), 400, "te-other"),
    Case("te-on-1.0", post(CHUNKED, b"0\r\n\r\n", b"1.0"), 400, "te-http10"),
    Case(
        "te-cl-on-1.0",
        post(CHUNKED + b"Content-Length: 5\r\n", BODY, b"1.0"),
        400,
        "te-http10",
    ),
    Case("te-underscore", post(b"Transfer_Encoding: chunked\r\n"), 400, "lookalike"),
    Case("cl-underscored", sized(b"Content_Length: 5\r\n"), 400, "lookalike"),
    Case("xff-underscore", sized(b"X_Forwarded_For: 127.0.0.1\r\n"), 400, "lookalike"),
    Case("verdict-underscore", sized(b"x_tidegate_verdict: a\r\n"), 400, "lookalike"),
    Case(
        "trace-with-length",
        hosted(HOST + b"Content-Length: 3\r\n").replace(b"GET", b"TRACE") + b"abc",
        400,
        "trace-body",
    ),
    Case(
        "trace-chunked",
        hosted(HOST + CHUNKED).replace(b"GET", b"TRACE") + b"0\r\n\r\n",
        400,
        "trace-body",
    ),
    Case(
        "websocket-with-body",
        sized(b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        400,
        "upgrade-body",
    ),
]

CHUNK_BODIES = {
    "0x-prefix": (b"0x5\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "plus": (b"+5\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "minus": (b"-5\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "leading-space": (b" 5\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "trailing-space": (b"5 \r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "trailing-tab": (b"5\t\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "inner-space": (b"1 0\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "empty": (b"\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "no-hex": (b"g\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "underscore": (b"0_5\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "17-digits": (b"10000000000000005\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "overflow-64": (b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "leading-zeros": (b"000000000005\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "thousand-zeros": (b"0" * 1000 + b"5\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "last-many-zeros": (b"5\r\nhello\r\n0000000000\r\n\r\n", "chunk-size"),
    "lf-after-size": (b"5\nhello\r\n0\r\n\r\n", "chunk-line"),
    "cr-after-size": (b"5\rhello\r\n0\r\n\r\n", "chunk-line"),
    "crcrlf-after-size": (b"5\r\r\nhello\r\n0\r\n\r\n", "chunk-line"),
    "lf-after-content": (b"5\r\nhello\n0\r\n\r\n", "chunk-line"),
    "cr-after-content": (b"5\r\nhello\r0\r\n\r\n", "chunk-line"),
    "no-end-of-content": (b"5\r\nhello0\r\n\r\n", "chunk-line"),
    "longer-than-size": (b"4\r\nhello\r\n0\r\n\r\n", "chunk-line"),
    "shorter-than-size": (b"6\r\nhello\r\n0\r\n\r\n", "chunk-line"),
    "lf-after-last": (b"5\r\nhello\r\n0\n\n", "chunk-line"),
    "lf-at-end": (b"5\r\nhello\r\n0\r\n\n", "chunk-line"),
    "nul-in-size": (b"5\x00\r\nhello\r\n0\r\n\r\n", "chunk-size"),
    "ext-lf": (b"5;a\nhello\r\n0\r\n\r\n", "chunk-line"),
    "ext-cr": (b"5;a\rb\r\nhello\r\n0\r\n\r\n", "chunk-ext"),
    "ext-control": (b"5;a\x01\r\nhello\r\n0\r\n\r\n", "chunk-ext"),
    "ext-empty": (b"5;\r\nhello\r\n0\r\n\r\n", "chunk-ext"),
    "ext-space": (b"5; a\r\nhello\r\n0\r\n\r\n", "chunk-ext"),
    "ext-no-value": (b"5;a=\r\nhello\r\n0\r\n\r\n", "chunk-ext"),
    "ext-open-quote": (b'5;a="b\r\nhello\r\n0\r\n\r\n', "chunk-ext"),
    "ext-too-long": (b"5;a=" + b"b" * 300 + b"\r\nhello\r\n0\r\n\r\n", "chunk-ext"),
    "ext-never-ends": (b"5;a=" + b"b" * 70_000, "chunk-ext"),
    "ext-all-too-long": (
        (b"1;a=" + b"b" * 200 + b"\r\nx\r\n") * 90 + b"0\r\n\r\n",
        "chunk-ext",
    ),
    "trailer-length": (b"0\r\nContent-Length: 5\r\n\r\n", "trailer"),
    "trailer-coding": (b"0\r\nTransfer-Encoding: chunked\r\n\r\n", "trailer"),
    "trailer-host": (b"0\r\nHost: other.test\r\n\r\n", "trailer"),
    "trailer-authorization": (b"0\r\nAuthorization: Bearer x\r\n\r\n", "trailer"),
    "trailer-api-key": (b"0\r\nX-API-Key: x\r\n\r\n", "trailer"),
    "trailer-forwarded-for": (b"0\r\nX-Forwarded-For: ::1\r\n\r\n", "trailer"),
    "trailer-underscore": (b"0\r\ncontent_length: 5\r\n\r\n", "trailer"),
    "trailer-type": (b"0\r\nContent-Type: text/plain\r\n\r\n", "trailer"),
    "trailer-no-colon": (b"0\r\nabc\r\n\r\n", "trailer-syntax"),
    "trailer-space-colon": (b"0\r\nA : b\r\n\r\n", "trailer-syntax"),
    "trailer-fold": (b"0\r\nA: b\r\n c\r\n\r\n", "trailer-syntax"),
    "trailer-bare-lf": (b"0\r\nA: b\n\r\n", "trailer-syntax"),
    "trailer-nul": (b"0\r\nA: \x00\r\n\r\n", "trailer-syntax"),
    "trailer-too-large": (b"0\r\nA: " + b"b" * 9000 + b"\r\n\r\n", "trailer-size"),
    "trailer-too-many": (b"0\r\n" + b"A: b\r\n" * 2000 + b"\r\n", "trailer-size"),
    "request-as-trailer": (b"0\r\nGET /admin HTTP/1.1\r\n\r\n", "trailer-syntax"),
}
CHUNKS = [
    Case("chunk-" + name, chunks(body), 400, rule)
    for name, (body, rule) in CHUNK_BODIES.items()
]

REQUEST_LINE = [
    Case(
        "two-spaces-target",
        b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
        400,
        "request-line",
    ),
    Case(
        "two-spaces-version",
        b"GET /  HTTP/1.1\r\n" + HOST + b"\r\n",
        400,
        "request-line",
    ),
    Case("leading-space", b" GET / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "request-line"),
    Case(
        "trailing-space", b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400, "request-line"
    ),
    Case(
        "tab-separator", b"GET\t/\tHTTP/1.1\r\n" + HOST + b"\r\n", 400, "request-line"
    ),
    Case("tab-in-target", get(b"/a\tb"), 400, "target-bytes"),
    Case("space-in-target", get(b"/a b"), 400, "request-line"),
    Case("no-target", b"GET HTTP/1.1\r\n" + HOST + b"\r\n", 400, "request-line"),
    Case("empty-target", b"GET  HTTP/1.1\r\n" + HOST + b"\r\n", 400, "request-line"),
    Case("no-version", b"GET /\r\n" + HOST + b"\r\n", 400, "request-line"),
    Case("http-0.9", b"GET /\r\n", 400, "request-line"),
    Case("version-0.9", hosted(HOST, b"0.9"), 400, "version"),
    Case("version-1.2", hosted(HOST, b"1.2"), 400, "version"),
    Case("version-2.0", hosted(HOST, b"2.0"), 400, "version"),
    Case("version-3", hosted(HOST, b"3"), 400, "version"),
    Case("version-1", hosted(HOST, b"1"), 400, "version"),
    Case("version-1.10", hosted(HOST, b"1.10"), 400, "version"),
    Case("version-01.1", hosted(HOST, b"01.1"), 400, "version"),
    Case("version-comma", hosted(HOST, b"1,1"), 400, "version"),
    Case("version-lower", b"GET / http/1.1\r\n" + HOST + b"\r\n", 400, "version"),
    Case("version-rtsp", b"GET / RTSP/1.0\r\n" + HOST + b"\r\n", 400, "version"),
    Case("version-ice", b"SOURCE / ICE/1.0\r\n" + HOST + b"\r\n", 400, "version"),
    Case("h2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "version"),
    Case(
        "tls-hello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x07" * 100,
        400,
        "control",
    ),
    Case("method-lower", b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "method-case"),
    Case("method-mixed", b"Post / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "method-case"),
    Case("method-bad", b"GE(T / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "method-bad"),
    Case("method-obs", b"G\xc9T / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "method-bad"),
    Case(
        "method-unknown",
        b"FROBNICATE / HTTP/1.1\r\n" + HOST + b"\r\n",
        501,
        "method-unknown",
    ),
    Case(
        "method-rtsp",
        b"DESCRIBE / HTTP/1.1\r\n" + HOST + b"\r\n",
        501,
        "method-unknown",
    ),
    Case(
        "connect",
        b"CONNECT upstream.test:443 HTTP/1.1\r\nHost: upstream.test:443\r\n\r\n",
        405,
        "connect",
    ),
    Case("connect-path", b"CONNECT / HTTP/1.1\r\n" + HOST + b"\r\n", 405, "connect"),
    Case("fragment", get(b"/v1/models#top"), 400, "target-bytes"),
    Case("fragment-only", get(b"#"), 400, "target-bytes"),
    Case("target-obs-text", get(b"/caf\xc3\xa9"), 400, "target-bytes"),
    Case("target-nul", get(b"/a\x00b"), 400, "control"),
    Case("target-del", get(b"/a\x7fb"), 400, "control"),
    Case("target-relative", get(b"v1/models"), 400, "target-form"),
    Case("target-query-only", get(b"?a=b"), 400, "target-form"),
    Case("target-backslash", get(b"\\v1\\models"), 400, "target-form"),
    Case("target-authority", get(b"gateway.test:80"), 400, "target-form"),
    Case("get-asterisk", get(b"*"), 400, "asterisk"),
    Case(
        "options-asterisk-path",
        get(b"*/a").replace(b"GET", b"OPTIONS"),
        400,
        "target-form",
    ),
    Case("absolute-userinfo", get(b"http://user:pw@gateway.test/"), 400, "authority"),
    Case("absolute-empty-host", get(b"http:///v1/models"), 400, "authority"),
    Case("absolute-bad-port", get(b"http://gateway.test:8o/"), 400, "authority"),
    Case("absolute-list", get(b"http://a.test,b.test/"), 400, "authority"),
    Case("absolute-backslash", get(b"http://a.test\\@b.test/"), 400, "authority"),
    Case("absolute-ftp", get(b"ftp://gateway.test/"), 400, "target-form"),
    Case("absolute-file", get(b"file:///etc/passwd"), 400, "target-form"),
    Case("absolute-one-slash", get(b"http:/gateway.test/"), 400, "target-form"),
    Case(
        "absolute-no-host-field",
        hosted(b"", target=b"http://gateway.test/"),
        400,
        "host-missing",
    ),
]

HOSTS = [
    Case("host-missing", hosted(b""), 400, "host-missing"),
    Case("host-empty", hosted(b"Host:\r\n"), 400, "host-bad"),
    Case("host-blank", hosted(b"Host: \t \r\n"), 400, "host-bad"),
    Case("host-empty-1.0", hosted(b"Host:\r\n", b"1.0"), 400, "host-bad"),
    Case("host-twice", hosted(HOST + b"Host: other.test\r\n"), 400, "host-repeat"),
    Case("host-twice-equal", hosted(HOST + HOST), 400, "host-repeat"),
    Case("host-twice-case", hosted(HOST + b"hOST: other.test\r\n"), 400, "host-repeat"),
    Case(
        "host-twice-absolute",
        hosted(HOST + HOST, target=b"http://a.test/"),
        400,
        "host-repeat",
    ),
    Case("host-list", hosted(b"Host: a.test, b.test\r\n"), 400, "host-bad"),
    Case("host-list-tight", hosted(b"Host: a.test,b.test\r\n"), 400, "host-bad"),
    Case("host-userinfo", hosted(b"Host: user@a.test\r\n"), 400, "host-bad"),
    Case("host-userinfo-pw", hosted(b"Host: user:pw@a.test\r\n"), 400, "host-bad"),
    Case("host-path", hosted(b"Host: a.test/admin\r\n"), 400, "host-bad"),
    Case("host-backslash", hosted(b"Host: a.test\\admin\r\n"), 400, "host-bad"),
    Case("host-query", hosted(b"Host: a.test?b\r\n"), 400, "host-bad"),
    Case("host-fragment", hosted(b"Host: a.test#b\r\n"), 400, "host-bad"),
    Case("host-scheme", hosted(b"Host: http://a.test\r\n"), 400, "host-bad"),
    Case("host-space", hosted(b"Host: a test\r\n"), 400, "host-bad"),
    Case("host-port-word", hosted(b"Host: a.test:http\r\n"), 400, "host-bad"),
    Case("host-port-long", hosted(b"Host: a.test:000080\r\n"), 400, "host-bad"),
    Case("host-port-range", hosted(b"Host: a.test:70000\r\n"), 400, "host-bad"),
    Case("host-two-ports", hosted(b"Host: a.test:80:81\r\n"), 400, "host-bad"),
    Case("host-only-port", hosted(b"Host: :80\r\n"), 400, "host-bad"),
    Case("host-open-bracket", hosted(b"Host: [::1\r\n"), 400, "host-bad"),
    Case("host-bad-v6", hosted(b"Host: [::1::2]\r\n"), 400, "host-bad"),
    Case("host-bare-v6", hosted(b"Host: ::1\r\n"), 400, "host-bad"),
    Case("host-obs-text", hosted(b"Host: \xe4.test\r\n"), 400, "host-bad"),
    Case("host-quote", hosted(b'Host: "a.test"\r\n'), 400, "host-bad"),
    Case("host-percent", hosted(b"Host: a%2ftest\r\n"), 400, "host-bad"),
    Case("host-semicolon", hosted(b"Host: a.test;b\r\n"), 400, "host-bad"),
    Case("host-too-long", hosted(b"Host: " + b"a" * 300 + b"\r\n"), 400, "host-bad"),
    Case(
        "host-bad-absolute",
        hosted(b"Host: u@a\r\n", target=b"http://a.test/"),
        400,
        "host-bad",
    ),
]

LINES = [
    Case("lf-request-line", b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400, "bare-crlf"),
    Case("lf-everywhere", b"GET / HTTP/1.1\nHost: gateway.test\n\n", 400, "bare-crlf"),
    Case("lf-in-field", get(fields=b"A: b\nC: d\r\n"), 400, "bare-crlf"),
    Case("lf-at-end", b"GET / HTTP/1.1\r\n" + HOST + b"\n", 400, "bare-crlf"),
    Case("lf-before-crlf", get(fields=b"A: b\n\r\n"), 400, "bare-crlf"),
    Case("cr-in-field", get(fields=b"A: b\rC: d\r\n"), 400, "bare-crlf"),
    Case("cr-request-line", b"GET / HTTP/1.1\r" + HOST + b"\r\n", 400, "bare-crlf"),
    Case("cr-everywhere", b"GET / HTTP/1.1\rHost: gateway.test\r\r", 400, "bare-crlf"),
    Case("crcrlf", get(fields=b"A: b\r\r\n"), 400, "bare-crlf"),
    Case("lf-lead", b"\n" + GOOD, 400, "bare-crlf"),
    Case("cr-lead", b"\r" + GOOD, 400, "bare-crlf"),
    Case("two-crlf-lead", b"\r\n\r\n" + GOOD, 400, "leading-crlf"),
    Case("many-crlf-lead", b"\r\n" * 1000 + GOOD, 400, "leading-crlf"),
    Case("lf-smuggle", b"GET / HTTP/1.1\nHost: a\n\n" + GOOD, 400, "bare-crlf"),
    Case("fold-space", get(fields=b"A: b\r\n c\r\n"), 400, "obs-fold"),
    Case("fold-tab", get(fields=b"A: b\r\n\tc\r\n"), 400, "obs-fold"),
    Case("fold-first", b"GET / HTTP/1.1\r\n " + HOST + b"\r\n", 400, "obs-fold"),
    Case("fold-length", post(b"Content-Length:\r\n 5\r\n", b"hello"), 400, "obs-fold"),
    Case("fold-coding", post(b"Transfer-Encoding:\r\n chunked\r\n"), 400, "obs-fold"),
    Case("fold-empty", get(fields=b"A: b\r\n \r\n"), 400, "obs-fold"),
    Case("nul-in-value", get(fields=b"A: b\x00c\r\n"), 400, "control"),
    Case("nul-in-name", get(fields=b"A\x00: b\r\n"), 400, "control"),
    Case("bell-in-value", get(fields=b"A: b\x07\r\n"), 400, "control"),
    Case("escape-in-value", get(fields=b"A: \x1b[2J\r\n"), 400, "control"),
    Case("del-in-value", get(fields=b"A: b\x7f\r\n"), 400, "control"),
    Case("form-feed", get(fields=b"A:\x0cb\r\n"), 400, "control"),
    Case("nul-first", b"\x00" + GOOD, 400, "control"),
    Case("space-colon", get(fields=b"A : b\r\n"), 400, "name"),
    Case("tab-colon", get(fields=b"A\t: b\r\n"), 400, "name"),
    Case("space-colon-length", post(b"Content-Length : 5\r\n"), 400, "name"),
    Case("space-colon-coding", post(b"Transfer-Encoding : chunked\r\n"), 400, "name"),
    Case("name-empty", get(fields=b": b\r\n"), 400, "name"),
    Case("name-space", get(fields=b"A B: c\r\n"), 400, "name"),
    Case("name-paren", get(fields=b"A(B): c\r\n"), 400, "name"),
    Case("name-slash", get(fields=b"A/B: c\r\n"), 400, "name"),
    Case("name-at", get(fields=b"A@B: c\r\n"), 400, "name"),
    Case("name-bracket", get(fields=b"[A]: c\r\n"), 400, "name"),
    Case("name-quote", get(fields=b'"A": c\r\n'), 400, "name"),
    Case("name-obs-text", get(fields=b"\xc4: c\r\n"), 400, "name"),
    Case("name-long-s", post(b"Tran\xc5\xbffer-Encoding: chunked\r\n"), 400, "name"),
    Case("no-colon", get(fields=b"Abc\r\n"), 400, "colon"),
    Case("no-colon-known", get(fields=b"Host\r\n"), 400, "colon"),
    Case("request-in-head", get(fields=b"GET /admin HTTP/1.1\r\n"), 400, "colon"),
]

FIELDS = [
    Case("connection-host", sized(b"Connection: close, Host\r\n"), 400, "connection"),
    Case(
        "connection-length", sized(b"Connection: content-length\r\n"), 400, "connection"
    ),
    Case(
        "connection-coding",
        chunks(b"0\r\n\r\n").replace(HOST, HOST + b"Connection: Transfer-Encoding\r\n"),
        400,
        "connection",
    ),
    Case("connection-auth", sized(b"Connection: Authorization\r\n"), 400, "connection"),
    Case("connection-api-key", sized(b"Connection: x-api-key\r\n"), 400, "connection"),
    Case("connection-type", sized(b"Connection: Content-Type\r\n"), 400, "connection"),
    Case("connection-cookie", sized(b"Connection: cookie\r\n"), 400, "connection"),
    Case(
        "connection-xff", sized(b"Connection: X-Forwarded-For\r\n"), 400, "connection"
    ),
    Case(
        "connection-xfp", sized(b"Connection: x-forwarded-proto\r\n"), 400, "connection"
    ),
    Case(
        "connection-xfh", sized(b"Connection: x-forwarded-host\r\n"), 400, "connection"
    ),
    Case(
        "connection-xfport",
        sized(b"Connection: X-Forwarded-Port\r\n"),
        400,
        "connection",
    ),
    Case(
        "connection-second-line",
        sized(b"Connection: close\r\nConnection: Host\r\n"),
        400,
        "connection",
    ),
    Case("connection-bad", sized(b"Connection: clo se\r\n"), 400, "connection-bad"),
    Case("connection-quoted", sized(b'Connection: "close"\r\n'), 400, "connection-bad"),
    Case(
        "upgrade-bad",
        get(fields=b"Connection: upgrade\r\nUpgrade: web socket\r\n"),
        400,
        "upgrade-bad",
    ),
    Case(
        "auth-twice",
        sized(b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"),
        400,
        "single",
    ),
    Case(
        "auth-twice-case",
        sized(b"Authorization: Bearer a\r\nauthorization: Bearer b\r\n"),
        400,
        "single",
    ),
    Case("x-api-key-twice", sized(b"x-api-key: a\r\nX-Api-Key: b\r\n"), 400, "single"),
    Case("api-key-twice", sized(b"api-key: a\r\napi-key: a\r\n"), 400, "single"),
    Case(
        "goog-key-twice",
        sized(b"x-goog-api-key: a\r\nx-goog-api-key: b\r\n"),
        400,
        "single",
    ),
    Case("type-twice", sized(b"Content-Type: text/plain\r\n"), 400, "single"),
    Case("expect-other", sized(b"Expect: 200-ok\r\n"), 417, "expect"),
    Case("expect-list", sized(b"Expect: 100-continue, other\r\n"), 417, "expect"),
    Case("expect-empty", sized(b"Expect:\r\n"), 417, "expect"),
    Case(
        "trace-hops-bad",
        hosted(HOST + b"Max-Forwards: -1\r\n").replace(b"GET", b"TRACE"),
        400,
        "hops",
    ),
    Case(
        "options-hops-bad",
        hosted(HOST + b"Max-Forwards: x\r\n").replace(b"GET", b"OPTIONS"),
        400,
        "hops",
    ),
]

LIMITS = [
    Case(
        "fields-too-many",
        get(fields=b"".join(b"A%d: b\r\n" % i for i in range(2000))),
        431,
        "count",
    ),
    Case(
        "field-too-large",
        get(fields=b"A: " + b"b" * 1_000_000 + b"\r\n"),
        431,
        "head-size",
    ),
    Case(
        "fields-too-large",
        get(fields=(b"A: " + b"b" * 4000 + b"\r\n") * 90),
        431,
        "head-size",
    ),
    Case("head-never-ends", get(fields=b"A: " + b"b" * 640_000)[:-2], 431, "head-size"),
    Case("target-too-long", get(b"/" + b"a" * 40_000), 414, "target-size"),
    Case("target-huge", get(b"/" + b"a" * 1_000_000), 414, "target-size"),
    Case(
        "body-too-large",
        post(b"Content-Length: 100000000000000000\r\n"),
        413,
        "body-size",
    ),
]

LATER = [
    Case("second-bad-version", GOOD + hosted(HOST, b"2.0"), 400, "version", 1),
    Case(
        "second-bare-lf",
        GOOD + b"GET / HTTP/1.1\n" + HOST + b"\r\n",
        400,
        "bare-crlf",
        1,
    ),
    Case(
        "body-longer-than-length",
        sized() + b"extra bytes\r\n\r\n",
        400,
        "request-line",
        1,
    ),
    Case(
        "second-cl-te", GOOD + post(b"Content-Length: 5\r\n" + CHUNKED), 400, "cl-te", 1
    ),
    Case("second-bad-chunk", GOOD + chunks(b"xyz\r\n"), 400, "chunk-size", 1),
    Case("third-no-host", GOOD + GOOD + hosted(b""), 400, "host-missing", 2),
]

CUT = [
    Case("cut-head", b"POST " + PATH + b" HTTP/1.1\r\nHost: gatew", 0, "cut"),
    Case("cut-length", post(b"Content-Length: 100\r\n"), 0, "cut"),
    Case("cut-chunk", chunks(b"ff\r\nhello"), 0, "cut"),
    Case("cut-last-chunk", chunks(b"5\r\nhello\r\n"), 0, "cut"),
    Case("cut-end-of-last-chunk", chunks(b"5\r\nhello\r\n0\r\n"), 0, "cut"),
]

CASES: list[Case] = [
    *FRAMING,
    *CHUNKS,
    *REQUEST_LINE,
    *HOSTS,
    *LINES,
    *FIELDS,
    *LIMITS,
    *LATER,
    *CUT,
]
