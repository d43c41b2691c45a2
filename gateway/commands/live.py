"""``tidegate top`` and ``tidegate tail``: a running gateway on the terminal."""

from __future__ import annotations

from gateway.commands.connect import open_admin
from gateway.commands.flags import AdminFlag, ConfigFlag, JsonLinesFlag, TokenFlag


def top(
    *, config: ConfigFlag = None, admin: AdminFlag = None, token: TokenFlag = None
) -> int:
    """Show the current traffic of a running gateway, once a second, until Ctrl-C."""
    from gateway.commands.terminal import top as run_top  # noqa: PLC0415

    return run_top(open_admin(config, admin, token))


def tail(
    *,
    json: JsonLinesFlag = False,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Print verdicts and operators' changes as they happen, until Ctrl-C."""
    from gateway.commands.terminal import tail as run_tail  # noqa: PLC0415

    return run_tail(open_admin(config, admin, token), as_json=json)
