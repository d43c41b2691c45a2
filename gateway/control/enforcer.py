"""Turn verdicts of the detector into entries of the block list.

A verdict takes effect in the workers of this gateway at once and is then written to the
store, where other gateways read it. While the store is down the latest verdict on each
subject waits. Verdicts never replace an operator's entry.
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
from gateway.control.incident_entries import IncidentEntries
from gateway.core.model import DETECTOR, Block
from gateway.core.pace import is_due
from gateway.detect.ladder import allowed_rate
from gateway.detect.model import ACTIONS

if TYPE_CHECKING:
    from gateway.core.model import Policy
    from gateway.detect.blocked_templates import BlockedTemplate
    from gateway.detect.ladder import EnforcementState
    from gateway.detect.model import Output

# Half of the list is reserved for operators. In a full list the incident with the most
# entries makes room; further verdicts are dropped until others expire.
MAX_VERDICTS = MAX_BLOCKS // 2
# Verdicts that wait for the store; when there are more, the oldest stay on this gateway
# only.
MAX_WAITING = 20_000
# Most verdicts in one pipeline.
WRITE_AT_ONCE = 500
# Least time between two searches for expired entries in a full list, seconds.
_EXPIRE_S = 5.0
# Interval at which entries by incident are compared with the list, seconds.
_COMPARE_S = 60.0
# Pause after a failed write, seconds.
RETRY_S = 1.0
# A tag, throttle or template block is written again if its end moved by more than this,
# seconds.
_PROLONG_S = 30.0
# Kinds of subjects that may be many clients.
_OF_MANY_CLIENTS = frozenset({"client_ip", "prompts"})
_NO_INCIDENTS: Mapping[Key, str] = {}


class Enforcer:
    """Writes verdicts to ``table`` (this gateway's workers) and ``blocks`` (the store)."""

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
        self._templates: dict[Key, float] = {}  # end of each as sent last
        self._entries = IncidentEntries()
        self._expired_at = self._compared_at = 0.0
        self._due = asyncio.Event()
        self._is_cleaned = False
        table.unwritten = lambda: self._waiting
        self.dropped = 0
        """Verdicts dropped because the list or the queue was full."""

    @property
    def waiting(self) -> int:
        """Verdicts not yet written to the store."""
        return len(self._waiting)

    def configure(self, policies: Mapping[str, Policy], default: Policy) -> None:
        """Apply policies; verdicts of a detection that is off are removed."""
        self._policies, self._default = policies, default
        self._remove_disabled()

    def tick(self) -> None:
        """Called once a second; cleans up once after the store's list was first read."""
        if self._table.known and not self._is_cleaned:
            self._is_cleaned = True
            self._remove_disabled()
        if is_due(self._compared_at, _COMPARE_S, self._clock()):
            self._compared_at = self._clock()
            self._compare_entries()

    def _compare_entries(self) -> None:
        """Forget entries that have ended, and note those of other gateways and of before
        a restart: all of a tenant and class count as one incident.
        """
        held = {
            block_key(block): f"{block.tenant} {block.cls}"
            for block in self._table.verdicts()
            if block.kind != "prompts"
        }
        self._entries.keep(held)
        for key, incident in held.items():
            if key not in self._entries:
                self._entries.add(key, incident)

    def _remove_disabled(self) -> None:
        gone = [
            block_key(block)
            for block in self._table.items()
            if block.by == DETECTOR and not self._policy(block).anomaly.enabled
        ]
        self._change([], gone)

    def _policy(self, block: Block) -> Policy:
        found = self._policies.get(block.tenant or "", self._default)
        assert found is not None  # configured before the first verdict
        return found

    # -- verdicts ------------------------------------------------------------------------

    def take(self, outputs: Iterable[Output]) -> None:
        """Enforce verdicts on single clients."""
        added: dict[Key, Block] = {}
        gone: list[Key] = []
        incidents: dict[Key, str] = {}
        for output in outputs:
            if not output.type.startswith("client."):
                continue
            key = (output.subject.kind, output.subject.id, output.tenant)
            if output.type == "client.unblocked":
                added.pop(key, None)
                if not self._lasts_elsewhere(key, output.at):
                    gone.append(key)
            elif (block := self._block(output)) is not None:
                added[key] = block
                incidents[key] = output.id
        self._change(list(added.values()), gone, incidents)

    def _lasts_elsewhere(self, key: Key, now: float) -> bool:
        """Whether another gateway has blocked the subject for longer than this one."""
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
        self, states: Iterable[tuple[tuple[str, str, str], EnforcementState]]
    ) -> None:
        """Prolong tags and throttles whose evidence continues. ``states``: by tenant, kind
        and id.
        """
        added: list[Block] = []
        for (tenant, kind, id_), state in states:
            if state.action not in ("tag", "throttle"):
                continue
            known = self._table.find((kind, id_, tenant))
            if known is None or known.by != DETECTOR or known.until is None:
                continue  # an operator's entry
            if known.action != state.action:
                continue  # set by another gateway
            if state.until > known.until + _PROLONG_S:
                added.append(
                    msgspec.structs.replace(
                        known, until=state.until, created_at=self._clock()
                    )
                )
        self._change(added, [])

    def block_templates(self, templates: Iterable[BlockedTemplate]) -> bool:
        """Block these prompt templates, the complete list, for clients that are not
        established; whether any is new. One that an operator has removed is not blocked
        again during the same attack.
        """
        sent: dict[Key, float] = {}
        added: list[Block] = []
        for template in templates:
            block = _template_block(template)
            key = block_key(block)
            before = self._templates.get(key, 0.0)
            new = not before or self._is_verdict(key)
            if new and template.until > before + _PROLONG_S:
                added.append(block)
                sent[key] = template.until
            else:
                sent[key] = before
        self._templates = sent
        if added:
            self._change(added, [])
        return bool(added)

    def template_blocks(self) -> dict[str, float]:
        """Tenants with blocked templates, of any gateway, and the time of the first of
        them (epoch seconds).
        """
        found: dict[str, float] = {}
        for block in self._table.of_kind("prompts"):
            if block.by == DETECTOR and block.tenant is not None:
                born = found.get(block.tenant, block.created_at)
                found[block.tenant] = min(born, block.created_at)
        return found

    def judged_tenants(self) -> set[str]:
        """Tenants with template blocks, or verdicts on addresses, of any gateway. Costs
        a pass over the whole list.
        """
        return {
            block.tenant
            for block in self._table.verdicts()
            if block.tenant is not None
            and block.action != "tag"
            and block.kind in _OF_MANY_CLIENTS
        }

    def _change(
        self,
        added: list[Block],
        gone: list[Key],
        incidents: Mapping[Key, str] = _NO_INCIDENTS,
    ) -> None:
        """Apply verdicts on this gateway and queue them for the store, except those that
        an entry in force precedes and those for which there is no room. ``incidents``:
        to which each belongs.
        """
        now = self._clock()
        full = len(self._table) + len(added) > MAX_VERDICTS
        if full and now >= self._expired_at + _EXPIRE_S:
            self._expired_at = now
            self._table.expire()
        room = MAX_VERDICTS - len(self._table)
        fits: dict[Key, Block] = {}
        lifted = {key: None for key in gone if self._is_verdict(key)}
        for block in added:
            key = block_key(block)
            known = self._table.find(key)
            if known is not None and not is_over(known, now) and _stays(known, block):
                continue
            if known is None:
                incident = incidents.get(key, "")
                replaced = self._replaced(incident, fits, full=room <= 0)
                if replaced is not None:
                    if fits.pop(replaced, None) is None:
                        lifted[replaced] = None
                elif room <= 0:
                    self.dropped += 1
                    continue
                else:
                    room -= 1
            fits[key] = block
            lifted.pop(key, None)
            if key in incidents:
                self._entries.add(key, incidents[key])
        if not fits and not lifted:
            return
        self._table.change(list(fits.values()), list(lifted))
        for key, block in fits.items():
            self._enqueue(key, block)
        for key in lifted:
            self._entries.remove(key)
            self._enqueue(key, None)

    def _replaced(
        self, incident: str, fits: Mapping[Key, Block], *, full: bool
    ) -> Key | None:
        """The entry that makes room for a new one of an incident, which is forgotten;
        None if there is none, or no need. ``fits``: entries that are being added.
        """
        while True:
            key = self._entries.oldest_to_replace(incident, full=full)
            if key is None:
                return None
            self._entries.remove(key)
            if key in fits or self._table.find(key) is not None:
                self.dropped += 1
                return key

    def _is_verdict(self, key: Key) -> bool:
        """Whether the entry of a subject is the detector's, not an operator's."""
        known = self._table.find(key)
        return known is not None and known.by == DETECTOR

    # -- the store -----------------------------------------------------------------------

    def _enqueue(self, key: Key, block: Block | None) -> None:
        """Queue a verdict for the store; None: remove the entry."""
        self._waiting.pop(key, None)
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
            self.dropped += 1
        self._waiting[key] = block
        self._due.set()

    async def run(self) -> None:
        """Write waiting verdicts to the store until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            while self._waiting:
                if not await self._write():
                    await asyncio.sleep(RETRY_S)

    async def _write(self) -> bool:
        """Write one batch; False if the store is unavailable."""
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
            # Verdicts that arrived meanwhile are newer and win.
            self._waiting = dict(batch) | self._waiting
            return False
        return True


def _template_block(template: BlockedTemplate) -> Block:
    return Block(
        kind="prompts",
        id=f"{template.print:016x}",
        tenant=template.tenant,
        until=template.until,
        reason=template.reason,
        created_at=template.born,
        by=DETECTOR,
        cls=template.cls,
        score=template.score,
    )


def _stays(known: Block, block: Block) -> bool:
    """Whether ``known`` stays in force: an operator's entry, or a verdict that is
    stricter or lasts longer (by another gateway or from before a restart; this gateway
    sees only a part of the traffic).
    """
    if known.by != DETECTOR:
        return True
    old, new = ACTIONS.index(known.action), ACTIONS.index(block.action)
    return old > new or (old == new and (known.until or 0) > (block.until or 0))


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
