"""Step 2, the gate: refuses blocked and over-limit clients without a store call.

Two sources. The block list, which the control process pushes; it also holds the
enforcement states weaker than a block (tag, throttle): their requests pass the gate. And
the over-limit cache: cells that settled weight alone fills, so that no refund can make
room before a known time. A refusal from the cache is therefore exact.

Two clocks: blocks end by epoch seconds, over-limit cells by the event loop's clock.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final
from zlib import crc32

from gateway.core.lru import Lru
from gateway.core.model import ANONYMOUS_TENANT, DETECTOR
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

# The control process bounds its list by the same figure (``control/blocks.py``).
MAX_BLOCKS: Final = 100_000
MAX_OVER_LIMIT_CELLS: Final = 20_000
# Template blocks that one prompt is compared with: about 25 us for all of them.
MAX_TEMPLATE_BLOCKS: Final = 256

# Kinds of users that detection's entries of an address spare: a user with a good answer,
# and one whose habits are known, at any address.
SERVED: Final = "served"
SETTLED: Final = "settled"
_NOBODY: Final[frozenset[int]] = frozenset()

BLOCKED: Final = refuse_block()
_Key = tuple[str, str, str | None]


class Gate:
    """Blocks and over-limit cells of one worker; each check is a few dict look-ups."""

    __slots__ = (
        "_blocks",
        "_established",
        "_max_blocks",
        "_networks",
        "_over_limit",
        "_spared",
        "dropped_blocks",
        "enforcement_states",
        "fast_path",
        "template_blocks",
    )

    def __init__(
        self,
        *,
        max_blocks: int = MAX_BLOCKS,
        max_over_limit: int = MAX_OVER_LIMIT_CELLS,
    ) -> None:
        self._max_blocks = max_blocks
        self._blocks: dict[_Key, Block] = {}
        # Network blocks by prefix, then by tenant (None: the whole service): an index
        # into ``_blocks`` for the look-up by address.
        self._networks: NetworkMap[dict[str | None, Block]] = NetworkMap()
        self._over_limit: Lru[bytes, float] = Lru(max_over_limit)
        # Template blocks by (fingerprint, tenant): likewise an index.
        self.template_blocks: dict[tuple[int, str | None], Block] = {}
        # Hashes of the clients first seen before the attack, by attacked tenant.
        self._established: Mapping[str, frozenset[int]] = {}
        # Hashes of the users that upstreams serve, by tenant (``set_spared``).
        self._spared: Mapping[str, frozenset[int]] = {}
        self.dropped_blocks = 0  # not added: the list was full, or the id unreadable
        self.enforcement_states = 0  # entries with action tag or throttle
        # True without any block or over-limit cell: callers may skip every check.
        self.fast_path = True

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def over_limit_cells(self) -> int:
        """Cells in the over-limit cache (some may have room again by now)."""
        return len(self._over_limit)

    def _update_fast_path(self) -> None:
        self.fast_path = not self._blocks and not self._over_limit

    # -- blocks ------------------------------------------------------------------

    def replace_blocks(self, blocks: Iterable[Block]) -> None:
        """Replace all blocks and enforcement states; those that cannot be added are
        dropped and counted.
        """
        self._blocks.clear()
        self._networks.clear()
        self.template_blocks.clear()
        self.enforcement_states = 0
        for block in blocks:
            self.add_block(block)
        self._update_fast_path()

    def add_block(self, block: Block) -> bool:
        """Add a block, or replace the one of the same subject.

        False: not added, because the list is full or the id cannot be parsed.
        """
        key = _key_of(block.kind, block.id, block.tenant)
        if key not in self._blocks and len(self._blocks) >= self._max_blocks:
            self.dropped_blocks += 1
            return False
        if block.kind == "network":
            try:
                self._blocks_of_network(block.id)[block.tenant] = block
            except ValueError:
                self.dropped_blocks += 1
                return False
        elif block.kind == "prompts":
            if (
                key not in self._blocks
                and len(self.template_blocks) >= MAX_TEMPLATE_BLOCKS
            ):
                self.dropped_blocks += 1
                return False
            try:
                self.template_blocks[int(block.id, 16), block.tenant] = block
            except ValueError:
                self.dropped_blocks += 1
                return False
        self._count_enforcement(self._blocks.get(key), -1)
        self._blocks[key] = block
        self._count_enforcement(block, 1)
        self.fast_path = False
        return True

    def _count_enforcement(self, block: Block | None, step: int) -> None:
        """Add ``step`` (1 or -1) to ``enforcement_states`` if the entry is one."""
        if block is not None and block.action != "block":
            self.enforcement_states += step

    def _blocks_of_network(self, network: str) -> dict[str | None, Block]:
        """Blocks of one network by tenant. Raises ValueError for a bad network."""
        prefix = parse_network(network)
        blocks = self._networks.get(prefix)
        if blocks is None:
            blocks = {}
            self._networks.put(prefix, blocks)
        return blocks

    def remove_block(self, kind: str, subject: str, tenant: str | None) -> None:
        """Remove a block; does nothing when there is none."""
        key = _key_of(kind, subject, tenant)
        removed = self._blocks.pop(key, None)
        if removed is None:
            return
        self._count_enforcement(removed, -1)
        self._update_fast_path()
        if kind == "prompts":
            del self.template_blocks[int(subject, 16), tenant]
        if kind != "network":
            return
        by_tenant = self._blocks_of_network(subject)
        del by_tenant[tenant]
        if not by_tenant:
            self._networks.pop(parse_network(subject))

    def drop_expired(self, now: float) -> int:
        """Remove blocks that ended by ``now`` (epoch seconds); returns how many."""
        ended = [
            key
            for key, block in self._blocks.items()
            if block.until is not None and block.until <= now
        ]
        for kind, subject, tenant in ended:
            self.remove_block(kind, subject, tenant)
        return len(ended)

    def find_block(self, identity: Identity, now: float) -> Block | None:
        """The block that applies to this client, else None."""
        if len(self._blocks) == self.enforcement_states or identity.allowed:
            return None  # no entry is a block
        tenant = identity.tenant.name
        block = self._active_block("client_ip", identity.client_ip, tenant, now)
        if block is not None and self._is_spared(block, identity):
            block = None
        return (
            block
            or self._active_block("user", identity.user, tenant, now)
            or self._active_block("tenant", tenant, tenant, now)
            or self._network_block(identity.address, tenant, now)
        )

    def find_head_block(self, identity: Identity, now: float) -> Block | None:
        """The block that applies whatever the body says, else None.

        Where the body may name another user, blocks of the head's user are left for
        ``find_block``, which is called once the body is read.
        """
        if not identity.takes_body_user:
            return self.find_block(identity, now)
        if len(self._blocks) == self.enforcement_states or identity.allowed:
            return None
        tenant = identity.tenant.name
        block = self._active_block("client_ip", identity.client_ip, tenant, now)
        if block is not None and block.by == DETECTOR and tenant in self._spared:
            block = None  # the body's user may be spared
        return (
            block
            or self._active_block("tenant", tenant, tenant, now)
            or self._network_block(identity.address, tenant, now)
        )

    def set_established(self, established: Mapping[str, bytes]) -> None:
        """Set the established clients of each attacked tenant (``pack_client_hashes``).

        Established: first seen before the attack, hence exempt from template blocks.
        """
        self._established = {
            tenant: _unpack_client_hashes(packed)
            for tenant, packed in established.items()
        }

    def set_spared(self, spared: Mapping[str, bytes]) -> None:
        """Set the users that detection's blocks and throttles of an address do not
        apply to, of each tenant with such an entry (``pack_client_hashes``): of kind
        ``SERVED`` where the class is probing, else of kind ``SETTLED``.
        """
        self._spared = {
            tenant: _unpack_client_hashes(packed) for tenant, packed in spared.items()
        }

    def _is_spared(self, block: Block, identity: Identity) -> bool:
        """Whether a block or throttle of the address is for others behind it: it is
        detection's, and upstreams serve this user.
        """
        if block.by != DETECTOR or identity.user == ANONYMOUS:
            return False
        spared = self._spared.get(identity.tenant.name, _NOBODY)
        kind = SERVED if block.cls == "probing" else SETTLED
        return client_hash(kind, identity.user) in spared

    def _is_established(self, established: frozenset[int], identity: Identity) -> bool:
        """Whether the user is settled, or both the address and the user (if any) are
        established. Names that a body states count only at established addresses.
        """
        user = identity.user
        if user != ANONYMOUS:
            spared = self._spared.get(identity.tenant.name, _NOBODY)
            stated = identity.user_source == "body"
            if not stated and client_hash(SETTLED, user) in spared:
                return True
            if client_hash("user", user) not in established:
                return False
        return client_hash("client_ip", identity.client_ip) in established

    def find_template_block(
        self, identity: Identity, fingerprint: int, now: float
    ) -> Block | None:
        """The template block that this prompt matches, for a client not established.

        None while the established clients of the tenant are not known.
        """
        tenant = identity.tenant.name
        established = self._established.get(tenant)
        if established is None or identity.allowed:
            return None
        for (template, block_tenant), block in self.template_blocks.items():
            if (
                block_tenant != tenant
                or (template ^ fingerprint).bit_count() > TEMPLATE_BITS
            ):
                continue
            if _blocks_now(block, now) and not self._is_established(
                established, identity
            ):
                return block
        return None

    def find_enforcement(self, identity: Identity, now: float) -> Block | None:
        """The enforcement state weaker than a block that applies to this client.

        Of several, throttle goes before tag, then the lowest rate, then the highest
        score.
        """
        if not self.enforcement_states or identity.allowed:
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
            throttled = kind == "client_ip" and found.action == "throttle"
            if throttled and self._is_spared(found, identity):
                continue
            if worst is None or _precedence(found) < _precedence(worst):
                worst = found
        return worst

    def find_anonymous_block(
        self, client_ip: str, address: Address | None, now: float
    ) -> Block | None:
        """The block of a client without a tenant: of its address or network, either
        service-wide or for ANONYMOUS_TENANT.
        """
        if not self._blocks:
            return None
        return self._active_block(
            "client_ip", client_ip, ANONYMOUS_TENANT, now
        ) or self._network_block(address, ANONYMOUS_TENANT, now)

    def _active_block(
        self, kind: str, subject: str, tenant: str, now: float
    ) -> Block | None:
        found = self._blocks.get((kind, subject, None))
        if found is not None and _blocks_now(found, now):
            return found
        found = self._blocks.get((kind, subject, tenant))
        return found if found is not None and _blocks_now(found, now) else None

    def _network_block(
        self, address: Address | None, tenant: str, now: float
    ) -> Block | None:
        if not self._networks:
            return None
        for by_tenant in self._networks.holding(address):
            for scope in (None, tenant):
                found = by_tenant.get(scope)
                if found is not None and _blocks_now(found, now):
                    return found
        return None

    # -- over-limit cache --------------------------------------------------------

    def remember(self, reserved: Reserved, mono: float) -> None:
        """Cache the cell that refused, if settled weight alone fills it.

        ``mono``: the event loop's clock, as in ``reserved.frees_at``.
        """
        if reserved.violated >= 0 and reserved.frees_at > mono:
            key = reserved.plan.cells[reserved.violated].key
            self._over_limit.put(key, reserved.frees_at)
            self.fast_path = False

    def forget(self, keys: Iterable[bytes]) -> None:
        """Remove the cells with these keys: their counters were reset."""
        for key in keys:
            self._over_limit.pop(key)
        self._update_fast_path()

    def forget_all(self) -> None:
        """Empty the cache: limits changed, so full cells may have room."""
        self._over_limit.clear()
        self._update_fast_path()

    def check_head(
        self, plan: LimitPlan, mono: float, *, billable: bool
    ) -> Refusal | None:
        """The refusal by a cached cell that this request must add to, else None.

        ``billable``: the endpoint costs at least one token.
        """
        if not self._over_limit:
            return None
        places = plan.gate_places_billable if billable else plan.gate_places
        return self._refuse(plan, places, mono)

    def check_costs(
        self, plan: LimitPlan, costs: Sequence[int], mono: float
    ) -> Refusal | None:
        """``check_head`` over all cells, once the model and the costs are known."""
        if not self._over_limit:
            return None
        places = [place for place in range(len(plan.cells)) if costs[place]]
        return self._refuse(plan, places, mono)

    def _refuse(
        self, plan: LimitPlan, places: Iterable[int], mono: float
    ) -> Refusal | None:
        """Refuse for that cached cell which has room last."""
        latest, found = mono, -1
        for place in places:
            frees_at = self._over_limit.get(plan.cells[place].key)
            if frees_at is not None and frees_at > latest:
                latest, found = frees_at, place
        return None if found < 0 else refuse_over(plan, found, latest - mono)


def client_hash(kind: str, subject: str) -> int:
    """CRC-32 of a subject, for sets of established clients that fit in a message.

    With 4,000 established clients, one new client in a million has a hash of theirs and
    is taken for established.
    """
    return crc32(f"{kind}:{subject}".encode())


def pack_client_hashes(subjects: Iterable[tuple[str, str]]) -> bytes:
    """Hashes of subjects (kind, id), 4 bytes each in this machine's byte order."""
    return array("I", (client_hash(*subject) for subject in subjects)).tobytes()


def _unpack_client_hashes(packed: bytes) -> frozenset[int]:
    hashes = array("I")
    hashes.frombytes(packed)
    return frozenset(hashes)


def _key_of(kind: str, subject: str, tenant: str | None) -> _Key:
    if kind == "client_ip":
        return kind, normal_client_ip(subject), tenant
    return kind, subject, tenant


def _blocks_now(block: Block, now: float) -> bool:
    return block.action == "block" and _lasts(block, now)


def _precedence(block: Block) -> tuple[bool, int, float]:
    """Sort key of enforcement states: the smallest one applies."""
    return block.action != "throttle", block.rate, -block.score


def _lasts(block: Block, now: float) -> bool:
    return block.until is None or block.until > now
