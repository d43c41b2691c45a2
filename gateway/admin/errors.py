"""What cannot be done, and how the caller is told."""

from __future__ import annotations


class AdminError(Exception):
    """The operation cannot be done; the caller is told why."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
