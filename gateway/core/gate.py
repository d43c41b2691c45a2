"""Step 2, the gate: who is refused from the head alone, without asking the store.

Two kinds of knowledge. The block list, pushed by control. And the cells known to be
full by settled weight, which no refund can free before a known moment: refusing those
here is exact, costs no call, and keeps a client that hammers on away from the store.

Two clocks: blocks end by epoch seconds, full cells free by the loop's own clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from gateway.core.admission import Refusal, refuse_block, refuse_over
from gateway.core.cidr import Address, NetworkMap, normal_client_ip, parse_network
from gateway.core.lru import Lru

if TYPE_CHECKING:
    from gateway.core.identify import Identity
    from gateway.core.model import Block
    from gateway.core.plans import LimitPlan
    from gateway.core.ports import Reserved

# The list that control keeps is bounded by the same figure.
MAX_BLOCKS: Final = 100_000
MAX_FULL_CELLS: Final = 20_000

_BLOCKED: Final = refuse_block()
_Key = tuple[str, str, str | None]


class Gate:
    """The blocks and the full cells of one worker; every check is a few look-ups."""

    __slots__ = (
        "_blocks",
        "_full",
        "_ids",
        "_max_blocks",
        "_networks",
        "quiet",
        "turned_away",
    )

    def __init__(
        self, *, max_blocks: int = MAX_BLOCKS, max_full: int = MAX_FULL_CELLS
    ) -> None:
        self._max_blocks = max_blocks
        self._blocks: dict[_Key, Block] = {}
        # The same blocks by kind and id: the service-wide one and each tenant's.
        self._ids: dict[str, dict[str, dict[str | None, Block]]] = {}
        self._networks: NetworkMap[dict[str | None, Block]] = NetworkMap()
        self._full: Lru[bytes, float] = Lru(max_full)
        self.turned_away = 0  # blocks that found no room
        # No block and no full cell: no request need be looked at.
        self.quiet = True

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def full_cells(self) -> int:
        """How many cells are remembered as full (some may have freed since)."""
        return len(self._full)

    def _note(self) -> None:
        self.quiet = not self._blocks and not self._full

    # -- blocks ------------------------------------------------------------------

    def replace_blocks(self, blocks: Iterable[Block]) -> None:
        """The whole list anew."""
        self._blocks.clear()
        self._ids.clear()
        self._networks.clear()
        for block in blocks:
            self.add_block(block)
        self._note()

    def add_block(self, block: Block) -> bool:
        """Add a block, in place of an older one of the same subject.

        False: not taken, because the list is full or the network cannot be read.
        """
        key = _key_of(block.kind, block.id, block.tenant)
        if key not in self._blocks and len(self._blocks) >= self._max_blocks:
            self.turned_away += 1
            return False
        try:
            self._by_tenant(key)[block.tenant] = block
        except ValueError:
            self.turned_away += 1
            return False
        self._blocks[key] = block
        self.quiet = False
        return True

    def _by_tenant(self, key: _Key) -> dict[str | None, Block]:
        """The blocks of a subject, in a place of their own."""
        kind, subject, _ = key
        if kind != "network":
            return self._ids.setdefault(kind, {}).setdefault(subject, {})
        prefix = parse_network(subject)
        blocks = self._networks.get(prefix)
        if blocks is None:
            blocks = {}
            self._networks.put(prefix, blocks)
        return blocks

    def remove_block(self, kind: str, subject: str, tenant: str | None) -> None:
        """Lift a block; unknown ones are none."""
        key = _key_of(kind, subject, tenant)
        if self._blocks.pop(key, None) is None:
            return
        self._note()
        by_tenant = self._by_tenant(key)
        del by_tenant[tenant]
        if by_tenant:
            return
        if kind == "network":
            self._networks.pop(parse_network(subject))
        else:
            del self._ids[kind][key[1]]

    def drop_expired(self, now: float) -> int:
        """Forget blocks that ended before ``now`` (epoch seconds); how many."""
        ended = [
            key
            for key, block in self._blocks.items()
            if block.until is not None and block.until <= now
        ]
        for kind, subject, tenant in ended:
            self.remove_block(kind, subject, tenant)
        return len(ended)

    def check_blocks(self, identity: Identity, now: float) -> Refusal | None:
        """A refusal for who is blocked; ``now`` in epoch seconds."""
        if not self._blocks or identity.allowed:
            return None
        tenant = identity.tenant.name
        if (
            self._holds("client_ip", identity.client_ip, tenant, now)
            or self._holds("user", identity.user, tenant, now)
            or self._holds("tenant", tenant, tenant, now)
            or self._in_network(identity.address, tenant, now)
        ):
            return _BLOCKED
        return None

    def check_stranger(
        self, client_ip: str, address: Address | None, now: float
    ) -> Refusal | None:
        """The same for a client without a tenant: service-wide blocks of addresses."""
        if not self._blocks:
            return None
        if self._holds("client_ip", client_ip, None, now) or self._in_network(
            address, None, now
        ):
            return _BLOCKED
        return None

    def _holds(self, kind: str, subject: str, tenant: str | None, now: float) -> bool:
        by_id = self._ids.get(kind)
        by_tenant = by_id.get(subject) if by_id else None
        if not by_tenant:
            return False
        return _lasts(by_tenant.get(None), now) or _lasts(by_tenant.get(tenant), now)

    def _in_network(
        self, address: Address | None, tenant: str | None, now: float
    ) -> bool:
        if not self._networks:
            return False
        return any(
            _lasts(by_tenant.get(None), now) or _lasts(by_tenant.get(tenant), now)
            for by_tenant in self._networks.holding(address)
        )

    # -- full cells --------------------------------------------------------------

    def remember(self, reserved: Reserved, mono: float) -> None:
        """Note the cell that refused, if settled weight alone fills it.

        ``mono``: the loop's clock, as in ``reserved.frees_at``.
        """
        if reserved.violated >= 0 and reserved.frees_at > mono:
            key = reserved.plan.cells[reserved.violated].key
            self._full.put(key, reserved.frees_at)
            self.quiet = False

    def forget(self, keys: Iterable[bytes]) -> None:
        """These counters were reset."""
        for key in keys:
            self._full.pop(key)
        self._note()

    def forget_all(self) -> None:
        """Limits changed: what was full may have room."""
        self._full.clear()
        self._note()

    def check_head(
        self, plan: LimitPlan, mono: float, *, billable: bool
    ) -> Refusal | None:
        """A refusal if a cell that this request must add to is full.

        ``billable`` says that the endpoint costs tokens, at least one.
        """
        full = self._full
        if not full:
            return None
        for place in plan.gate_places_billable if billable else plan.gate_places:
            frees_at = full.get(plan.cells[place].key)
            if frees_at is not None and frees_at > mono:
                return refuse_over(plan, place, frees_at - mono)
        return None

    def check_costs(
        self, plan: LimitPlan, costs: Sequence[int], mono: float
    ) -> Refusal | None:
        """The same once the model and the costs are known, for all cells."""
        full = self._full
        if not full:
            return None
        for place, cell in enumerate(plan.cells):
            frees_at = full.get(cell.key) if costs[place] else None
            if frees_at is not None and frees_at > mono:
                return refuse_over(plan, place, frees_at - mono)
        return None


def _key_of(kind: str, subject: str, tenant: str | None) -> _Key:
    if kind == "client_ip":
        return kind, normal_client_ip(subject), tenant
    return kind, subject, tenant


def _lasts(block: Block | None, now: float) -> bool:
    return block is not None and (block.until is None or block.until > now)
