"""The block list: in the store, followed by every control, pushed to every worker.

``<prefix>1:{blocks}`` is a hash of hashed subject -> Block, ``<prefix>1:{blocks}:log`` a
stream of what changed (about the last 10,000 changes). A control reads the hash whole
when it connects and every minute, and in between waits on the stream, so a change is
known everywhere within a round trip. The braces keep both on one node of a cluster.

While the store is down the last list stays in force, each entry until it expires. With
``memory:`` the list belongs to control and is saved in the runtime directory.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.core.model import DETECTOR, Block
from gateway.serve.link import Message
from gateway.serve.runtime import write_private

# More than operators can manage; larger floods belong in a firewall.
MAX_BLOCKS = 100_000
# Changes that the stream keeps, approximately.
LOG_ENTRIES = 10_000
# Interval at which the whole list is read again, seconds.
RESYNC_S = 60.0
_WAIT_MS = 1000  # shorter than the client's socket timeout
_RETRY_S = 0.5
# Longest wait for an own change to come back through the stream, seconds.
_OWN_CHANGE_S = 1

Key = tuple[str, str, str]  # kind, id, tenant ("" for everywhere)

# A verdict (ARGV[6]: now) does not replace an operator's entry that is in force.
_ADD = """
local now = tonumber(ARGV[6])
if now then
  local held = redis.call('HGET', KEYS[1], ARGV[1])
  local ok, block = pcall(cmsgpack.unpack, held or '')
  if held and ok and type(block) == 'table' and block['by'] ~= 'detector' then
    local till = tonumber(block['until'])
    if not till or till > now then return 0 end
  end
end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3])
   and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'm', ARGV[5])
"""
_REMOVE = """
if ARGV[4] then
  local held = redis.call('HGET', KEYS[1], ARGV[1])
  local ok, block = pcall(cmsgpack.unpack, held or '')
  if held and ok and type(block) == 'table' and block['by'] ~= 'detector' then
    return 0
  end
end
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
return redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'm', ARGV[3])
"""
# Delete only fields with the value that was read: the subject may be blocked again.
_PRUNE = """
local gone = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    gone = gone + redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return gone
"""
_PRUNE_AT_ONCE = 500


class BlocksFull(Exception):  # noqa: N818 - a state of the list, not a fault
    """The list has MAX_BLOCKS blocks; some must be removed first."""


class BlocksUnavailable(Exception):  # noqa: N818 - an expected state
    """The store is unavailable; nothing was changed."""


class Blocks(Protocol):
    """Port of the block list."""

    up: bool

    def items(self) -> list[Block]: ...

    async def add(self, block: Block) -> None: ...

    async def remove(self, kind: str, id_: str, tenant: str | None) -> bool: ...

    async def forget(self, keys: Sequence[bytes]) -> None:
        """Broadcast to the workers of all gateways that these counters were reset."""
        ...

    async def publish(self, put: Sequence[Block], lift: Sequence[Block]) -> None:
        """Send other gateways verdicts that are in force here already.

        Raises BlocksUnavailable.
        """
        ...

    async def load(self) -> None:
        """Read the list once, at the start. Raises BlocksUnavailable."""
        ...

    async def run(self) -> None:
        """Follow the list until cancelled."""
        ...


def block_key(block: Block) -> Key:
    """Key of a block: subject and tenant."""
    return block.kind, block.id, block.tenant or ""


class BlockTable:
    """The list in this process; changes go to ``on_change`` as messages."""

    def __init__(
        self,
        on_change: Callable[[Message], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._on_change = on_change
        self._clock = clock
        self._blocks: dict[Key, Block] = {}
        self.unwritten: Callable[[], Mapping[Key, Block | None]] = dict
        """Verdicts in force here and not yet in the store (None: removed)."""
        self.known = False
        """Whether the list was read; until then workers keep their blocks."""

    def __len__(self) -> int:
        return len(self._blocks)

    def full_message(self) -> Message:
        """The whole list, for a worker that connects."""
        return {"type": "blocks", "full": self.items()}

    def items(self) -> list[Block]:
        """Blocks in force, oldest first."""
        self.expire()
        return sorted(self._blocks.values(), key=_age)

    def of_kind(self, kind: str) -> list[Block]:
        """Blocks in force of one kind of subject."""
        now = self._clock()
        held = self._blocks.values()
        return [one for one in held if one.kind == kind and not is_over(one, now)]

    def verdicts(self) -> list[Block]:
        """Detection's entries in force."""
        now = self._clock()
        held = self._blocks.values()
        return [one for one in held if one.by == DETECTOR and not is_over(one, now)]

    def replace(self, blocks: Iterable[Block]) -> None:
        """Replace the list; workers get only the differences."""
        new = {block_key(block): block for block in blocks}
        for key, verdict in self.unwritten().items():
            held = new.get(key)
            if held is not None and held.by != DETECTOR:
                continue
            if verdict is None:
                new.pop(key, None)
            else:
                new[key] = verdict
        gone = [key for key in self._blocks if key not in new]
        added = [b for key, b in new.items() if self._blocks.get(key) != b]
        first = not self.known
        self._blocks = new
        self.known = True
        if first:
            self._on_change(self.full_message())
        elif added or gone:
            self._on_change(_delta(added, gone))

    def find(self, key: Key) -> Block | None:
        """The entry of a subject, which may have expired."""
        return self._blocks.get(key)

    def add(self, block: Block) -> None:
        """Add or replace an entry. Older verdicts that come back through the store's log
        are ignored.
        """
        known = self._blocks.get(block_key(block))
        if known == block:
            return
        if known is not None and self._gives_way(block, known):
            return
        self.change([block], [])

    def _gives_way(self, block: Block, known: Block) -> bool:
        """Whether a verdict is older than the known one, or contradicts an operator's
        entry in force.
        """
        if block.by != DETECTOR:
            return False
        if known.by != DETECTOR:
            return not is_over(known, self._clock())
        return block.created_at < known.created_at

    def change(self, added: Sequence[Block], gone: Sequence[Key]) -> None:
        """Add and remove several entries, in one message."""
        for block in added:
            self._blocks[block_key(block)] = block
        for key in gone:
            self._blocks.pop(key, None)
        self._on_change(_delta(added, gone))

    def remove(self, key: Key, removed_at: float = 0.0) -> bool:
        """Remove an entry; False if there is none, or if it is newer than ``removed_at``
        (0: by an operator, always removed).
        """
        known = self._blocks.get(key)
        if known is None or (removed_at and known.created_at > removed_at):
            return False
        self.change([], [key])
        return True

    def expire(self) -> None:
        """Drop expired entries; workers do that themselves."""
        now = self._clock()
        over = [key for key, block in self._blocks.items() if is_over(block, now)]
        for key in over:
            del self._blocks[key]

    def forget(self, keys: Sequence[bytes]) -> None:
        """Broadcast that these counters were reset."""
        self._on_change({"type": "forget", "keys": list(keys)})


def is_over(block: Block, now: float) -> bool:
    """Whether the block has expired."""
    return block.until is not None and block.until <= now


def _age(block: Block) -> tuple[float, Key]:
    return block.created_at, block_key(block)


def _delta(added: Sequence[Block], gone: Sequence[Key]) -> Message:
    remove = [(kind, id_, tenant or None) for kind, id_, tenant in gone]
    return {"type": "blocks", "add": list(added), "remove": remove}


class MemoryBlocks:
    """Block list of a gateway without a store, saved in a file."""

    up = True

    def __init__(self, table: BlockTable, path: str) -> None:
        self._table = table
        self._path = path

    def items(self) -> list[Block]:
        return self._table.items()

    async def add(self, block: Block) -> None:
        """Raises BlocksFull."""
        known = {block_key(item) for item in self._table.items()}
        if len(known) >= MAX_BLOCKS and block_key(block) not in known:
            raise BlocksFull
        self._table.add(block)
        self._save()

    async def remove(self, kind: str, id_: str, tenant: str | None) -> bool:
        removed = self._table.remove((kind, id_, tenant or ""))
        if removed:
            self._save()
        return removed

    async def forget(self, keys: Sequence[bytes]) -> None:
        self._table.forget(keys)

    async def publish(self, put: Sequence[Block], lift: Sequence[Block]) -> None:
        """Save; there are no other gateways."""
        self._save()

    async def load(self) -> None:
        await self.run()

    async def run(self) -> None:
        """Restore the list of an earlier process."""
        self._table.replace([*self._read(), *self._table.items()])

    def _read(self) -> list[Block]:
        with suppress(OSError, msgspec.DecodeError), open(self._path, "rb") as file:
            return msgspec.msgpack.decode(file.read(), type=list[Block])
        return []

    def _save(self) -> None:
        # On a full disk the list is lost only if control restarts.
        with suppress(OSError):
            write_private(self._path, msgspec.msgpack.encode(self._table.items()))


class _Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of the log."""

    op: str  # add, remove, forget
    block: Block | None = None
    keys: list[bytes] = []


_encode = msgspec.msgpack.encode
_decode_block = msgspec.msgpack.Decoder(Block).decode
_decode_change = msgspec.msgpack.Decoder(_Change).decode


class RedisBlocks:
    """Block list in the store. ``on_state`` gets "" when connected, else the error."""

    def __init__(
        self,
        client: Redis,
        prefix: str,
        table: BlockTable,
        on_state: Callable[[str], None] = lambda _problem: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Any: the annotations of redis-py do not cover these options.
        self._client: Any = client
        self._hash = f"{prefix}1:{{blocks}}"
        self._log = f"{prefix}1:{{blocks}}:log"
        self._table = table
        self._on_state = on_state
        self._clock = clock
        self._add: Any = client.register_script(_ADD)
        self._remove: Any = client.register_script(_REMOVE)
        self._prune: Any = client.register_script(_PRUNE)
        self._last = b"0-0"
        self.up = False

    def items(self) -> list[Block]:
        return self._table.items()

    async def add(self, block: Block) -> None:
        """Raises BlocksFull, BlocksUnavailable."""
        if await self._try_add(block):
            return
        await self._guard(self._sync())  # drops expired entries
        if not await self._try_add(block):
            raise BlocksFull

    async def _try_add(self, block: Block) -> bool:
        change = _encode(_Change("add", block))
        args = [
            _field(block_key(block)),
            _encode(block),
            MAX_BLOCKS,
            LOG_ENTRIES,
            change,
        ]
        entry = await self._guard(self._add(keys=[self._hash, self._log], args=args))
        if entry:
            await self._seen(entry)
        return bool(entry)

    async def remove(self, kind: str, id_: str, tenant: str | None) -> bool:
        """Remove a block; False if there was none. Raises BlocksUnavailable."""
        key = (kind, id_, tenant or "")
        change = _encode(_Change("remove", Block(kind, id_, tenant)))
        args = [_field(key), LOG_ENTRIES, change]
        entry = await self._guard(self._remove(keys=[self._hash, self._log], args=args))
        if entry:
            await self._seen(entry)
        return bool(entry)

    async def publish(self, put: Sequence[Block], lift: Sequence[Block]) -> None:
        """Write all in one pipeline, without waiting for the log."""
        turn = self._client.pipeline(transaction=False)
        keys = [self._hash, self._log]
        for block in put:
            change = _encode(_Change("add", block))
            field, value = _field(block_key(block)), _encode(block)
            args = [field, value, MAX_BLOCKS, LOG_ENTRIES, change, self._clock()]
            await self._add(keys=keys, args=args, client=turn)
        for block in lift:
            change = _encode(_Change("remove", block))
            args = [_field(block_key(block)), LOG_ENTRIES, change, DETECTOR]
            await self._remove(keys=keys, args=args, client=turn)
        await self._guard(turn.execute())

    async def _seen(self, entry: bytes) -> None:
        """Wait until the own change comes back through the log. Applied directly, it could
        overtake an earlier change of another gateway.
        """
        for _ in range(_OWN_CHANGE_S * 100):
            if _order(self._last) >= _order(entry):
                return
            await asyncio.sleep(0.01)
        await self._guard(self._sync())

    async def forget(self, keys: Sequence[bytes]) -> None:
        """Raises BlocksUnavailable."""
        change = _encode(_Change("forget", keys=list(keys)))
        await self._guard(
            self._client.xadd(self._log, {"m": change}, maxlen=LOG_ENTRIES)
        )

    async def _guard(self, call: Any) -> Any:
        try:
            return await call
        except (RedisError, OSError) as error:
            raise BlocksUnavailable(str(error)) from error

    async def load(self) -> None:
        await self._guard(self._sync())

    async def run(self) -> None:
        """Follow the list until cancelled; errors of the store are retried."""
        while True:
            try:
                self._last = await self._newest()
                while True:
                    await self._sync()
                    self._set_state("")
                    await self._follow()
            except (RedisError, OSError) as error:
                self._set_state(str(error) or type(error).__name__)
                await asyncio.sleep(_RETRY_S)

    def _set_state(self, problem: str) -> None:
        self.up = not problem
        self._on_state(problem)

    async def _newest(self) -> bytes:
        """Id of the log's last entry. Read before the hash, so that no change is missed."""
        newest = await self._client.xrevrange(self._log, count=1)
        entry: bytes = newest[0][0] if newest else b"0-0"
        return entry

    async def _sync(self) -> None:
        """Read the whole hash; remove expired entries from it."""
        stored: dict[bytes, bytes] = await self._client.hgetall(self._hash)
        now = self._clock()
        alive: list[Block] = []
        stale: list[bytes] = []
        for field, value in stored.items():
            block = _read_block(value)
            if block is not None and not is_over(block, now):
                alive.append(block)
            else:
                stale += (field, value)
        self._table.replace(alive)
        for start in range(0, len(stale), _PRUNE_AT_ONCE * 2):
            chunk = stale[start : start + _PRUNE_AT_ONCE * 2]
            await self._prune(keys=[self._hash], args=chunk)

    async def _follow(self) -> None:
        """Apply changes from the log for RESYNC_S, after which the list is read again."""
        until = time.monotonic() + RESYNC_S
        while time.monotonic() < until:
            read = await self._client.xread(
                {self._log: self._last}, count=LOG_ENTRIES, block=_WAIT_MS
            )
            for _, entries in read or ():
                for entry, fields in entries:
                    self._apply(fields.get(b"m", b""))
                    self._last = entry

    def _apply(self, encoded: bytes) -> None:
        try:
            change = _decode_change(encoded)
        except msgspec.DecodeError:
            return  # from a newer version; the next full read returns the entry
        if change.op == "forget":
            self._table.forget(change.keys)
        elif change.block is not None and change.op == "add":
            self._table.add(change.block)
        elif change.block is not None and change.op == "remove":
            self._table.remove(block_key(change.block), change.block.created_at)


def _order(entry: bytes) -> tuple[int, int]:
    """A stream entry's id as milliseconds and sequence number, for comparison."""
    millis, _, number = entry.partition(b"-")
    return int(millis), int(number)


def _field(key: Key) -> bytes:
    """Hash field of a subject: hashed, like every id in the store's keys."""
    return hashlib.blake2b("\0".join(key).encode(), digest_size=16).digest()


def _read_block(value: bytes) -> Block | None:
    try:
        return _decode_block(value)
    except msgspec.DecodeError:
        return None
