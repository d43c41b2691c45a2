"""Where baselines are kept: a file, or the store that ``serve`` will read them from.

With ``embedded:`` a gateway on this directory may be running, then its engine is used;
else the engine is started for the moment, as ``serve`` would start it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError

from gateway.config.structs import StoreTable
from gateway.detect.packed_baselines import BaselinesError, pack_baselines
from gateway.serve.runtime import runtime_base
from gateway.serve.store_url import complete_url, masked_url
from gateway.store.baselines import save_baselines
from gateway.store.client import open_redis
from gateway.store.embedded import (
    EmbeddedEngine,
    EngineBusy,
    EngineFailed,
    EngineMissing,
)
from gateway.store.url import StoreUrlError, parse_store_url

# As the supervisor: an engine reads its append-only file first.
_ENGINE_START_S = 60.0
_ENGINE_STOP_S = 30.0


class KeepError(Exception):
    """Baselines could not be kept; the text says why. ``usage``: what was asked for
    can never work.
    """

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


def write_file(name: str, state: bytes) -> int:
    """Put a state into a file, whole or not at all; bytes that it has.

    Raises KeepError.
    """
    folder = os.path.dirname(name) or "."
    try:
        packed = pack_baselines(state)
        handle, draft = tempfile.mkstemp(prefix=".tidegate-", dir=folder)
        try:
            with open(handle, "wb") as file:
                file.write(packed)
            os.replace(draft, name)
        except OSError:
            os.unlink(draft)
            raise
    except (OSError, BaselinesError) as error:
        reason = getattr(error, "strerror", None) or error
        raise KeepError(f"cannot write {name}: {reason}") from None
    return len(packed)


def check_store(table: StoreTable) -> None:
    """Raises KeepError for a store that keeps nothing or is not one."""
    try:
        address = parse_store_url(complete_url(table))
    except StoreUrlError as error:
        raise KeepError(str(error), usage=True) from None
    if address.kind == "memory":
        raise KeepError(
            "the store is memory: and would keep nothing; name a file with --out, or a"
            " store with --store",
            usage=True,
        )


def write_store(table: StoreTable, state: bytes) -> tuple[str, int]:
    """Put a state into the store; its name for people, and the bytes that it took.

    Raises KeepError.
    """
    check_store(table)
    url = complete_url(table)
    shown = masked_url(url)
    try:
        with _served(url) as served:
            return shown, asyncio.run(_save(served, table.prefix, state))
    except (RedisError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise KeepError(f"the store {shown} does not take it: {reason}") from None
    except (BaselinesError, EngineBusy, EngineFailed, EngineMissing) as error:
        raise KeepError(str(error)) from None


async def _save(url: str, prefix: str, state: bytes) -> int:
    client = open_redis(url)
    try:
        return await save_baselines(client, prefix, state, time.time())
    finally:
        await client.aclose()


@contextmanager
def _served(url: str) -> Iterator[str]:
    """The address of a server that answers for ``url``."""
    address = parse_store_url(url)
    if address.kind != "embedded":
        yield url
        return
    engine = EmbeddedEngine(address.path, runtime_base())
    served = f"unix://{engine.socket_path}"
    if engine.ready():  # a gateway is running on it
        yield served
        return
    argv = engine.argv()
    engine.prepare()
    child = subprocess.Popen(  # noqa: S603 - our own engine
        argv, stdin=subprocess.DEVNULL, process_group=0
    )
    try:
        engine.wait_ready(_ENGINE_START_S)
        yield served
    finally:
        child.terminate()  # it writes its file out and ends
        child.wait(_ENGINE_STOP_S)
        engine.release()
