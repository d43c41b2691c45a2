"""Step 2, the gate: who is refused from the head alone, without asking the store.

Two kinds of knowledge. The block list, pushed by control (with whom the detector has
tagged or throttled, whose requests pass the gate). And the cells known to be
full by settled weight, which no refund can free before a known moment: refusing those
here is exact, costs no call, and keeps a client that hammers on away from the store.

Two clocks: blocks end by epoch seconds, full cells free by the loop's own clock.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final
from zlib import crc32

from gateway.core.lru import Lru
from gateway.core.model import STRANGERS
from gateway.core.prompt import TEMPLATE_BITS
from gateway.core.refusal import Refusal
from gateway.identity.cidr import Address, NetworkMap, normal_client_ip, parse_network
from gateway.identity.identify import ANONYMOUS
from gateway.limits.admission import refuse_block, refuse_over

if TYPE_CHECKING:
    from gateway.core.model import Block
    from gateway.identity.identify import Identity
    from gateway.limits.plans import LimitPlan
    from gateway.limits.ports import Reserved

# The list that control keeps is bounded by the same figure.
MAX_BLOCKS: Final = 100_000
MAX_FULL_CELLS: Final = 20_000
# Templates of floods that a prompt is compared with: some 25 microseconds.
MAX_FLOODS: Final = 256

BLOCKED: Final = refuse_block()
_Key = tuple[str, str, str | None]


class Gate:
    """The blocks and the full cells of one worker; every check is a few look-ups."""

    __slots__ = (
        "_blocks",
        "_full",
        "_max_blocks",
        "_networks",
        "_settled",
        "floods",
        "quiet",
        "standings",
        "turned_away",
    )

    def __init__(
        self, *, max_blocks: int = MAX_BLOCKS, max_full: int = MAX_FULL_CELLS
    ) -> None:
        self._max_blocks = max_blocks
        self._blocks: dict[_Key, Block] = {}
        # Blocks of networks once more, to be found by an address: the service-wide one
        # and each tenant's.
        self._networks: NetworkMap[dict[str | None, Block]] = NetworkMap()
        self._full: Lru[bytes, float] = Lru(max_full)
        # Blocks of prompts once more, by their fingerprint; and, of each tenant that is
        # flooded, the marks of who was there before.
        self.floods: dict[tuple[int, str | None], Block] = {}
        self._settled: Mapping[str, frozenset[int]] = {}
        self.turned_away = 0  # blocks that found no room
        self.standings = 0  # entries that are no block: tagged, throttled
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
        self._networks.clear()
        self.floods.clear()
        self.standings = 0
        for block in blocks:
            self.add_block(block)
        self._note()

    def add_block(self, block: Block) -> bool:
        """Add a block, in place of an older one of the same subject.

        False: not taken, because the list is full or the id cannot be read.
        """
        key = _key_of(block.kind, block.id, block.tenant)
        if key not in self._blocks and len(self._blocks) >= self._max_blocks:
            self.turned_away += 1
            return False
        if block.kind == "network":
            try:
                self._of_prefix(block.id)[block.tenant] = block
            except ValueError:
                self.turned_away += 1
                return False
        elif block.kind == "prompts":
            if key not in self._blocks and len(self.floods) >= MAX_FLOODS:
                self.turned_away += 1
                return False
            try:
                self.floods[int(block.id, 16), block.tenant] = block
            except ValueError:
                self.turned_away += 1
                return False
        self._count(self._blocks.get(key), -1)
        self._blocks[key] = block
        self._count(block, 1)
        self.quiet = False
        return True

    def _count(self, block: Block | None, step: int) -> None:
        if block is not None and block.action != "block":
            self.standings += step

    def _of_prefix(self, network: str) -> dict[str | None, Block]:
        """The blocks of a network; raises ValueError for what is none."""
        prefix = parse_network(network)
        blocks = self._networks.get(prefix)
        if blocks is None:
            blocks = {}
            self._networks.put(prefix, blocks)
        return blocks

    def remove_block(self, kind: str, subject: str, tenant: str | None) -> None:
        """Lift a block; unknown ones are none."""
        key = _key_of(kind, subject, tenant)
        gone = self._blocks.pop(key, None)
        if gone is None:
            return
        self._count(gone, -1)
        self._note()
        if kind == "prompts":
            del self.floods[int(subject, 16), tenant]
        if kind != "network":
            return
        by_tenant = self._of_prefix(subject)
        del by_tenant[tenant]
        if not by_tenant:
            self._networks.pop(parse_network(subject))

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
        return None if self.find_block(identity, now) is None else BLOCKED

    def find_block(self, identity: Identity, now: float) -> Block | None:
        """What blocks this client."""
        if not self._blocks or identity.allowed:
            return None
        tenant = identity.tenant.name
        return (
            self._held("client_ip", identity.client_ip, tenant, now)
            or self._held("user", identity.user, tenant, now)
            or self._held("tenant", tenant, tenant, now)
            or self._of_network(identity.address, tenant, now)
        )

    def find_head_block(self, identity: Identity, now: float) -> Block | None:
        """What blocks this client whatever its body says: where the body may name
        another user, a block of the head's waits for it.
        """
        if not identity.takes_body_user:
            return self.find_block(identity, now)
        if not self._blocks or identity.allowed:
            return None
        tenant = identity.tenant.name
        return (
            self._held("client_ip", identity.client_ip, tenant, now)
            or self._held("tenant", tenant, tenant, now)
            or self._of_network(identity.address, tenant, now)
        )

    def settle_down(self, settled: Mapping[str, bytes]) -> None:
        """Who was there before a flood, by tenant, as ``marks_of`` wrote it."""
        self._settled = {tenant: _marks_in(held) for tenant, held in settled.items()}

    def find_flood(
        self, identity: Identity, fingerprint: int, now: float
    ) -> Block | None:
        """The block of a flood's template, for a prompt that follows it and a client
        that came with the flood. While nobody has said who was there before, none is.
        """
        tenant = identity.tenant.name
        settled = self._settled.get(tenant)
        if settled is None or identity.allowed:
            return None
        for (print_, where), block in self.floods.items():
            if where != tenant or (print_ ^ fingerprint).bit_count() > TEMPLATE_BITS:
                continue
            if _blocks_now(block, now) and not _has_settled(settled, identity):
                return block
        return None

    def find_standing(self, identity: Identity, now: float) -> Block | None:
        """What is done to this client short of a block: throttled before tagged, the
        slowest before others.
        """
        if not self.standings or identity.allowed:
            return None
        tenant = identity.tenant.name
        worst = None
        for kind, subject in (
            ("client_ip", identity.client_ip),
            ("user", identity.user),
            ("tenant", tenant),
        ):
            found = self._blocks.get((kind, subject, tenant))
            if found is None or found.action == "block" or not _lasts(found, now):
                continue
            if worst is None or _order(found) < _order(worst):
                worst = found
        return worst

    def find_stranger(
        self, client_ip: str, address: Address | None, now: float
    ) -> Block | None:
        """What blocks a client without a tenant: blocks of addresses, service-wide or
        of strangers.
        """
        if not self._blocks:
            return None
        return self._held("client_ip", client_ip, STRANGERS, now) or self._of_network(
            address, STRANGERS, now
        )

    def check_stranger(
        self, client_ip: str, address: Address | None, now: float
    ) -> Refusal | None:
        """A refusal for a blocked client without a tenant."""
        found = self.find_stranger(client_ip, address, now)
        return None if found is None else BLOCKED

    def _held(self, kind: str, subject: str, tenant: str, now: float) -> Block | None:
        found = self._blocks.get((kind, subject, None))
        if found is not None and _blocks_now(found, now):
            return found
        found = self._blocks.get((kind, subject, tenant))
        return found if found is not None and _blocks_now(found, now) else None

    def _of_network(
        self, address: Address | None, tenant: str, now: float
    ) -> Block | None:
        if not self._networks:
            return None
        for by_tenant in self._networks.holding(address):
            for where in (None, tenant):
                found = by_tenant.get(where)
                if found is not None and _blocks_now(found, now):
                    return found
        return None

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


def mark_of(kind: str, subject: str) -> int:
    """32 bits that stand for a subject: one of a million strangers passes for it."""
    return crc32(f"{kind}:{subject}".encode())


def marks_of(subjects: Iterable[tuple[str, str]]) -> bytes:
    """Marks of subjects (kind, id), four bytes each, for a process of this machine."""
    return array("I", (mark_of(*subject) for subject in subjects)).tobytes()


def _marks_in(marks: bytes) -> frozenset[int]:
    found = array("I")
    found.frombytes(marks)
    return frozenset(found)


def _has_settled(settled: frozenset[int], identity: Identity) -> bool:
    """Whether neither address nor user is new."""
    user = identity.user
    if user != ANONYMOUS and mark_of("user", user) not in settled:
        return False
    return mark_of("client_ip", identity.client_ip) in settled


def _key_of(kind: str, subject: str, tenant: str | None) -> _Key:
    if kind == "client_ip":
        return kind, normal_client_ip(subject), tenant
    return kind, subject, tenant


def _blocks_now(block: Block, now: float) -> bool:
    return block.action == "block" and _lasts(block, now)


def _order(block: Block) -> tuple[bool, int, float]:
    """Whom to follow first when several of a client's subjects stand somewhere."""
    return block.action != "throttle", block.rate, -block.score


def _lasts(block: Block, now: float) -> bool:
    return block.until is None or block.until > now
