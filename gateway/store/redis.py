"""The shared store: one script call for all operations of one event loop turn.

At most one call is in flight; operations that arrive meanwhile go into the next one.
When the store stops answering or returns an error, a breaker opens: every waiting
caller is answered from local windows at once, and what is spent meanwhile is kept and
charged when the store is back.

No operation is lost or counted twice: calls are numbered, and the store remembers the
last number and which reserves it admitted (see ``lua/gate.lua``). A call without an
answer is in doubt. After reconnecting, an empty call with a higher number comes first:
its answer shows whether the call in doubt was executed, and the store will refuse that
call from then on.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from gateway.limits.plans import DEFAULT_PREFIX
from gateway.limits.ports import Cell, Plan, Reserved, Works
from gateway.store import wire
from gateway.store.backend import DEFAULT_TIMEOUT_S
from gateway.store.channel import (
    CONNECT_TIMEOUT_S,
    Channel,
    GateCall,
    StoreUnavailable,
    connect,
    pack_command,
)
from gateway.store.fallback import Fallback, WhenDown
from gateway.store.in_doubt import InDoubtCall
from gateway.store.memory import MemoryStore
from gateway.store.replay_log import ReplayLog
from gateway.store.states import DONE, HELD, IN_DOUBT, LOCAL, detach, resume
from gateway.store.url import RedisAddress, parse_redis_url
from gateway.store.watchdog import AnswerWatchdog
from gateway.store.works import RedisWorks

# Most operations in a call; a call of this size takes the store about 5 ms.
MAX_OPS = 512
# Operations of an outage that are added to each call beside live traffic.
BACKLOG_OPS = 64
RETRY_S = 0.25
CLOSE_TIMEOUT_S = 3.0
# Cells in one peek (a plan holds at most 255).
_PEEK_CELLS = 200

_DOWN, _MERGING, _LIVE = range(3)


class StoreStats:
    """Counters since start."""

    __slots__ = ("calls", "lost", "merged", "ops", "replayed", "timeouts")

    def __init__(self) -> None:
        self.calls = 0  # script calls answered
        self.ops = 0  # operations in them
        self.timeouts = 0  # times the breaker opened because no answer came
        self.merged = 0  # operations of an outage sent to the store afterwards
        self.replayed = 0  # acknowledged calls that the store had lost, sent again
        self.lost = 0  # operations not sent when the store was closed


class RedisStore:
    """``ports.Store`` over Redis or Valkey.

    ``prefix``: of the key of this worker's record (cells hold complete keys).
    ``timeout_s``: longest wait of a reserve for an answer. ``replicas``: number of
    limiters among which a limit is divided while the store is unavailable. Hooks:
    ``on_degraded(reason)``, ``on_recovered(merged_ops)``, ``on_call(seconds)``.
    """

    def __init__(
        self,
        url: str | RedisAddress,
        *,
        prefix: bytes = DEFAULT_PREFIX,
        when_down: WhenDown = "local",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        loop: asyncio.AbstractEventLoop | None = None,
        replicas: int = 1,
    ) -> None:
        self.stats = StoreStats()
        self.last_error = ""
        self.on_degraded: Callable[[str], None] | None = None
        self.on_recovered: Callable[[int], None] | None = None
        self.on_call: Callable[[float], None] | None = None
        self.address = parse_redis_url(url) if isinstance(url, str) else url
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
        # Calls that the store lost; they are sent before the queue.
        self._replays: deque[bytes] = deque()
        # The call in flight: operations, packed form, and whether it is a replay.
        self._sent: list[wire.Op] | None = None
        self._packed = b""
        self._replaying = False
        self._sent_at = 0.0
        self._reloaded = 0
        # True: do not schedule a flush (one is scheduled, or the store is unavailable).
        self._flushing = True
        self._channel: Channel | None = None
        self._watchdog = AnswerWatchdog(
            self._loop, timeout_s, self._received, self._on_silence
        )
        self._replay_log = ReplayLog()
        self._works = RedisWorks(prefix, self._loop)
        self.works: Works = self._works
        self._in_doubt: InDoubtCall | None = None
        self._merge_left = 0
        self._merging = 0
        self._resumed_at = 0.0
        self._degraded = False
        self._reconnecting: asyncio.Task[None] | None = None
        self._drained: asyncio.Event | None = None

    # -- what the data plane calls ---------------------------------------------------

    def reserve(
        self,
        plan: Plan,
        costs: Sequence[int],
        done: Callable[[Reserved], None],
        least: Sequence[int] | None = None,
    ) -> Reserved:
        """See ``ports.Store``; answers immediately while the store is unavailable."""
        reserved = Reserved(plan, costs, least)
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
        """See ``ports.Store``; idempotent."""
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
        elif reserved.state == IN_DOUBT:
            self._settle_in_doubt(reserved, actual)

    def hold(self, plan: Plan, costs: Sequence[int]) -> Reserved:
        """Reserve without a check; see ``ports.Store``."""
        reserved = resume(plan, costs, self.now_us())
        reserved.lease = self._new_lease()
        if self._mode != _LIVE:
            self._fallback.hold(reserved)
        else:
            self._queue.append((wire.HOLD, reserved, None))
            self._schedule()
        return reserved

    def charge(self, plan: Plan, actual: Sequence[int]) -> None:
        """See ``ports.Store``; sent with the next call."""
        reserved = Reserved(plan, actual)
        reserved.at_us = self.now_us()
        if self._mode != _LIVE:
            self._fallback.defer(reserved, actual)
        elif plan.cells:
            self._queue.append((wire.CHARGE, reserved, None))
            self._schedule()

    def renew(self, reserved: Reserved) -> None:
        """Extend the leases; not needed while the store is unavailable.

        ``proxy/service.py`` calls it every ``RENEW_S``.
        """
        if reserved.state == LOCAL:
            self._fallback.windows.renew(reserved)
        elif reserved.state == HELD and self._mode == _LIVE and reserved.lease:
            self._queue.append((wire.RENEW, reserved, None))
            self._schedule()

    def detach(self, reserved: Reserved) -> bool:
        """End the leases; see ``ports.Store``."""
        return detach(reserved, self.settle)

    @property
    def up(self) -> bool:
        """Whether the store answers, so that limits are shared."""
        return self._mode == _LIVE

    @property
    def degraded(self) -> bool:
        """Whether ``on_degraded`` was called and ``on_recovered`` was not yet."""
        return self._degraded

    @property
    def backlog(self) -> int:
        """Number of operations, open exchanges and sums that wait for the store."""
        in_doubt = len(self._in_doubt or ())
        return len(self._queue) + len(self._replays) + len(self._fallback) + in_doubt

    def statistics(self) -> dict[str, int]:
        """Counters since start, and the backlog."""
        stats = self.stats
        counted = {f"store_{name}": getattr(stats, name) for name in stats.__slots__}
        return counted | {"journal": self.backlog}

    def dropped_counts(self) -> dict[str, int]:
        """Nothing: windows evicted during an outage are replaced by the store's."""
        return {}

    @property
    def replicas(self) -> int:
        """Number of limiters among which limits are divided during an outage."""
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
        self._replaying = bool(self._replays)
        batch = [] if self._replaying else self._take()
        if not batch and not self._replaying:
            self._go_idle()
            return
        self._packed = (
            self._replays.popleft() if self._replaying else wire.encode_call(batch)
        )
        self._seq += 1
        self._sent = batch
        # Not the loop's clock: its resolution is 1 ms.
        self._sent_at = time.perf_counter()
        self._watchdog.expect()
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
        self._watchdog.answered()
        now = self._loop.time()
        self._clock_us = answer[0] - int(now * 1e6)
        lost_calls = answer[1] != self._acked and self._queue_replays(answer[1])
        self._acked = self._seq
        self.stats.calls += 1
        self.stats.ops += len(batch)
        if self.on_call is not None:
            self.on_call(time.perf_counter() - self._sent_at)
        refused = self._deliver_answers(batch, answer, now)
        self._replay_log.add(self._seq, now, self._packed, answer[0], refused)
        if lost_calls:
            self._replay_lost_calls()
        elif self._mode == _MERGING:
            self._merge_left -= len(batch) or 1
            self._check_merged()
        if self._queue or self._replays or self._fallback:
            self._loop.call_soon(self._flush)
        else:
            self._go_idle()

    def _go_idle(self) -> None:
        """Stop flushing: the next operation schedules a flush again."""
        self._flushing = False
        if self._drained is not None:
            self._drained.set()

    def _deliver_answers(
        self, batch: list[wire.Op], answer: Sequence[int], now: float
    ) -> tuple[int, ...]:
        """Deliver the answers; return the indices of refused reserves."""
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
                self._notify(done, reserved)
            elif code == wire.PEEK:
                size = len(reserved.plan.cells)
                reserved.sums = answer[at : at + size]
                at += size
                self._notify(done, reserved)
        return tuple(refused)

    def _notify(self, done: Callable[[Reserved], None], reserved: Reserved) -> None:
        try:
            done(reserved)
        except Exception as error:  # noqa: BLE001 - the other callbacks must still run
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
        """Load the script and send the call again: NOSCRIPT executed nothing."""
        channel = self._channel
        if channel is None:
            return
        self._reloaded = self._seq
        load = pack_command("SCRIPT", "LOAD", wire.SCRIPT)
        channel.send(load, lambda _: None)
        channel.send(self._frame(), self._on_answer)

    def _queue_replays(self, past_seq: int) -> bool:
        """Queue the calls after ``past_seq``, which the store lost; False if none."""
        calls = self._replay_log.take_after(past_seq, self._loop.time())
        self.stats.replayed += len(calls)
        self._replays.extendleft(reversed(calls))
        return bool(calls)

    def _replay_lost_calls(self) -> None:
        """Answer locally until the store has executed its lost calls again."""
        self._mode = _MERGING
        queue, self._queue = self._queue, []
        self._queue[:0] = [op for op in queue if not self._answer_queued(op)]
        self._merge_left = len(self._queue) + len(self._replays)
        self._merging = self.backlog

    # -- the breaker -----------------------------------------------------------------

    def _received(self) -> int:
        return self._channel.received if self._channel is not None else 0

    def _on_silence(self) -> None:
        self.stats.timeouts += 1
        self._open("the store does not answer")

    def _on_lost(self, reason: str) -> None:
        self._open(reason)

    def _open(self, reason: str) -> None:
        """Open the breaker: answer waiting callers locally, keep the rest."""
        if self._mode == _DOWN:
            return
        self._mode = _DOWN
        self._flushing = True
        self._drop_channel()
        sent, self._sent = self._sent, None
        queue, self._queue = self._queue, []
        if sent is not None:
            self._answer_in_doubt(sent)
        kept = [op for op in queue if not self._answer_queued(op)]
        self._queue[:0] = kept
        self._degrade(reason)

    def _degrade(self, reason: str) -> None:
        self.last_error = reason
        if not self._degraded and self.on_degraded is not None:
            self.on_degraded(reason)
        self._degraded = True
        self._reconnecting = self._loop.create_task(self._reconnect())

    def _drop_channel(self) -> None:
        self._watchdog.stop()
        if self._channel is not None:
            self._channel.abort()
            self._channel = None
        self._works.leave()

    def _answer_in_doubt(self, sent: list[wire.Op]) -> None:
        """Decide all reserves, then call back: a callback may settle immediately."""
        for code, reserved, _ in sent:
            if code == wire.RESERVE:
                self._fallback.decide(reserved)
        replay = self._packed if self._replaying else None
        self._in_doubt = InDoubtCall(self._seq, sent, replay)
        for code, reserved, done in sent:
            if code == wire.RESERVE:
                self._notify(done, reserved)
            elif code == wire.PEEK:
                self._peek_locally(reserved, done)

    def _answer_queued(self, op: wire.Op) -> bool:
        """Answer a waiting caller locally; True if nothing is left to send."""
        code, reserved, done = op
        if code == wire.RESERVE:
            self._decide_now(reserved)
            self._notify(done, reserved)
        elif code == wire.PEEK:
            self._peek_locally(reserved, done)
        return code in (wire.RESERVE, wire.PEEK, wire.RENEW)

    def _decide_now(self, reserved: Reserved) -> None:
        if reserved.plan.cells:
            self._fallback.admit(reserved)
        else:
            reserved.admitted = True
            reserved.state = DONE

    def _settle_in_doubt(self, reserved: Reserved, actual: Sequence[int]) -> None:
        if self._in_doubt is not None and self._in_doubt.settle(reserved, actual):
            self._fallback.windows.adjust(reserved, actual)

    def _peek_locally(
        self, reserved: Reserved, done: Callable[[Reserved], None]
    ) -> None:
        reserved.sums = self._fallback.windows.sums(reserved.plan.cells)
        self._notify(done, reserved)

    # -- recovery --------------------------------------------------------------------

    async def start(self) -> None:
        """Connect; on failure start with an open breaker and keep reconnecting."""
        try:
            await self._connect()
        except StoreUnavailable as error:
            self._degrade(str(error))

    async def _reconnect(self) -> None:
        # Immediately, unless the last connection broke within RETRY_S.
        if self._loop.time() - self._resumed_at < RETRY_S:
            await asyncio.sleep(RETRY_S)
        while True:
            try:
                await self._connect()
            except StoreUnavailable as error:
                self.last_error = str(error)
            else:
                return
            # Jitter, so that workers do not reconnect at the same moment.
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
        self._works.channel = channel
        self._resume(answer)

    async def _probe(self, channel: Channel) -> Any:
        """Send an empty call: learn the last executed one, void the one in doubt."""
        self._seq += 1
        frame = self._call.frame(wire.number_call(self._seq, wire.encode_call(())))
        return await channel.ask_framed(frame)

    def _resume(self, answer: Sequence[Any]) -> None:
        self._clock_us = answer[0] - int(self._loop.time() * 1e6)
        past_seq, at_us, flags = answer[1], answer[2], answer[3]
        in_doubt, self._in_doubt = self._in_doubt, None
        if in_doubt is not None:
            executed = past_seq == in_doubt.seq
            if executed:
                self._acked = past_seq
            elif in_doubt.replay is not None:
                self._replays.appendleft(in_doubt.replay)
            ops = in_doubt.resolve(at_us, flags if executed else None, self._fallback)
            self._queue[:0] = ops
        # Replay in original order: lost acknowledged calls, the in-doubt call, the
        # queue.
        if past_seq != self._acked:
            self._queue_replays(past_seq)
            self._acked = past_seq
        self._resumed_at = self._loop.time()
        self._mode = _MERGING
        self._merge_left = len(self._queue) + len(self._replays)
        self._merging = len(self._queue) + len(self._replays) + self._fallback.exchanges
        self._check_merged()
        self._loop.call_soon(self._flush)

    def _check_merged(self) -> None:
        """Close the breaker once all ordered operations were sent."""
        if self._merge_left > 0:
            return
        self._mode = _LIVE
        self._fallback.windows.clear()
        recovered, self._degraded = self._degraded, False
        if recovered and self.on_recovered is not None:
            self.on_recovered(self._merging)

    # -- administration --------------------------------------------------------------

    async def peek(self, cells: Sequence[Cell]) -> list[int]:
        """Current sums; local ones while the store is unavailable."""
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
        """Delete these counters; raises StoreUnavailable."""
        await self._fallback.windows.reset(cells)
        if not cells:
            return
        if self._channel is None:
            msg = f"the store is unavailable: {self.last_error}"
            raise StoreUnavailable(msg)
        await self._channel.ask("UNLINK", *(cell.key for cell in cells))

    async def close(self) -> None:
        """Send everything still queued, within CLOSE_TIMEOUT_S."""
        if self.backlog or self._sent:
            await self._drain()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        self._mode = _DOWN
        self._drop_channel()

    async def _drain(self) -> None:
        self._drained = asyncio.Event()
        self._loop.call_soon(self._flush)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._drained.wait()
        except TimeoutError:
            self.stats.lost += self.backlog + len(self._sent or ())
