"""Saves baselines to a file, or to the store from which ``serve`` loads them.

With ``embedded:`` the engine of a running gateway on the same directory is used;
otherwise the engine is started for the duration of the save.
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
from gateway.store.baselines import save_baselines
from gateway.store.embedded import EngineBusy, EngineFailed, EngineMissing
from gateway.store.opening import open_backend
from gateway.store.url import StoreUrlError, masked_url

# As in the supervisor: the engine loads its append-only file first.
_ENGINE_START_S = 60.0
_ENGINE_STOP_S = 30.0


class SaveError(Exception):
    """Baselines could not be saved; the text says why. ``usage``: the arguments of the
    command are wrong.
    """

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


def write_file(name: str, state: bytes) -> int:
    """Replace a file by a state, atomically; returns its size in bytes.

    Raises SaveError.
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
        raise SaveError(f"cannot write {name}: {reason}") from None
    return len(packed)


def check_store(table: StoreTable) -> None:
    """Raise SaveError for an in-memory store and for an invalid store URL."""
    try:
        backend = open_backend(table.connection_url())
    except StoreUrlError as error:
        raise SaveError(str(error), usage=True) from None
    if not backend.is_persistent:
        raise SaveError(
            f"the store is {table.url} and would not keep the baselines; name a file with"
            " --out, or a store with --store",
            usage=True,
        )


def write_store(table: StoreTable, state: bytes) -> tuple[str, int]:
    """Save a state in the store; returns its masked URL and the size in bytes.

    Raises SaveError.
    """
    check_store(table)
    url = table.connection_url()
    shown = masked_url(url)
    try:
        with _served(url) as served:
            return shown, asyncio.run(_save(served, table.prefix, state))
    except (RedisError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise SaveError(f"cannot save to the store {shown}: {reason}") from None
    except (BaselinesError, EngineBusy, EngineFailed, EngineMissing) as error:
        raise SaveError(str(error)) from None


async def _save(url: str, prefix: str, state: bytes) -> int:
    client = open_backend(url).open_client()
    if client is None:
        raise SaveError("the store keeps no baselines", usage=True)
    try:
        return await save_baselines(client, prefix, state, time.time())
    finally:
        await client.aclose()


@contextmanager
def _served(url: str) -> Iterator[str]:
    """The URL of a running server for ``url``; starts an embedded engine if needed."""
    engine = open_backend(url).engine(runtime_base())
    if engine is None:
        yield url
        return
    if engine.ready():  # a running gateway's engine
        yield engine.url
        return
    argv = engine.argv()
    engine.prepare()
    child = subprocess.Popen(  # noqa: S603 - our own engine
        argv, stdin=subprocess.DEVNULL, process_group=0
    )
    try:
        engine.wait_ready(_ENGINE_START_S)
        yield engine.url
    finally:
        child.terminate()  # it flushes its file and exits
        child.wait(_ENGINE_STOP_S)
        engine.release()
