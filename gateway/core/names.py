"""Short names for files and sockets, made from longer ones."""

from __future__ import annotations

from typing import Final

_OFFSET: Final = 0xCBF29CE484222325
_PRIME: Final = 0x100000001B3
_MASK: Final = (1 << 64) - 1


def short_name(text: bytes) -> str:
    """16 hex digits: 64-bit FNV-1a (Fowler, Noll, Vo). A name, never a secret.

    ``hashlib`` would bring OpenSSL, 3.5 MB, into the supervisor that needs nothing else
    of it.
    """
    value = _OFFSET
    for byte in text:
        value = (value ^ byte) * _PRIME & _MASK
    return f"{value:016x}"
