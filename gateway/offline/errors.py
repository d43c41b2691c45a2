"""What the commands over past logs say when their input cannot be used."""

from __future__ import annotations


class InputError(Exception):
    """A file, column, time zone or flag that cannot be used; the text says which."""
