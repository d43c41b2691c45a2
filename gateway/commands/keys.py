"""``tidegate keys``: client keys and their hashes."""

from __future__ import annotations

import hashlib
import secrets
import sys

from cyclopts import App

from gateway.commands.flags import OK
from gateway.commands.output import fail

# Marks our keys, so that secret scanners can find a leaked one.
KEY_PREFIX = "tg_"
KEY_BYTES = 32  # of randomness

keys = App(name="keys", help="Make client keys and the hashes that the file holds.")


@keys.command
def new() -> int:
    """Make a client key. Prints the key, then its hash for `api_keys`."""
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    print(key)
    print(hash_key(key))
    return OK


@keys.command(name="hash")
def hash_() -> int:
    """Read a client key from standard input and print its hash for `api_keys`."""
    if sys.stdin.isatty():
        from getpass import getpass  # noqa: PLC0415

        key = getpass("key: ")
    else:
        key = sys.stdin.readline().rstrip("\r\n")
    if not key:
        return fail("no key on standard input")
    print(hash_key(key))
    return OK


def hash_key(key: str) -> str:
    """The form in which the configuration file holds a client key.

    A plain SHA-256 is enough: keys are 32 random bytes, which no dictionary contains.
    """
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()
