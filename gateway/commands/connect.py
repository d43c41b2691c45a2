"""Connects a command to the admin API of a running gateway.

Light to import: the client itself (``remote.py``) is imported by the first command that
needs it, which saves `serve` and `--help` 20 ms.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gateway.commands.flags import TOKEN_VARIABLE
from gateway.config import find_file, load
from gateway.config.structs import AdminTable

if TYPE_CHECKING:
    from gateway.commands.remote import AdminClient

# A sample is two messages, queued behind others; one e-mail may take 30 s.
SAMPLE_S = 100.0


def open_admin(config: str | None, admin: str | None, token: str | None) -> AdminClient:
    """The gateway named by the flags, the environment or the configuration file."""
    token = token or os.environ.get(TOKEN_VARIABLE)
    if admin is None and find_file(config):
        table = load(config).config.admin
        admin = table.listen
        if token is None and table.token:
            token = table.token.reveal()
    from gateway.commands.remote import AdminClient  # noqa: PLC0415

    return AdminClient(admin or AdminTable().listen, token)
