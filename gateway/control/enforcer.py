"""From what the detector decided to what every worker of every gateway does.

A verdict takes effect in this machine's workers at once and is written into the store
right after; there other gateways find it. What the store cannot take waits, the newest
word on each subject, and is written when it is back. Operators are never overruled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from gateway.control.blocks import (
    MAX_BLOCKS,
    Blocks,
    BlocksUnavailable,
    BlockTable,
    Key,
    block_key,
    is_over,
)
from gateway.core.model import DETECTOR, Block
from gateway.detect.ladder import allowed_rate
from gateway.detect.model import ACTIONS

if TYPE_CHECKING:
    from gateway.core.model import Policy
    from gateway.detect.blocked_templates import BlockedTemplate
    from gateway.detect.ladder import EnforcementState
    from gateway.detect.model import Output

# Half of the list is kept for operators; whoever is beyond it stays unblocked until
# others have served their time.
MOST_VERDICTS = MAX_BLOCKS // 2
# Verdicts that wait for the store; beyond them the oldest are only this machine's.
MOST_WAITING = 20_000
WRITE_AT_ONCE = 500
RETRY_S = 1.0
# A tag or throttle that ends so much later than workers think is told anew.
_PROLONG_S = 30.0


class Enforcer:
    """``Blocks`` is the list in the store, ``BlockTable`` what workers are told."""

    def __init__(
        self,
        table: BlockTable,
        blocks: Blocks,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._table = table
        self._blocks = blocks
        self._clock = clock
        self._policies: Mapping[str, Policy] = {}
        self._default: Policy | None = None
        self._waiting: dict[Key, Block | None] = {}
        self._floods: dict[Key, float] = {}  # until when each was told of
        self._due = asyncio.Event()
        self._looked = False
        table.unwritten = lambda: self._waiting
        self.dropped = 0
        """Verdicts for which the list or the queue had no room."""

    @property
    def waiting(self) -> int:
        """Verdicts that the store does not know yet."""
        return len(self._waiting)

    def configure(self, policies: Mapping[str, Policy], default: Policy) -> None:
        """Whoever stands somewhere by a detection that is off now is let go."""
        self._policies, self._default = policies, default
        self._let_go()

    def tick(self) -> None:
        """Once a second; what the store's list brings at the start is looked at too."""
        if self._table.known and not self._looked:
            self._looked = True
            self._let_go()

    def _let_go(self) -> None:
        gone = [
            block_key(block)
            for block in self._table.items()
            if block.by == DETECTOR and not self._policy(block).anomaly.enabled
        ]
        self._change([], gone)

    def _policy(self, block: Block) -> Policy:
        found = self._policies.get(block.tenant or "", self._default)
        assert found is not None  # configured before anything is decided
        return found

    # -- what was decided ----------------------------------------------------------------

    def take(self, outputs: Iterable[Output]) -> None:
        """Carry out what concerns single clients."""
        added: dict[Key, Block] = {}
        gone: list[Key] = []
        for output in outputs:
            if not output.type.startswith("client."):
                continue
            key = (output.subject.kind, output.subject.id, output.tenant)
            if output.type == "client.unblocked":
                added.pop(key, None)
                if not self._outlasts(key, output.at):
                    gone.append(key)
            elif (block := self._block(output)) is not None:
                added[key] = block
        self._change(list(added.values()), gone)

    def _outlasts(self, key: Key, now: float) -> bool:
        """Whether another gateway has blocked it for longer than this one."""
        known = self._table.find(key)
        return known is not None and known.until is not None and known.until > now + 1.0

    def _block(self, output: Output) -> Block | None:
        if output.action == "allow" or output.until is None:
            return None
        policy = self._policies.get(output.tenant, self._default)
        share = 1.0 if policy is None else policy.anomaly.throttle_share
        return Block(
            kind=output.subject.kind,
            id=output.subject.id,
            tenant=output.tenant,
            until=_moment(output.until),
            reason=output.reasons[0] if output.reasons else "",
            created_at=_moment(output.ts),
            by=DETECTOR,
            action=output.action,
            cls=output.cls,
            score=output.score,
            rate=allowed_rate(output, share) if output.action == "throttle" else 0,
        )

    def renew(
        self, standings: Iterable[tuple[tuple[str, str, str], EnforcementState]]
    ) -> None:
        """Tags and throttles go on as long as their evidence does."""
        added: list[Block] = []
        for (tenant, kind, id_), standing in standings:
            if standing.action not in ("tag", "throttle"):
                continue
            known = self._table.find((kind, id_, tenant))
            if known is None or known.by != DETECTOR or known.until is None:
                continue  # an operator said otherwise
            if known.action != standing.action:
                continue  # another gateway did
            if standing.until > known.until + _PROLONG_S:
                added.append(
                    msgspec.structs.replace(
                        known, until=standing.until, created_at=self._clock()
                    )
                )
        self._change(added, [])

    def hold_floods(self, floods: Iterable[BlockedTemplate]) -> bool:
        """Templates of crowds that are refused of newcomers, all of them; whether there
        is anything new. Whichever an operator has lifted stays lifted while its flood
        lasts.
        """
        told: dict[Key, float] = {}
        added: list[Block] = []
        for flood in floods:
            block = _flood_block(flood)
            key = block_key(block)
            before = self._floods.get(key, 0.0)
            new = not before or self._is_ours(key)
            if new and flood.until > before + _PROLONG_S:
                added.append(block)
                told[key] = flood.until
            else:
                told[key] = before
        self._floods = told
        if added:
            self._change(added, [])
        return bool(added)

    def flooded(self) -> dict[str, float]:
        """Tenants with templates that are refused, by this gateway or another, and when
        the first of them was born.
        """
        found: dict[str, float] = {}
        for block in self._table.of_kind("prompts"):
            if block.by == DETECTOR and block.tenant is not None:
                born = found.get(block.tenant, block.created_at)
                found[block.tenant] = min(born, block.created_at)
        return found

    def _change(self, added: list[Block], gone: list[Key]) -> None:
        now = self._clock()
        if len(self._table) + len(added) > MOST_VERDICTS:
            self._table.expire()
        room = MOST_VERDICTS - len(self._table)
        fits: list[Block] = []
        for block in added:
            known = self._table.find(block_key(block))
            if known is not None and not is_over(known, now) and _stands(known, block):
                continue
            if known is None:
                room -= 1
            if room < 0:
                self.dropped += 1
                continue
            fits.append(block)
        lifted = [key for key in gone if self._is_ours(key)]
        if not fits and not lifted:
            return
        self._table.change(fits, lifted)
        for block in fits:
            self._wait(block_key(block), block)
        for key in lifted:
            self._wait(key, None)

    def _is_ours(self, key: Key) -> bool:
        known = self._table.find(key)
        return known is not None and known.by == DETECTOR

    # -- the store -----------------------------------------------------------------------

    def _wait(self, key: Key, block: Block | None) -> None:
        self._waiting.pop(key, None)
        if len(self._waiting) >= MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
            self.dropped += 1
        self._waiting[key] = block
        self._due.set()

    async def run(self) -> None:
        """Write what waits, whenever something does."""
        while True:
            await self._due.wait()
            self._due.clear()
            while self._waiting:
                if not await self._write():
                    await asyncio.sleep(RETRY_S)

    async def _write(self) -> bool:
        """One batch; False when the store does not take it."""
        now = self._clock()
        keys = list(self._waiting)[:WRITE_AT_ONCE]
        batch = [(key, self._waiting.pop(key)) for key in keys]
        put = [block for _, block in batch if block is not None]
        lift = [
            Block(kind, id_, tenant or None, created_at=now)
            for (kind, id_, tenant), block in batch
            if block is None
        ]
        try:
            await self._blocks.publish(put, lift)
        except BlocksUnavailable:
            # What came in the meantime is newer.
            self._waiting = dict(batch) | self._waiting
            return False
        return True


def _flood_block(flood: BlockedTemplate) -> Block:
    return Block(
        kind="prompts",
        id=f"{flood.print:016x}",
        tenant=flood.tenant,
        until=flood.until,
        reason=flood.reason,
        created_at=flood.born,
        by=DETECTOR,
        cls=flood.cls,
        score=flood.score,
    )


def _stands(known: Block, block: Block) -> bool:
    """Whether what is in force stays: an operator's word, and what is stricter or lasts
    longer (of another gateway, or from before a restart: this one sees but its part).
    """
    if known.by != DETECTOR:
        return True
    held, said = ACTIONS.index(known.action), ACTIONS.index(block.action)
    return held > said or (held == said and (known.until or 0) > (block.until or 0))


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
