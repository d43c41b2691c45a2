"""``tidegate keys``: client keys, their hashes, names and user ids."""

from __future__ import annotations

import hashlib
import secrets
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cyclopts import App

from gateway.commands.flags import FAILED, OK, ConfigFlag, JsonFlag
from gateway.commands.output import fail, print_items, print_json, print_json_list
from gateway.config import load, resolve

if TYPE_CHECKING:
    from gateway.config.structs import Config

# Marks our keys, so that secret scanners can find a leaked one.
KEY_PREFIX = "tg_"
KEY_BYTES = 32  # of randomness

keys = App(name="keys", help="Client keys: make them, list them, find their user ids.")


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
    key = _read_key()
    if not key:
        return fail("no key on standard input")
    print(hash_key(key))
    return OK


@keys.command(name="list")
def list_(*, json: JsonFlag = False, config: ConfigFlag = None) -> int:
    """List the client keys of the configuration: name, policy, expiry, state.

    A key without a name is shown by its hash. The file holds only hashes, from which
    nobody can compute a user id: `keys id` does, from the key itself.
    """
    found = _listed(load(config).config)
    if json:
        print_json_list(found)
        return OK
    rows = [one | {"hash": one["hash"][: len("sha256:") + 12]} for one in found]
    print_items(
        rows, ("tenant", "name", "policy", "expires", "state", "hash"), "no client keys"
    )
    return OK


@keys.command(name="id")
def id_(*, json: JsonFlag = False, config: ConfigFlag = None) -> int:
    """Read a client key from standard input and print its user id in records.

    The id (`key_...`) is an HMAC with the gateway's secret, so this needs the gateway's
    store or its runtime directory: run it with the same file, as the same user.
    """
    key = _read_key()
    if not key:
        return fail("no key on standard input")
    settings = load(config).config
    from gateway.serve.secret import find_secret  # noqa: PLC0415

    store = settings.store
    secret = find_secret(store.connection_url(), store.prefix)
    if not secret:
        return fail("no secret found: start the gateway once with this file", FAILED)
    from gateway.identity.credentials import RequestCredential  # noqa: PLC0415

    id_of_key = RequestCredential(key.encode(), "bearer").user_id(secret.encode())
    if not json:
        print(id_of_key)
        return OK
    listed = {one["hash"]: one for one in _listed(settings)}
    entry = listed.get(hash_key(key), {})
    print_json(
        {"id": id_of_key, "tenant": entry.get("tenant"), "name": entry.get("name")}
    )
    return OK


def _read_key() -> str:
    if sys.stdin.isatty():
        from getpass import getpass  # noqa: PLC0415

        return getpass("key: ")
    return sys.stdin.readline().rstrip("\r\n")


def _listed(config: Config) -> list[dict[str, Any]]:
    """Every client key of the configuration, in the order of the file."""
    from gateway.config.validate_keys import EXPIRY_NOTICE_S  # noqa: PLC0415

    found: list[dict[str, Any]] = []
    now = time.time()
    for tenant in resolve(config).tenants:
        shown = {"tenant": tenant.name, "name": "", "policy": tenant.policy.name}
        found += [
            shown | {"expires": None, "state": "valid", "hash": text}
            for text in tenant.api_keys
        ]
        for key in tenant.keys:
            expires, state = None, "valid"
            if key.expires != float("inf"):
                expires = datetime.fromtimestamp(key.expires, UTC).isoformat()
                if key.expires <= now + EXPIRY_NOTICE_S:
                    state = "expired" if key.expires <= now else "expiring"
            policy = (key.policy or tenant.policy).name
            own = {"name": key.name, "policy": policy, "hash": key.hash}
            found.append(shown | own | {"expires": expires, "state": state})
    return found


def hash_key(key: str) -> str:
    """The form in which the configuration file holds a client key.

    A plain SHA-256 is enough: keys are 32 random bytes, which no dictionary contains.
    """
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()
