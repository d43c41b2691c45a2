"""A real InfluxDB for tests: Debian's ``influxdb`` (1.6)."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.gateway_process import call, until
from tests.ports import free_port

MISSING = "no influxd on PATH (Debian: influxdb)"
_CONFIG = """\
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
[http]
bind-address = "127.0.0.1:{port}"
log-enabled = false
[monitor]
store-enabled = false
"""


def influx_binary() -> str | None:
    """The path of ``influxd``; None if it is not installed."""
    return shutil.which("influxd")


class InfluxServer:
    """An InfluxDB server with one database."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._binary, self._folder = binary, folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, and wait until it answers."""
        file = self._folder / "influxdb.conf"
        file.write_text(
            _CONFIG.format(rpc=free_port(), port=self._port, folder=self._folder)
        )
        self._child = subprocess.Popen(
            [self._binary, "run", "-config", str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._answers, why="influxd")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return call("GET", f"{self.url}/ping")[0] == 204
        return False

    def stop(self) -> None:
        """Kill the process, and reap it."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def query(self, text: str, database: str = "llm") -> list[dict[str, Any]]:
        """Rows of all series of the result, with their tags."""
        query = urllib.parse.urlencode({"db": database, "q": text})
        status, _, body = call("POST", f"{self.url}/query?{query}")
        assert status == 200, body
        (result,) = json.loads(body)["results"]
        assert "error" not in result, result
        rows = []
        for series in result.get("series", ()):
            tags = series.get("tags", {})
            rows += [
                dict(zip(series["columns"], row, strict=True)) | tags
                for row in series["values"]
            ]
        return rows


@contextlib.contextmanager
def running_influx(binary: str) -> Iterator[InfluxServer]:
    """Run a server with the database ``llm`` for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="tg-influx-", dir="/tmp") as folder:
        server = InfluxServer(binary, Path(folder))
        try:
            server.start()
            server.query("CREATE DATABASE llm")
            yield server
        finally:
            server.stop()
