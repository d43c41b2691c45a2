"""``tidegate serve``."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any, Literal, NoReturn

from cyclopts import Parameter

from gateway.commands.flags import ConfigFlag
from gateway.config import load
from gateway.config.structs import DEFAULT_STORE, AdminTable, ServerTable

_SERVER, _ADMIN = ServerTable(), AdminTable()


def serve(
    *,
    config: ConfigFlag = None,
    upstream: Annotated[
        str | None,
        Parameter(help="URL of the LLM API. With it no configuration file is needed."),
    ] = None,
    mode: Annotated[
        Literal["enforce", "observe"] | None,
        Parameter(help="Mode of every policy. Default without a file: observe."),
    ] = None,
    listen: Annotated[
        str | None, Parameter(help=f"host:port for clients. Default: {_SERVER.listen}.")
    ] = None,
    admin: Annotated[
        str | None,
        Parameter(help=f"host:port for operators. Default: {_ADMIN.listen}."),
    ] = None,
    store: Annotated[
        str | None, Parameter(help=f"Store URL. Default: {DEFAULT_STORE}.")
    ] = None,
    workers: Annotated[
        str | None,
        Parameter(help=f'Worker processes, or "auto". Default: {_SERVER.workers}.'),
    ] = None,
) -> int:
    """Run the gateway. SIGHUP reloads the file, SIGTERM drains and ends.

    Without a file: one upstream, tenant "default", every credential admitted, no fixed
    limits, counters in ./tidegate-data, mode observe.
    """
    overrides = {
        "upstream": upstream,
        "mode": mode,
        "server.listen": listen,
        "admin.listen": admin,
        "store.url": store,
        "server.workers": workers,
    }
    stated = {key: value for key, value in overrides.items() if value is not None}
    loaded = load(config, stated)  # the supervisor logs the warnings
    file = os.path.abspath(loaded.file) if loaded.file else None
    _become_supervisor({"config": file, "overrides": stated})


def _become_supervisor(spec: dict[str, Any]) -> NoReturn:
    """Replace this process, so that the supervisor starts without the memory of the
    command line; it loads the configuration again.
    """
    from gateway.serve.runtime import SPEC_VARIABLE  # noqa: PLC0415

    environ = os.environ | {SPEC_VARIABLE: json.dumps(spec)}
    argv = [sys.executable, "-m", "gateway.serve.supervisor"]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, argv, environ)  # noqa: S606 - no shell is wanted
