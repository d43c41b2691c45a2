"""Enforcement states by subject in a due-time heap: a sweep costs O(expired).

After an attack thousands of states live for a day, and a sweep runs every ten seconds.
The time at which a state expires changes only when the state is obtained for a verdict,
so a sweep looks at the states obtained since the last sweep and at those that are due.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from gateway.detect.incidents import CALM_S
from gateway.detect.ladder import EnforcementState, relax
from gateway.detect.model import ACTIONS, ResponseAction

# States are remembered for so long after they began; and no more of them than this
# (about 0.5 KB each).
_REMEMBERED_S = 86_400.0
MOST_STATES = 100_000
Key = tuple[str, str, str]  # tenant, kind, id


class EnforcementStates(dict[Key, EnforcementState]):
    """The states of all subjects; change them only through ``obtain`` and ``put``."""

    def __init__(self) -> None:
        super().__init__()
        self._tenants: dict[tuple[str, str], set[str]] = {}  # by kind and id
        self._order: dict[Key, int] = {}  # in which the states were created
        self._created = 0
        self._touched: set[Key] = set()  # since the last sweep
        self._due: list[tuple[float, int, Key]] = []  # a heap
        self._at: dict[Key, float] = {}  # the heap entry of a key that counts
        self._kept_s = _REMEMBERED_S

    @property
    def full(self) -> bool:
        """Whether no further member of a distributed attack is listed."""
        return len(self) >= MOST_STATES

    def obtain(self, key: Key) -> EnforcementState:
        """The state of a subject, created if needed; its expiry may change."""
        self._touched.add(key)
        state = self.get(key)
        if state is None:
            state = EnforcementState()
            self.put(key, state)
        return state

    def put(self, key: Key, state: EnforcementState) -> None:
        """A state that was saved, or a new one."""
        self._touched.add(key)
        if key not in self:
            self._order[key] = self._created
            self._created += 1
            self._tenants.setdefault(key[1:], set()).add(key[0])
        self[key] = state

    def expire(self, now: float) -> Iterator[tuple[Key, EnforcementState]]:
        """Relax what is over, in the order of creation; the blocks that ended."""
        crowded = len(self) > MOST_STATES // 2
        kept_s = CALM_S if crowded else _REMEMBERED_S
        if kept_s != self._kept_s:  # every due time changes
            self._kept_s = kept_s
            self._touched.update(self)
        for key in sorted(self._ready(now), key=self._order.__getitem__):
            state = self[key]
            if relax(state, now) == "block":
                yield key, state
            if state.action == "allow" and now - state.first > kept_s:
                self._forget(key)
            else:
                self._plan(key, state)

    def action_for(
        self, kind: str, id_: str, tenant: str | None, now: float
    ) -> ResponseAction:
        """The action on a subject; ``tenant`` None: the strictest in any tenant."""
        tenants: Iterable[str] = self._tenants.get((kind, id_), ())
        if tenant is not None:
            tenants = (tenant,)
        actions = (_action_now(self.get((one, kind, id_)), now) for one in tenants)
        return max(actions, key=ACTIONS.index, default="allow")

    def _ready(self, now: float) -> set[Key]:
        ready, self._touched = self._touched, set()
        due, times = self._due, self._at
        while due and due[0][0] <= now:
            at, _, key = heapq.heappop(due)
            if times.get(key) == at:
                del times[key]
                ready.add(key)
        return ready

    def _plan(self, key: Key, state: EnforcementState) -> None:
        at = state.until
        if state.action == "allow":
            at = state.first + self._kept_s
        held = self._at.get(key)
        if held is None or at < held:  # a later time is found when the earlier is due
            self._at[key] = at
            heapq.heappush(self._due, (at, self._order[key], key))

    def _forget(self, key: Key) -> None:
        del self[key], self._order[key]
        self._at.pop(key, None)
        tenants = self._tenants[key[1:]]
        tenants.discard(key[0])
        if not tenants:
            del self._tenants[key[1:]]


def _action_now(state: EnforcementState | None, now: float) -> ResponseAction:
    if state is None or now >= state.until:
        return "allow"
    return state.action
