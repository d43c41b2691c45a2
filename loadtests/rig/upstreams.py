"""The servers of ``billing.py``, listening."""

from __future__ import annotations

import asyncio
from typing import Any

from loadtests.rig.answers import answer
from loadtests.rig.billing import (
    SERVERS,
    Ledger,
    RefusedError,
    head,
    normal_path,
    read_call,
)


class Upstreams:
    """All servers, on free ports of 127.0.0.1."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.ports: dict[str, int] = {}
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Listen."""
        for name in SERVERS:
            server = await asyncio.start_server(
                self._connection(name), "127.0.0.1", 0, limit=2**26, backlog=1000
            )
            self.ports[name] = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    def stop(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.close()

    def _connection(self, name: str) -> Any:
        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            try:
                while (call := await read_call(name, reader)) is not None:
                    self.ledger.seen[call.id].append(call)
                    if name in ("nginx", "tomcat"):
                        call.path = normal_path(call.path, fold=name == "tomcat")
                        call.server = "openai"
                    try:
                        await answer(self.ledger, call, reader, writer)
                    except RefusedError as refusal:
                        body = b'{"error":{"message":"refused","type":"x"}}'
                        size = len(body)
                        writer.write(
                            head(refusal.status, "application/json", size) + body
                        )
                    await writer.drain()
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        return serve
