"""What is judged: anything that watches requests, names causes and acts on subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from loadtests.scenarios.rows import Row

# Actions by their weight.
ACTIONS = ("allow", "tag", "throttle", "block")
Subject = tuple[str, str]


class Finding(msgspec.Struct, frozen=True):
    """What a detector says: the parts of an output that are judged.

    ``ts`` is the time of the request that it was said at, epoch seconds.
    """

    ts: float
    type: str
    id: str
    severity: str
    cls: str
    subject: Subject
    tenant: str
    action: str
    subjects: tuple[Subject, ...] = ()


class Detector(Protocol):
    """The interface of everything that is judged."""

    name: str

    def observe(self, row: Row) -> Sequence[Finding]:
        """One admitted request, in the order of time. Labels must not be looked at."""
        ...

    def refused(self, row: Row, *, read: bool) -> Sequence[Finding]:
        """One that its own action kept out; ``read``: for what is in its body, of which
        nothing is known otherwise.
        """
        ...

    def advance(self, now: float) -> Sequence[Finding]:
        """Time has come to ``now`` (called about every second)."""
        ...

    def floods(self, row: Row) -> bool:
        """Whether the prompt alone is refused, of whoever comes with it."""
        ...

    def action_for(self, kind: str, id_: str, tenant: str) -> str:
        """``allow``, ``tag``, ``throttle`` or ``block``."""
        ...
