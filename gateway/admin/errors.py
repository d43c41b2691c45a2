"""Errors that the admin API answers with."""

from __future__ import annotations


class AdminError(Exception):
    """An operation failed. ``status``: HTTP status; ``code``: stable identifier."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
