"""Upstreams behind an egress proxy that speaks CONNECT."""

from __future__ import annotations

import base64
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.gateway_process import Gateway, call, running_gateway, running_mock

ASKED = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
CHAT = "/v1/chat/completions"


class EgressProxy(socketserver.ThreadingTCPServer):
    """A proxy that supports only CONNECT with a password; keeps every request head."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        super().__init__(("127.0.0.1", 0), EgressTunnel)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class EgressTunnel(socketserver.BaseRequestHandler):
    """One client connection of the proxy."""

    server: EgressProxy
    request: socket.socket

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self.request.recv(4096)
            if not piece:
                return
            head += piece
        self.server.heads.append(head)
        if base64.b64encode(b"us:er") not in head:
            self.request.sendall(b"HTTP/1.1 407 Who are you\r\n\r\n")
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.request.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            self.pump(upstream)

    def pump(self, upstream: socket.socket) -> None:
        """Copy bytes both ways until either side ends."""
        other = {upstream: self.request, self.request: upstream}
        while True:
            readable, _, _ = select.select(list(other), [], [], 10)
            for side in readable:
                piece = side.recv(65536)
                if not piece:
                    return
                other[side].sendall(piece)


@pytest.fixture(name="proxy", scope="module")
def _proxy() -> Iterator[EgressProxy]:
    with EgressProxy() as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


@pytest.fixture(name="gateway", scope="module")
def _gateway(
    proxy: EgressProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("egress")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca")
    issued.cert_chain_pems[0].write_to_path(folder / "cert")
    issued.private_key_pem.write_to_path(folder / "key")
    flags = ("--cert", str(folder / "cert"), "--key", str(folder / "key"))
    with running_mock(*flags) as secure, running_mock() as plain:
        config = f"""
[[upstream]]
name = "secure"
url = "https://127.0.0.1:{secure.port}"
ca_file = "{folder / "ca"}"
proxy = "http://us:er@{proxy.address}"
[[upstream]]
name = "plain"
url = "{plain.url}"
prefix = "/plain"
proxy = "http://us:er@{proxy.address}"
[[upstream]]
name = "stranger"
url = "{plain.url}"
prefix = "/stranger"
proxy = "http://{proxy.address}"
"""
        with running_gateway(config) as gateway:
            yield gateway


def test_https_upstream_through_the_proxy(gateway, proxy):
    """TLS to the upstream is verified inside the CONNECT tunnel, and the connection is
    reused.
    """
    assert call("POST", gateway.url + CHAT, ASKED)[0] == 200
    assert proxy.heads[-1].startswith(b"CONNECT 127.0.0.1:")
    connects = len(proxy.heads)
    assert {call("POST", gateway.url + CHAT, ASKED)[0] for _ in range(3)} == {200}
    assert len(proxy.heads) == connects


def test_plain_upstream_through_the_proxy(gateway, proxy):
    """A plain HTTP upstream is reached by CONNECT as well."""
    before = len(proxy.heads)
    status, _, body = call("GET", f"{gateway.url}/plain/echo")
    assert status == 200
    assert b'"/plain/echo"' in body
    assert len(proxy.heads) == before + 1


def test_proxy_that_refuses_is_a_bad_gateway(gateway):
    """A proxy that requires a missing password causes a 502."""
    assert call("GET", f"{gateway.url}/stranger/echo")[0] == 502
