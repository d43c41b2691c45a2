"""What really happened: the ledger that a detector is judged against."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["ordinary", "honest", "attack"]
Difficulty = Literal["easy", "hard"]


class Cause(msgspec.Struct):
    """One thing that made traffic. Entry 0 of a ledger is ordinary life.

    ``cls`` is the class that names it: that of the attack, ``surge`` or ``outage``
    for honest crowds, else empty. ``also`` are classes that would be right as well.
    ``retry`` is the chance that a refused request is sent again, ``retry_after`` the
    mean seconds until then.
    """

    index: int
    name: str
    kind: Kind
    cls: str = ""
    difficulty: Difficulty = "easy"
    loud: bool = True
    tenant: str = ""
    start: float = 0.0
    end: float = 0.0
    also: tuple[str, ...] = ()
    ips: set[str] = msgspec.field(default_factory=set)
    users: set[str] = msgspec.field(default_factory=set)
    requests: int = 0
    tokens: int = 0
    retry: float = 0.0
    retry_after: float = 5.0
    # Times the usual, where the operator was told beforehand (honest crowds).
    declared: float | None = None

    @property
    def right_classes(self) -> tuple[str, ...]:
        """Every class that names this cause."""
        return (self.cls, *self.also)


class Ledger:
    """All causes of one world by index."""

    def __init__(self) -> None:
        self.causes = [Cause(0, "ordinary", "ordinary")]

    def add(self, name: str, kind: Kind, **known: object) -> Cause:
        """A new entry; its index is what rows carry."""
        cause = msgspec.convert(
            {"index": len(self.causes), "name": name, "kind": kind, **known}, Cause
        )
        self.causes.append(cause)
        return cause

    def attacks(self) -> list[Cause]:
        """The attack episodes that sent at least one request."""
        return [c for c in self.causes if c.kind == "attack" and c.requests]

    def honest(self) -> list[Cause]:
        """The honest causes that look like attacks."""
        return [c for c in self.causes if c.kind == "honest"]
