"""The bench with a timetable: a sweep looks only at whose time has come.

Thousands stand somewhere for a day after an attack, and every ten seconds somebody asks
whose time is over. Each standing is due at a moment that only a verdict can change, so
those that were touched since the last sweep and those that are due are all there is to
look at.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from gateway.detect.incidents import CALM_S
from gateway.detect.ladder import Standing, relax
from gateway.detect.model import DetectSettings, Output
from gateway.detect.responses import _REMEMBERED_S, MOST_STANDINGS, Bench, Key


class Roster(Bench):
    """As ``Bench``, in all it says; sweeps cost what happens in them."""

    def __init__(self, settings: DetectSettings) -> None:
        super().__init__(settings)
        self._places: dict[Key, int] = {}  # who came after whom
        self._placed = 0
        self._touched: set[Key] = set()  # since the last sweep
        self._due: list[tuple[float, int, Key]] = []  # a heap
        self._at: dict[Key, float] = {}  # the entry of the heap that counts
        self._patience = _REMEMBERED_S

    def _standing(self, key: Key) -> Standing:
        # Nothing changes a standing that has not been asked for here.
        self._touched.add(key)
        if key not in self._places:
            self._places[key] = self._placed
            self._placed += 1
        return super()._standing(key)

    def _forget(self, key: Key) -> None:
        super()._forget(key)
        del self._places[key]
        self._at.pop(key, None)

    def load(
        self, saved: bytes, keep: Callable[[str], bool] = lambda _tenant: True
    ) -> None:
        """As ``Bench.load``."""
        super().load(saved, keep)
        self._touched.update(self.standings)

    def _unstand(self, now: float) -> list[Output]:
        """Those whose time is over come down, in the order in which they came."""
        out: list[Output] = []
        crowded = len(self.standings) > MOST_STANDINGS // 2
        patience = CALM_S if crowded else _REMEMBERED_S
        if patience != self._patience:  # all times are different
            self._patience = patience
            self._touched.update(self.standings)
        for key in sorted(self._ready(now), key=self._places.__getitem__):
            standing = self.standings[key]
            if relax(standing, now) == "block":
                out += self._unblocked(key, standing, now)
            if standing.rung == "allow" and now - standing.first > patience:
                self._forget(key)
            else:
                self._plan(key, standing)
        return out

    def sweep(self, now: float) -> list[Output]:
        """As ``Bench.sweep``."""
        out = self._unstand(now)
        # What is left to do there is about incidents.
        standings, self.standings = self.standings, {}
        out += super().sweep(now)
        self.standings = standings
        return out

    def _ready(self, now: float) -> set[Key]:
        ready, self._touched = self._touched, set()
        due, times = self._due, self._at
        while due and due[0][0] <= now:
            at, _, key = heapq.heappop(due)
            if times.get(key) == at:
                del times[key]
                ready.add(key)
        return ready

    def _plan(self, key: Key, standing: Standing) -> None:
        """Look at it again when its time comes."""
        at = standing.until
        if standing.rung == "allow":
            at = standing.first + self._patience
        held = self._at.get(key)
        if held is None or at < held:  # else it is looked at before, and again
            self._at[key] = at
            heapq.heappush(self._due, (at, self._places[key], key))
