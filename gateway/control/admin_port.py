"""The admin port: the HTTP server of the admin API, and its certificate."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from aiohttp import web

from gateway.admin.api import build_app
from gateway.admin.backend import AdminBackend
from gateway.config.structs import TlsTable
from gateway.control.admin_connections import AdminConnections
from gateway.serve.tls import ServerTls

# Longest wait for open admin requests at the end, seconds.
SHUTDOWN_S = 2.0
# Interval at which the certificate files are checked for changes, seconds.
CERTIFICATE_S = 10.0


class AdminPort:
    """Serves ``backend`` on ``address``. ``on_certificate`` is called with an error text
    when a changed certificate cannot be loaded, and with "" on recovery.
    """

    def __init__(
        self,
        backend: AdminBackend,
        address: tuple[str, int],
        files: TlsTable | None,
        on_certificate: Callable[[str], None],
    ) -> None:
        """Raises OSError, ssl.SSLError for an unusable certificate."""
        self._backend = backend
        self._address = address
        self._tls = None if files is None else ServerTls(files.cert, files.key)
        self._on_certificate = on_certificate
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._connections: AdminConnections | None = None

    @property
    def closed_connections(self) -> int:
        """Connections that were closed in favour of others, or without a request."""
        return 0 if self._connections is None else self._connections.closed

    async def open(self) -> None:
        """Accept requests from now on. Raises OSError."""
        host, port = self._address
        app = build_app(self._backend, host)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        connections: AdminConnections

        async def prove(request: web.Request, answer: web.StreamResponse) -> None:
            await connections.prove(request, answer)

        app.on_response_prepare.append(prove)
        await self._runner.setup()
        assert self._runner.server is not None
        connections = self._connections = AdminConnections(self._runner.server)
        context = None if self._tls is None else self._tls.context
        self._server = await asyncio.get_running_loop().create_server(
            connections, host, port, reuse_port=True, ssl=context
        )

    async def watch_certificate(self) -> None:
        """Reload the certificate when its files change, until cancelled. If that fails,
        the old one stays in use.
        """
        if self._tls is None:
            return
        problem = ""
        while True:
            await asyncio.sleep(CERTIFICATE_S)
            before, problem = problem, ""
            try:
                self._tls.refresh()
            except (OSError, ssl.SSLError) as error:
                problem = str(error)
            if problem != before:
                self._on_certificate(problem)

    async def close(self) -> None:
        """Stop accepting requests and wait for open ones."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
