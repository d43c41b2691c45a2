"""Connecting to upstreams: targets, pools, TLS, an egress proxy."""

from __future__ import annotations

import asyncio
import base64
import ssl

import pytest
import trustme

from tests.doubles import ANSWER, Cut, RecordingUpstream, _Recorded
from tests.inprocess import (
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    until,
    upstream,  # noqa: F401
)
from tests.ports import free_port

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"


class SecureUpstream(RecordingUpstream):
    """A recorder behind TLS."""

    def __init__(self, authority: trustme.CA, name: str = "127.0.0.1") -> None:
        super().__init__()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(self.context)

    async def start(self) -> None:
        """Listen."""
        await super().start()
        assert self._server is not None
        self._server.close()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Recorded(self), self.host, 0, ssl=self.context
        )
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """The URL of this upstream."""
        return f"https://{self.host}:{self.port}"


class EgressProxy(asyncio.Protocol):
    """Answers CONNECT, then joins both sides."""

    def __init__(self, seen: list[bytes], answer: bytes) -> None:
        self.seen = seen
        self.answer = answer
        self.other: asyncio.Transport | None = None

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.write(data)
            return
        self.seen.append(data)
        host, _, port = data.split(b" ")[1].rpartition(b":")
        self.task = asyncio.get_running_loop().create_task(
            self.connect(host.decode(), int(port))
        )

    async def connect(self, host: str, port: int) -> None:
        """Connect to the target, then answer."""
        back = Back(self.transport)
        self.other, _ = await asyncio.get_running_loop().create_connection(
            lambda: back, host, port
        )
        self.transport.write(self.answer)

    def connection_lost(self, exc) -> None:
        if self.other is not None:
            self.other.close()


class Back(asyncio.Protocol):
    """The far side of the proxy."""

    def __init__(self, front) -> None:
        self.front = front

    def data_received(self, data: bytes) -> None:
        self.front.write(data)

    def connection_lost(self, exc) -> None:
        self.front.close()


@pytest.fixture(name="authority", scope="module")
def _authority() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()


async def status(gateway: InProcess) -> int:
    """The status of one request on a new connection."""
    return int((await gateway.talk(request(fields=CLOSE))).split(b" ")[1])


async def test_dead_target_is_passed_over(upstream):
    """With one of two targets down the other answers every request."""
    route = f'targets = ["http://127.0.0.1:{free_port()}"]'
    async with InProcess(upstream, route=route) as gateway:
        assert [await status(gateway) for _ in range(6)] == [200] * 6
        pool = gateway.plane.shared.tables.routes[0].pool
        assert pool.connect_failures == 1


async def test_targets_share_the_work(upstream):
    """Two working targets get about the same number of requests."""
    async with RecordingUpstream() as second:
        async with InProcess(upstream, route=f'targets = ["{second.url}"]') as gateway:
            for _ in range(10):
                await status(gateway)
        assert {len(upstream.requests), len(second.requests)} <= {4, 5, 6}


async def test_no_target_accepts(upstream):
    """When no target accepts, the answer is 502 and the outcome upstream_error."""
    async with InProcess(upstream, url=f"http://127.0.0.1:{free_port()}") as gateway:
        assert await status(gateway) == 502
        assert (await gateway.record()).outcome == "upstream_error"


async def test_name_is_looked_up(upstream):
    """A host name is resolved; an unknown one gets 502."""
    async with InProcess(upstream, url=f"http://localhost:{upstream.port}") as gateway:
        assert await status(gateway) == 200
    async with InProcess(upstream, url="http://nowhere.invalid") as gateway:
        assert await status(gateway) == 502


async def test_connecting_takes_too_long(upstream):
    """A target that never answers the handshake gets 504."""
    route = 'timeouts = { connect = "100ms" }'
    url = f"https://127.0.0.1:{upstream.port}"  # no TLS on this port
    async with InProcess(upstream, route=route, url=url) as gateway:
        assert await status(gateway) == 504
        await until(upstream.connections[0].closed.is_set)


async def test_connections_are_capped(upstream):
    """Connections being opened count: above the cap the answer is 503."""
    upstream.default = (0.5, *ANSWER)
    async with InProcess(upstream, route="max_connections = 3") as gateway:
        found = await asyncio.gather(*(status(gateway) for _ in range(8)))
        assert sorted(found) == [200] * 3 + [503] * 5
        assert len(upstream.connections) == 3


async def test_idle_connections_are_dropped(upstream):
    """Connections idle for too long are closed, not used."""
    async with InProcess(upstream, route='keepalive = "20ms"') as gateway:
        await status(gateway)
        await asyncio.sleep(0.03)
        gateway.plane.tick()
        await until(upstream.connections[0].closed.is_set)
        assert await status(gateway) == 200
        (target,) = gateway.plane.shared.tables.routes[0].pool.targets
        assert len(target.connections) == len(target.idle) == 1


async def test_idle_connections_that_end_are_forgotten(upstream):
    """An idle connection that the upstream closes or resets fails no request."""
    async with InProcess(upstream) as gateway:
        for cut in (Cut.CLOSE, Cut.RESET):
            upstream.scripts.append((*ANSWER, 0.01, cut))
            await status(gateway)
            await until(upstream.connections[-1].closed.is_set)
            await until(lambda: not gateway.plane.service.upstream_connections)
        assert await status(gateway) == 200
        assert len(upstream.requests) == 3


async def test_tls_is_verified(authority, tmp_path):
    """A private CA gets 502, unless ca_file or tls_verify = false is set."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with SecureUpstream(authority) as secure:
        for route, expected in (
            ("", 502),
            (f'ca_file = "{tmp_path / "ca.pem"}"', 200),
            ("tls_verify = false", 200),
        ):
            async with InProcess(secure, route=route) as gateway:
                assert await status(gateway) == expected


async def test_tls_name_must_match(authority, tmp_path):
    """A valid certificate for another name is refused."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    route = f'ca_file = "{tmp_path / "ca.pem"}"'
    async with (
        SecureUpstream(authority, "other.test") as secure,
        InProcess(secure, route=route) as gateway,
    ):
        answer = await gateway.talk(request(fields=CLOSE))
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"certificate is not valid" in answer


@pytest.mark.parametrize("secure", [False, True])
async def test_egress_proxy(secure, authority, tmp_path):
    """Every target is reached by CONNECT, with the proxy's own credential."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    seen: list[bytes] = []
    loop = asyncio.get_running_loop()
    good = b"HTTP/1.1 200 Connected\r\n\r\n"
    server = await loop.create_server(lambda: EgressProxy(seen, good), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    route = f'proxy = "http://me:p%40ss@127.0.0.1:{port}"\n'
    route += f'ca_file = "{tmp_path / "ca.pem"}"'
    double = SecureUpstream(authority) if secure else RecordingUpstream()
    async with double as recorder:
        async with InProcess(recorder, route=route) as gateway:
            assert [await status(gateway) for _ in range(2)] == [200, 200]
        assert len(recorder.connections) == 1
    assert seen[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % recorder.port)
    login = base64.b64encode(b"me:p@ss")
    assert b"\r\nProxy-Authorization: Basic %b\r\n" % login in seen[0]
    assert b"me" not in recorder.received.split(b"\r\n\r\n")[0].replace(
        b"gateway.test", b""
    )
    server.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        b"x" * 20_000,
        b"junk\r\n\r\n",
    ],
    ids=["refused", "more", "endless", "junk"],
)
async def test_egress_proxy_that_will_not(answer, upstream):
    """A proxy that refuses or sends garbage gets 502."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: EgressProxy([], answer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with InProcess(
        upstream, route=f'proxy = "http://127.0.0.1:{port}"'
    ) as gateway:
        assert await status(gateway) == 502
        assert not upstream.requests
    server.close()


async def test_retired_pool_keeps_nothing(upstream):
    """After a reload without it an upstream's connections end with their exchanges."""
    upstream.default = (0.5, *ANSWER)
    async with InProcess(upstream) as gateway:
        client = await gateway.client()
        client.send(request())
        pool = gateway.plane.shared.tables.routes[0].pool
        pool.close_idle()
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        await until(upstream.connections[0].closed.is_set)
