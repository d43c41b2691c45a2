"""TLS on both sides, and HTTP beyond plain JSON calls."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import openai
import pytest
import trustme

from tests.gateway_process import (
    Gateway,
    MockLLM,
    call,
    running_gateway,
    running_mock,
    until,
)
from tests.ports import free_port

ASKED = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello river"}]}
PROMPT = 9
CHAT = "/v1/chat/completions"


@pytest.fixture(name="gateway", scope="module")
def _gateway(mock: MockLLM) -> Iterator[Gateway]:
    config = f"""
[[upstream]]
name = "mock"
url = "{mock.url}"
websocket = true
[[upstream]]
name = "drained"
url = "{mock.url}"
prefix = "/drained"
strip_prefix = true
on_disconnect = "drain"
[[upstream]]
name = "several"
targets = ["{mock.url}/a", "{mock.url}/b"]
prefix = "/several"
[[upstream]]
name = "hurried"
url = "{mock.url}"
prefix = "/hurried"
timeouts = {{ first_byte = "200ms" }}
[[upstream]]
name = "gone"
url = "http://127.0.0.1:{free_port()}"
prefix = "/gone-away"
"""
    server = 'health_path = "/-/health"\nmax_body = "1MiB"\n'
    with running_gateway(config, server=server) as gateway:
        yield gateway


@pytest.fixture(name="host")
def _host(gateway: Gateway) -> Iterator[http.client.HTTPConnection]:
    host = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    yield host
    host.close()


def _raw(gateway: Gateway, sent: bytes) -> bytes:
    """Send these bytes; everything received until the gateway closes."""
    with socket.create_connection(("127.0.0.1", gateway.port), 60) as plain:
        plain.sendall(sent)
        received = b""
        while piece := plain.recv(65536):
            received += piece
        return received


# -- answers --------------------------------------------------------------------------


def test_gzipped_answer_passes_as_it_is_and_is_counted(gateway, mock):
    """A gzip-encoded JSON answer is relayed byte for byte, and its usage is read."""
    headers = {"x-mock-encoding": "gzip", "x-request-id": "gz-1", "x-mock-tokens": "3"}
    headers["accept-encoding"] = "gzip"
    direct = call("POST", mock.url + CHAT, ASKED, headers=headers)
    status, fields, body = call("POST", gateway.url + CHAT, ASKED, headers=headers)
    assert (status, fields["content-encoding"]) == (200, "gzip")
    assert body == direct[2]
    assert json.loads(gzip.decompress(body))["usage"]["completion_tokens"] == 3
    record = gateway.record(request_id="gz-1")
    assert (record["prompt_tokens"], record["completion_tokens"]) == (PROMPT, 3)


def test_gzipped_stream_is_counted(gateway):
    """A gzip-encoded stream is counted from a decoded copy."""
    headers = {"x-mock-encoding": "gzip", "x-request-id": "gz-2"}
    asked = ASKED | {"stream": True, "stream_options": {"include_usage": True}}
    body = call("POST", gateway.url + CHAT, asked, headers=headers)[2]
    assert gzip.decompress(body).endswith(b"[DONE]\n\n")
    record = gateway.record(request_id="gz-2")
    assert (record["completion_tokens"], record["usage_source"]) == (12, "upstream")


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_framing_of_the_answer(gateway, host, framing):
    """Chunked and close-delimited answers arrive whole on a kept-alive connection."""
    headers = {"x-mock-framing": framing, "x-request-id": f"framed-{framing}"}
    for _ in range(2):
        host.request("POST", CHAT, json.dumps(ASKED), headers)
        answer = host.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["usage"]["total_tokens"] == PROMPT + 12
    until(lambda: len(gateway.records(request_id=f"framed-{framing}")) == 2)


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(host, status):
    """Answers with 204 and 304 end at the head, and the connection stays usable."""
    for _ in range(2):
        host.request("GET", f"/status/{status}")
        answer = host.getresponse()
        assert (answer.status, answer.read()) == (status, b"")
        assert answer.headers["etag"] == '"t"'
    host.request("GET", "/echo")
    assert host.getresponse().status == 200


def test_head_has_the_length_and_no_body(host):
    """An answer to HEAD has the fields of a GET and no body."""
    host.request("HEAD", "/echo?x=1")
    answer = host.getresponse()
    assert int(answer.headers["content-length"]) > 0
    assert answer.read() == b""
    host.request("GET", "/echo")
    assert json.loads(host.getresponse().read())["method"] == "GET"


def test_pipelined_requests_are_answered_in_order(gateway):
    """Three pipelined requests are answered in order."""
    one = b"GET /echo?%d HTTP/1.1\r\nHost: x\r\n%b\r\n"
    last = b"Connection: close\r\n"
    sent = one % (1, b"") + one % (2, b"") + one % (3, last)
    received = _raw(gateway, sent)
    places = [received.find(b'"query": "%d"' % n) for n in (1, 2, 3)]
    assert -1 not in places
    assert places == sorted(places)


# -- requests -------------------------------------------------------------------------


def test_path_query_and_headers_arrive_untouched(gateway, mock):
    """Odd but legal paths and fields reach the upstream byte for byte."""
    target = "/v1/files%2Fx//y?a=%20b&c"
    headers = {"X-Odd": "a  b", "x-mock-tag": "odd", "x-tidegate-verdict": "forged"}
    call("GET", gateway.url + target, headers=headers, key="sk-odd")
    seen = mock.seen("odd")
    assert f"{seen['path']}?{seen['query']}" == target
    fields = {name.lower(): value for name, value in seen["fields"]}
    assert fields["x-odd"] == "a  b"
    assert fields["authorization"] == "Bearer sk-odd"
    assert fields["host"] == f"127.0.0.1:{mock.port}"
    assert "tidegate" in fields["via"]
    assert fields["x-forwarded-for"] == "127.0.0.1"
    assert "x-tidegate-verdict" not in fields


def test_chunked_upload_of_a_metered_call(gateway, host):
    """A chunked request body is read, metered and forwarded."""
    body = json.dumps(ASKED).encode()
    pieces = iter([body[:7], body[7:30], body[30:]])
    headers = {"x-request-id": "up-1"}
    host.request("POST", CHAT, pieces, headers, encode_chunked=True)
    assert host.getresponse().status == 200
    assert gateway.record(request_id="up-1")["prompt_tokens"] == PROMPT


def test_chunked_upload_streams_through_elsewhere(host):
    """A body of 3 MB for an endpoint that is not metered is relayed as a stream."""
    piece = bytes(range(256)) * 256
    host.request("PUT", "/files", iter([piece] * 48), encode_chunked=True)
    echo = json.loads(host.getresponse().read())
    assert echo["bytes"] == 48 * 65536
    assert echo["sha256"] == hashlib.sha256(piece * 48).hexdigest()


def test_body_over_the_cap_is_refused_early(gateway):
    """A declared body over ``max_body`` is 413 before it is sent."""
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n"
    assert _raw(gateway, head % CHAT.encode()).startswith(b"HTTP/1.1 413 ")


def test_gzipped_request_is_metered_and_forwarded_as_it_is(gateway, mock):
    """A compressed request is decoded for counting, and forwarded compressed."""
    packed = gzip.compress(json.dumps(ASKED).encode())
    headers = {"content-encoding": "gzip", "x-mock-tag": "zip", "x-mock-usage": "none"}
    headers["x-request-id"] = "zip-1"
    assert call("POST", gateway.url + CHAT, packed, headers=headers)[0] == 200
    assert mock.seen("zip")["body"].encode("latin-1") == packed
    record = gateway.record(request_id="zip-1")
    assert (record["model"], record["endpoint"]) == ("gpt-4o", "chat.completions")
    assert record["total_tokens"] > 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not there")
def test_expect_continue_with_curl(gateway, mock):
    """curl gets 100 before it sends a large body; the upstream gets no Expect."""
    large = json.dumps(ASKED | {"pad": "x" * 200_000})
    argv = ["curl", "-sS", "-v", "--noproxy", "*", "--data-binary", "@-"]
    argv += ["-H", "Expect: 100-continue", "-H", "x-mock-tag: curl"]
    argv += ["--expect100-timeout", "90", "--max-time", "60", gateway.url + CHAT]
    done = subprocess.run(
        argv, input=large, capture_output=True, text=True, check=False
    )
    assert "100 Continue" in done.stderr
    assert json.loads(done.stdout)["usage"]["total_tokens"] == PROMPT + 12
    names = {name.lower() for name, _ in mock.seen("curl")["fields"]}
    assert "expect" not in names


def test_key_in_the_query_is_a_credential(gateway):
    """Gemini's ``?key=`` identifies the user, and the record's path has no query."""
    path = "/v1beta/models/gemini-2.5-pro:generateContent"
    body = {"contents": [{"parts": [{"text": "hello boat"}]}]}
    headers = {"x-request-id": "gem-1"}
    assert call("POST", f"{gateway.url}{path}?key=abc", body, headers=headers)[0] == 200
    record = gateway.record(request_id="gem-1")
    assert record["user"].startswith("key_")
    assert (record["path"], record["model"]) == (path, "gemini-2.5-pro")
    assert (record["prompt_tokens"], record["completion_tokens"]) == (2, 12)


def test_health_path_is_answered_by_the_gateway(gateway):
    """Probes of the health path on the client port do not reach the upstream."""
    status, _, body = call("GET", f"{gateway.url}/-/health")
    assert status == 200
    assert b"method" not in body


# -- upstreams ------------------------------------------------------------------------


def test_a_draining_route_reads_the_whole_answer(gateway, mock):
    """With ``on_disconnect = "drain"`` the upstream's answer is read to its end and
    billed after the client left.
    """
    headers = {"x-mock-chunk-ms": "20", "x-mock-tag": "dr", "x-request-id": "dr"}
    host = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    asked = json.dumps(ASKED | {"stream": True})
    host.request("POST", f"/drained{CHAT}", asked, headers)
    host.getresponse().read(30)
    host.close()
    record = gateway.record(request_id="dr")
    assert (record["completion_tokens"], record["usage_source"]) == (12, "upstream")
    assert mock.seen("dr")["whole"]


def test_targets_of_one_upstream_share_the_calls(gateway, mock):
    """The targets of an upstream take turns, and the path of each prefixes the
    request's.
    """
    paths = set()
    for number in range(6):
        call("GET", f"{gateway.url}/several/x", headers={"x-mock-tag": f"t{number}"})
        paths.add(mock.seen(f"t{number}")["path"])
    assert paths == {"/a/several/x", "/b/several/x"}


def test_silent_upstream_is_504_in_the_dialect_of_the_client(gateway):
    """An upstream without a first byte in time is 504 with an error of the client's
    dialect.
    """
    headers = {"x-mock-delay-ms": "3000", "x-request-id": "late"}
    url = f"{gateway.url}/hurried/v1/messages"
    status, _, body = call("POST", url, ASKED | {"max_tokens": 9}, headers=headers)
    assert (status, json.loads(body)["type"]) == (504, "error")
    record = gateway.record(request_id="late")
    assert (record["outcome"], record["status"]) == ("timeout", 504)


def test_unreachable_upstream_is_502(gateway):
    """An upstream that refuses connections is 502, and nothing is billed."""
    headers = {"x-request-id": "dead"}
    url = f"{gateway.url}/gone-away{CHAT}"
    status, _, body = call("POST", url, ASKED, headers=headers)
    assert status == 502
    assert "error" in json.loads(body)
    record = gateway.record(request_id="dead")
    assert (record["outcome"], record["total_tokens"]) == ("upstream_error", 0)


# -- tunnels --------------------------------------------------------------------------


async def test_websocket_echo(gateway):
    """A WebSocket relays text and binary both ways and closes cleanly."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{gateway.url}/socket") as socket_,
    ):
        await socket_.send_str("hello")
        assert await socket_.receive_str(timeout=60) == "hello"
        large = bytes(range(256)) * 40
        await socket_.send_bytes(large)
        assert await socket_.receive_bytes(timeout=60) == large
    assert socket_.close_code == 1000


async def test_websocket_left_by_the_client_closes_the_upstream(gateway, mock):
    """A client that drops a tunnel leaves no connection open."""
    async with aiohttp.ClientSession() as session:
        socket_ = await session.ws_connect(f"{gateway.url}/gone")
        await socket_.send_str("x")
        await socket_.receive_str(timeout=60)
        transport = socket_._response.connection.transport
        transport.abort()
    idle = asyncio.to_thread(_idle, gateway)
    assert await idle


def _idle(gateway: Gateway) -> bool:
    """Whether the metrics (at most 0.5 s old) show no open connection."""
    record = gateway.record(path="/gone")
    assert record["status"] == 101
    return until(lambda: gateway.metrics()["tidegate_inflight"] == 0)


# -- TLS ------------------------------------------------------------------------------


class Pki:
    """A certificate authority that issues certificates as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca_file)
        self.cert, self.key = self.issue("server")

    def issue(self, name: str) -> tuple[Path, Path]:
        """Issue a certificate for 127.0.0.1; its chain and key files."""
        issued = self.authority.issue_cert("127.0.0.1", "localhost")
        cert, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return cert, key

    def context(self) -> ssl.SSLContext:
        """A client context that trusts this authority alone."""
        return ssl.create_default_context(cafile=str(self.ca_file))


@pytest.fixture(name="pki", scope="module")
def _pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(name="secure", scope="module")
def _secure(pki: Pki) -> Iterator[Gateway]:
    """A gateway with HTTPS to clients and to a verified upstream; the certificate of
    the upstream of ``/bad`` does not verify.
    """
    flags = ("--cert", str(pki.cert), "--key", str(pki.key))
    with running_mock(*flags) as mock:
        url = f"https://127.0.0.1:{mock.port}"
        config = (
            f'[[upstream]]\nname = "good"\nurl = "{url}"\nca_file = "{pki.ca_file}"\n'
            f'[[upstream]]\nname = "bad"\nurl = "{url}"\nprefix = "/bad"\n'
        )
        cert, key = pki.issue("client-side")
        server = f'[server.tls]\ncert = "{cert}"\nkey = "{key}"\n'
        with running_gateway(config, server=server) as gateway:
            yield gateway


def test_tls_on_both_sides(secure, pki):
    """HTTPS works on both sides with a verified upstream certificate, and the ready
    line has https.
    """
    url = secure.url.replace("http:", "https:")
    assert secure.ready_line.startswith(f"tidegate ready {url} admin http://")
    client = openai.DefaultHttpxClient(verify=pki.context())
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key="sk", http_client=client, max_retries=0
    ) as asked:
        answer = asked.chat.completions.create(**ASKED)
        stream = asked.chat.completions.create(**ASKED, stream=True)
        chunks = list(stream)
    assert answer.usage.total_tokens == PROMPT + 12
    assert len(chunks) == 13


def test_tls_on_the_admin_port(pki):
    """The admin port serves HTTPS only, the ready line has https, and the console's
    cookie is secure.
    """
    cert, key = pki.issue("admin")
    admin = f'token = "op"\n[admin.tls]\ncert = "{cert}"\nkey = "{key}"\n'
    with (
        running_mock() as mock,
        running_gateway(
            f'[[upstream]]\nname = "mock"\nurl = "{mock.url}"\n', admin=admin
        ) as gateway,
    ):
        url = gateway.ready_line.split()[-1]
        assert url.startswith("https://")
        request = urllib.request.Request(
            f"{url}/api/v1/session", b'{"token":"op"}', method="POST"
        )
        with urllib.request.urlopen(request, context=pki.context()) as answer:
            assert json.load(answer)["role"] == "operator"
            assert "; Secure" in answer.headers["Set-Cookie"]
        with pytest.raises((OSError, http.client.HTTPException)):
            urllib.request.urlopen(f"{url.replace('https', 'http')}/healthz")


def test_unverified_upstream_is_502(secure, pki):
    """An upstream whose certificate does not verify is 502."""
    url = secure.url.replace("http:", "https:")
    request = urllib.request.Request(f"{url}/bad/v1/models")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, context=pki.context(), timeout=60)
    with caught.value as error:
        assert error.code == 502


@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated")
def test_old_tls_is_refused(secure, pki):
    """A client that supports at most TLS 1.1 gets no handshake."""
    context = pki.context()
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # else OpenSSL refuses on the client side
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", secure.port), 60) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_renewed_certificate_is_served(secure, pki):
    """A certificate that is replaced on disk is served without a restart."""
    before = _fingerprint(secure, pki)
    pki.issue("client-side")
    until(lambda: _fingerprint(secure, pki) != before, why="the new certificate")


def _fingerprint(gateway: Gateway, pki: Pki) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", gateway.port), 60) as plain,
        pki.context().wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        return hashlib.sha256(secured.getpeercert(True)).digest()
