"""Short, stable names for files and sockets, hashed from longer ones."""

from __future__ import annotations

from typing import Final

_OFFSET: Final = 0xCBF29CE484222325
_PRIME: Final = 0x100000001B3
_MASK: Final = (1 << 64) - 1


def short_name(text: bytes) -> str:
    """Hash ``text`` with 64-bit FNV-1a into 16 hex digits; not for secrets.

    Not ``hashlib``: it loads OpenSSL (3.5 MB) into the supervisor, which has no other
    use for it.
    """
    value = _OFFSET
    for byte in text:
        value = (value ^ byte) * _PRIME & _MASK
    return f"{value:016x}"
