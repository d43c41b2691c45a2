"""The shared store: one script call for all that arrives during one loop turn.

At most one call is under way; whatever comes meanwhile goes into the next one. When
the store falls silent or refuses, a breaker opens: everybody waiting is answered from
local windows at once, and what is spent meanwhile is kept and charged on return.

How no operation is lost or counted twice: calls are numbered, and the store remembers
the last number and what it admitted (see ``lua/gate.lua``). A call without an answer
is in *limbo*. On return an empty call with a higher number comes first: it shows
whether the limbo call was executed, and makes sure that it never will be later on.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from gateway.limits.ports import Cell, Plan, Reserved
from gateway.store import wire
from gateway.store.channel import (
    CONNECT_TIMEOUT_S,
    Channel,
    GateCall,
    StoreUnavailable,
    connect,
    pack_command,
)
from gateway.store.fallback import Fallback, WhenDown
from gateway.store.journal import Recents
from gateway.store.limbo import Limbo
from gateway.store.memory import DONE, HELD, LIMBO, LOCAL, MemoryStore
from gateway.store.silence import SilenceWatch
from gateway.store.url import StoreUrl, check_eviction, parse_store_url

# A call of so many operations keeps a store busy for about 5 ms.
MAX_OPS = 512
# Old business that rides along with each call while live traffic goes on.
BACKLOG_OPS = 64
RETRY_S = 0.25
CLOSE_TIMEOUT_S = 3.0
# Cells in one peek; a plan holds at most 255.
_PEEK_CELLS = 200

_DOWN, _MERGING, _LIVE = range(3)


class StoreStats:
    """Counters since start."""

    __slots__ = ("calls", "lost", "merged", "ops", "replayed", "timeouts")

    def __init__(self) -> None:
        self.calls = 0  # script calls answered
        self.ops = 0  # operations in them
        self.timeouts = 0  # times the breaker opened because of silence
        self.merged = 0  # operations told to the store after an outage
        self.replayed = 0  # calls the store had forgotten and was told again
        self.lost = 0  # operations that could not be sent before close


class RedisStore:
    """``ports.Store`` over Redis or Valkey.

    ``prefix`` opens the key of this worker's own record (cells bring whole keys).
    ``timeout_s``: how long a reserve may wait for a silent store. ``replicas``: how
    many limiters share a limit while the store is away. Hooks: ``on_degraded(reason)``,
    ``on_recovered(merged_ops)``, ``on_call(seconds)``.
    """

    def __init__(
        self,
        url: str | StoreUrl,
        *,
        prefix: bytes = b"tidegate:",
        when_down: WhenDown = "local",
        timeout_s: float = 0.05,
        loop: asyncio.AbstractEventLoop | None = None,
        replicas: int = 1,
    ) -> None:
        self.stats = StoreStats()
        self.last_error = ""
        self.on_degraded: Callable[[str], None] | None = None
        self.on_recovered: Callable[[int], None] | None = None
        self.on_call: Callable[[float], None] | None = None
        self.address = parse_store_url(url) if isinstance(url, str) else url
        self._loop = loop or asyncio.get_running_loop()
        self._stream = os.urandom(8)
        self.stream_key = prefix + b"1:x:" + self._stream.hex().encode()
        self._call = GateCall(self.stream_key)
        self._leases = 0
        self._seq = 0
        self._acked = -1
        self._clock_us = time.time_ns() // 1000 - int(self._loop.time() * 1e6)
        windows = MemoryStore(
            clock=self.now_us, monotonic=self._loop.time, replicas=replicas
        )
        self._fallback = Fallback(when_down, windows, self._new_lease)
        self._mode = _DOWN
        self._queue: list[wire.Op] = []
        # Calls that a forgetful store is to be told again, before the queue.
        self._again: deque[bytes] = deque()
        # The call under way: operations, packed form, and whether it is from _again.
        self._sent: list[wire.Op] | None = None
        self._packed = b""
        self._telling = False
        self._sent_at = 0.0
        self._reloaded = 0
        # True: do not schedule a flush (one is under way, or the store is).
        self._flushing = True
        self._channel: Channel | None = None
        self._watch = SilenceWatch(self._loop, timeout_s, self._heard, self._on_silence)
        self._recents = Recents()
        self._limbo: Limbo | None = None
        self._merge_left = 0
        self._merging = 0
        self._resumed_at = 0.0
        self._degraded = False
        self._reviver: asyncio.Task[None] | None = None
        self._drained: asyncio.Event | None = None

    # -- what the data plane calls ---------------------------------------------------

    def reserve(
        self, plan: Plan, costs: Sequence[int], done: Callable[[Reserved], None]
    ) -> Reserved:
        """See ``ports.Store``; answers at once while the store is away."""
        reserved = Reserved(plan, costs)
        if self._mode != _LIVE or not plan.cells:
            self._decide_now(reserved)
            done(reserved)
            return reserved
        if (plan.packed or wire.packed_plan(plan)).leased:
            reserved.lease = self._new_lease()
        self._queue.append((wire.RESERVE, reserved, done))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return reserved

    def settle(self, reserved: Reserved, actual: Sequence[int]) -> None:
        """See ``ports.Store``; a second settlement changes nothing."""
        if reserved.state == HELD:
            reserved.state = DONE
            self._queue.append((wire.SETTLE, reserved, actual))
            if not self._flushing:
                self._flushing = True
                self._loop.call_soon(self._flush)
            elif self._mode != _LIVE:
                self._fallback.windows.adjust(reserved, actual)
        elif reserved.state == LOCAL:
            self._fallback.settle(reserved, actual)
            if self._mode == _LIVE:
                self._schedule()
        elif reserved.state == LIMBO:
            self._settle_limbo(reserved, actual)

    def charge(self, plan: Plan, actual: Sequence[int]) -> None:
        """See ``ports.Store``; rides along with the next call."""
        reserved = Reserved(plan, actual)
        reserved.at_us = self.now_us()
        if self._mode != _LIVE:
            self._fallback.owe(reserved, actual)
        elif plan.cells:
            self._queue.append((wire.CHARGE, reserved, None))
            self._schedule()

    def renew(self, reserved: Reserved) -> None:
        """Prolong the leases; while the store is away they need no renewing."""
        if reserved.state == LOCAL:
            self._fallback.windows.renew(reserved)
        elif reserved.state == HELD and self._mode == _LIVE and reserved.lease:
            self._queue.append((wire.RENEW, reserved, None))
            self._schedule()

    @property
    def up(self) -> bool:
        """Whether limits are shared now."""
        return self._mode == _LIVE

    @property
    def degraded(self) -> bool:
        """Whether it was told that limits are not shared, and not yet that they are."""
        return self._degraded

    @property
    def journal_size(self) -> int:
        """What waits for the store: operations, open exchanges and sums."""
        limbo = len(self._limbo or ())
        return len(self._queue) + len(self._again) + len(self._fallback) + limbo

    @property
    def decided_locally(self) -> int:
        """Reserves answered without the store."""
        return self._fallback.decided

    @property
    def evicted(self) -> int:
        """Counters the local windows had to forget for want of room."""
        return self._fallback.windows.evicted

    @property
    def replicas(self) -> int:
        """How many limiters share each limit while the store is away."""
        return self._fallback.windows.replicas

    @replicas.setter
    def replicas(self, count: int) -> None:
        self._fallback.windows.replicas = max(1, count)

    def now_us(self) -> int:
        """Best estimate of the store's clock, epoch microseconds."""
        return int(self._loop.time() * 1e6) + self._clock_us

    # -- sending and answering -------------------------------------------------------

    def _new_lease(self) -> bytes:
        self._leases += 1
        return self._stream + self._leases.to_bytes(8, "little")

    def _schedule(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        channel = self._channel
        if self._mode == _DOWN or self._sent is not None or channel is None:
            return
        self._telling = bool(self._again)
        batch = [] if self._telling else self._take()
        if not batch and not self._telling:
            self._rest()
            return
        self._packed = (
            self._again.popleft() if self._telling else wire.encode_call(batch)
        )
        self._seq += 1
        self._sent = batch
        # Not the loop's clock: it ticks in milliseconds.
        self._sent_at = time.perf_counter()
        self._watch.expect()
        channel.send(self._frame(), self._on_answer)

    def _frame(self) -> bytes:
        return self._call.frame(wire.number_call(self._seq, self._packed))

    def _take(self) -> list[wire.Op]:
        queue = self._queue
        if len(queue) <= MAX_OPS:
            batch, self._queue = queue, []
        else:
            batch, self._queue = queue[:MAX_OPS], queue[MAX_OPS:]
        if self._fallback:
            owed = self._fallback.take(BACKLOG_OPS)
            self.stats.merged += len(owed)
            batch += owed
        return batch

    def _on_answer(self, answer: Any) -> None:
        batch = self._sent
        if batch is None:
            return
        if not isinstance(answer, list) or answer[-1] == b"stale":
            self._on_error(answer)
            return
        self._sent = None
        self._watch.satisfied()
        now = self._loop.time()
        self._clock_us = answer[0] - int(now * 1e6)
        forgotten = answer[1] != self._acked and self._tell_again(answer[1])
        self._acked = self._seq
        self.stats.calls += 1
        self.stats.ops += len(batch)
        if self.on_call is not None:
            self.on_call(time.perf_counter() - self._sent_at)
        refused = self._give(batch, answer, now)
        self._recents.add(self._seq, now, self._packed, answer[0], refused)
        if forgotten:
            self._catch_up()
        elif self._mode == _MERGING:
            self._merge_left -= len(batch) or 1
            self._check_merged()
        if self._queue or self._again or self._fallback:
            self._loop.call_soon(self._flush)
        else:
            self._rest()

    def _rest(self) -> None:
        """Nothing left to send: the next operation schedules a flush again."""
        self._flushing = False
        if self._drained is not None:
            self._drained.set()

    def _give(
        self, batch: list[wire.Op], answer: Sequence[int], now: float
    ) -> tuple[int, ...]:
        """Answer everybody in the batch; which of the reserves were refused."""
        at = wire.ANSWER_HEAD
        reserves = 0
        refused: list[int] = []
        for code, reserved, done in batch:
            if code == wire.RESERVE:
                at = wire.read_reserve(answer, at, reserved, now)
                if reserved.admitted:
                    reserved.state = HELD
                else:
                    reserved.state = DONE
                    refused.append(reserves)
                reserves += 1
                self._tell(done, reserved)
            elif code == wire.PEEK:
                size = len(reserved.plan.cells)
                reserved.sums = answer[at : at + size]
                at += size
                self._tell(done, reserved)
        return tuple(refused)

    def _tell(self, done: Callable[[Reserved], None], reserved: Reserved) -> None:
        try:
            done(reserved)
        except Exception as error:  # noqa: BLE001 - one listener must not cost the rest
            self._loop.call_exception_handler(
                {"message": "a reserve's callback failed", "exception": error}
            )

    def _on_error(self, answer: object) -> None:
        reason = str(answer)
        if reason.startswith("NOSCRIPT") and self._reloaded != self._seq:
            self._reload()
        else:
            self._open(reason.removeprefix("LOST "))

    def _reload(self) -> None:
        """The store forgot the script, so nothing was executed: load it, send again."""
        channel = self._channel
        if channel is None:
            return
        self._reloaded = self._seq
        load = pack_command("SCRIPT", "LOAD", wire.SCRIPT)
        channel.send(load, lambda _: None)
        channel.send(self._frame(), self._on_answer)

    def _tell_again(self, past_seq: int) -> bool:
        """The store lost the calls after ``past_seq``: they come first now."""
        calls = self._recents.take_after(past_seq, self._loop.time())
        self.stats.replayed += len(calls)
        self._again.extendleft(reversed(calls))
        return bool(calls)

    def _catch_up(self) -> None:
        """Until a forgetful store knows again what it knew, nobody waits for it."""
        self._mode = _MERGING
        queue, self._queue = self._queue, []
        self._queue[:0] = [op for op in queue if not self._answer_queued(op)]
        self._merge_left = len(self._queue) + len(self._again)
        self._merging = self.journal_size

    # -- the breaker -----------------------------------------------------------------

    def _heard(self) -> int:
        return self._channel.heard if self._channel is not None else 0

    def _on_silence(self) -> None:
        self.stats.timeouts += 1
        self._open("the store does not answer")

    def _on_lost(self, reason: str) -> None:
        self._open(reason)

    def _open(self, reason: str) -> None:
        """Give the store up: answer everybody who waits, keep the rest for later."""
        if self._mode == _DOWN:
            return
        self._mode = _DOWN
        self._flushing = True
        self._drop_channel()
        sent, self._sent = self._sent, None
        queue, self._queue = self._queue, []
        if sent is not None:
            self._answer_limbo(sent)
        kept = [op for op in queue if not self._answer_queued(op)]
        self._queue[:0] = kept
        self._degrade(reason)

    def _degrade(self, reason: str) -> None:
        self.last_error = reason
        if not self._degraded and self.on_degraded is not None:
            self.on_degraded(reason)
        self._degraded = True
        self._reviver = self._loop.create_task(self._revive())

    def _drop_channel(self) -> None:
        self._watch.stop()
        if self._channel is not None:
            self._channel.abort()
            self._channel = None

    def _answer_limbo(self, sent: list[wire.Op]) -> None:
        """Decide what is in limbo first, then tell: a listener may settle at once."""
        for code, reserved, _ in sent:
            if code == wire.RESERVE:
                self._fallback.decide(reserved)
        told = self._packed if self._telling else None
        self._limbo = Limbo(self._seq, sent, told)
        for code, reserved, done in sent:
            if code == wire.RESERVE:
                self._tell(done, reserved)
            elif code == wire.PEEK:
                self._peek_locally(reserved, done)

    def _answer_queued(self, op: wire.Op) -> bool:
        """Answer who waits; True when nothing is left to send."""
        code, reserved, done = op
        if code == wire.RESERVE:
            self._decide_now(reserved)
            self._tell(done, reserved)
        elif code == wire.PEEK:
            self._peek_locally(reserved, done)
        return code in (wire.RESERVE, wire.PEEK, wire.RENEW)

    def _decide_now(self, reserved: Reserved) -> None:
        if reserved.plan.cells:
            self._fallback.admit(reserved)
        else:
            reserved.admitted = True
            reserved.state = DONE

    def _settle_limbo(self, reserved: Reserved, actual: Sequence[int]) -> None:
        if self._limbo is not None and self._limbo.settle(reserved, actual):
            self._fallback.windows.adjust(reserved, actual)

    def _peek_locally(
        self, reserved: Reserved, done: Callable[[Reserved], None]
    ) -> None:
        reserved.sums = self._fallback.windows.sums(reserved.plan.cells)
        self._tell(done, reserved)

    # -- recovery --------------------------------------------------------------------

    async def start(self) -> None:
        """Connect; where that fails the breaker is open and recovery goes on."""
        try:
            await self._connect()
        except StoreUnavailable as error:
            self._degrade(str(error))

    async def _revive(self) -> None:
        # At once, but no faster than that where it breaks again and again.
        if self._loop.time() - self._resumed_at < RETRY_S:
            await asyncio.sleep(RETRY_S)
        while True:
            try:
                await self._connect()
            except StoreUnavailable as error:
                self.last_error = str(error)
            else:
                return
            # Not all workers at the same moment.
            await asyncio.sleep(RETRY_S * random.uniform(0.8, 1.2))  # noqa: S311

    async def _connect(self) -> None:
        channel = await connect(self.address, self._on_lost)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                answer = await self._probe(channel)
        except (TimeoutError, StoreUnavailable) as error:
            channel.abort()
            raise StoreUnavailable(str(error) or "no answer from the store") from error
        self._channel = channel
        self._resume(answer)

    async def _probe(self, channel: Channel) -> Any:
        """An empty call: what does the store remember, and the limbo call is void."""
        self._seq += 1
        frame = self._call.frame(wire.number_call(self._seq, wire.encode_call(())))
        return await channel.ask_framed(frame)

    def _resume(self, answer: Sequence[Any]) -> None:
        self._clock_us = answer[0] - int(self._loop.time() * 1e6)
        past_seq, at_us, flags = answer[1], answer[2], answer[3]
        limbo, self._limbo = self._limbo, None
        if limbo is not None:
            executed = past_seq == limbo.seq
            if executed:
                self._acked = past_seq
            elif limbo.told is not None:
                self._again.appendleft(limbo.told)
            ops = limbo.resolve(at_us, flags if executed else None, self._fallback)
            self._queue[:0] = ops
        # In the order of old: what was answered and forgotten, the limbo, the rest.
        if past_seq != self._acked:
            self._tell_again(past_seq)
            self._acked = past_seq
        self._resumed_at = self._loop.time()
        self._mode = _MERGING
        self._merge_left = len(self._queue) + len(self._again)
        self._merging = len(self._queue) + len(self._again) + self._fallback.exchanges
        self._check_merged()
        self._loop.call_soon(self._flush)

    def _check_merged(self) -> None:
        """Close the breaker once everything that has an order has been told."""
        if self._merge_left > 0:
            return
        self._mode = _LIVE
        self._fallback.windows.clear()
        recovered, self._degraded = self._degraded, False
        if recovered and self.on_recovered is not None:
            self.on_recovered(self._merging)

    # -- administration --------------------------------------------------------------

    async def peek(self, cells: Sequence[Cell]) -> list[int]:
        """Sums now, nothing counted; local ones while the store is away."""
        sums: list[int] = []
        for start in range(0, len(cells), _PEEK_CELLS):
            sums += await self._peek_some(tuple(cells[start : start + _PEEK_CELLS]))
        return sums

    async def _peek_some(self, cells: tuple[Cell, ...]) -> Sequence[int]:
        if self._mode != _LIVE:
            return self._fallback.windows.sums(cells)
        answered: asyncio.Future[Sequence[int]] = self._loop.create_future()

        def done(reserved: Reserved) -> None:
            if not answered.done():
                answered.set_result(reserved.sums)

        self._queue.append((wire.PEEK, Reserved(Plan(cells), ()), done))
        self._schedule()
        return await answered

    async def reset(self, cells: Sequence[Cell]) -> None:
        """Forget these counters; raises StoreUnavailable while the store is away."""
        await self._fallback.windows.reset(cells)
        if not cells:
            return
        if self._channel is None:
            msg = f"the store is away: {self.last_error}"
            raise StoreUnavailable(msg)
        await self._channel.ask("UNLINK", *(cell.key for cell in cells))

    async def eviction_warning(self) -> str | None:
        """What to warn of where the store may evict keys; raises StoreUnavailable."""
        if self._channel is None:
            msg = f"the store is away: {self.last_error}"
            raise StoreUnavailable(msg)
        info: bytes = await self._channel.ask("INFO", "memory")
        fields = dict(
            line.split(":", 1) for line in info.decode().split() if ":" in line
        )
        policy = fields.get("maxmemory_policy", "")
        return check_eviction(policy, int(fields.get("maxmemory", "0")))

    async def close(self) -> None:
        """Send everything still queued, for CLOSE_TIMEOUT_S at most."""
        if self.journal_size or self._sent:
            await self._drain()
        if self._reviver is not None:
            self._reviver.cancel()
        self._mode = _DOWN
        self._drop_channel()

    async def _drain(self) -> None:
        self._drained = asyncio.Event()
        self._loop.call_soon(self._flush)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._drained.wait()
        except TimeoutError:
            self.stats.lost += self.journal_size + len(self._sent or ())
