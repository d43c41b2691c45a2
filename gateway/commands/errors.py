"""Errors of commands."""

from __future__ import annotations


class RemoteError(Exception):
    """The admin API refused a call or is unreachable; ``usage``: the call was wrong."""

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage
