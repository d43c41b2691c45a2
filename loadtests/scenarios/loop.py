"""The closed loop: what a detector throttles or blocks is refused from then on."""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable, Iterator
from itertools import islice

from loadtests.scenarios.detectors import Detector
from loadtests.scenarios.labels import Ledger
from loadtests.scenarios.rows import Row
from loadtests.scenarios.tally import Tally
from loadtests.scenarios.world import World

# A throttled subject still gets one request through in so many seconds.
THROTTLE_EVERY_S = 10.0
# Requests are pulled in portions, so that both sides' clocks can be read apart.
PORTION = 5_000


class Loop:
    """One world run against one detector."""

    def __init__(self, detector: Detector, ledger: Ledger, tally: Tally) -> None:
        self.detector = detector
        self.causes = ledger.causes
        self.tally = tally
        self._again: list[tuple[float, int, Row]] = []
        self._lot = random.Random(ledger.causes[0].index)
        self._passed: dict[tuple[str, str], float] = {}
        self._sent = 0
        self._clock = 0.0

    def run(
        self, world: World, progress: Callable[[float], None]
    ) -> tuple[float, float]:
        """Processor seconds of the generator and of the loop with the detector."""
        rows: Iterator[Row] = world.rows()
        making = watching = 0.0
        span = world.end - world.settings.start
        while True:
            began = time.process_time()
            portion = list(islice(rows, PORTION))
            made = time.process_time()
            making += made - began
            if not portion:
                break
            for row in portion:
                self._turn(row)
            watching += time.process_time() - made
            progress(min(1.0, (portion[-1].ts - world.settings.start) / span))
        self._retries(float("inf"))
        return making, watching

    def _turn(self, row: Row) -> None:
        if self._again and self._again[0][0] <= row.ts:
            self._retries(row.ts)
        self._request(row, again=False)

    def _retries(self, until: float) -> None:
        while self._again and self._again[0][0] <= until:
            at, _, row = heapq.heappop(self._again)
            self._request(row._replace(ts=at), again=True)

    def _request(self, row: Row, *, again: bool) -> None:
        detector, tally = self.detector, self.tally
        if row.ts - self._clock >= 1.0:
            self._clock = row.ts
            for finding in detector.advance(row.ts):
                tally.found(finding)
        held = self._refused(row)
        read = not held and detector.floods(row)
        if held or read:
            tally.refused(row, again=again)
            for finding in detector.refused(row, read=read):
                tally.found(finding)
            self._maybe_again(row)
            return
        tally.admitted(row, again=again)
        for finding in detector.observe(row):
            tally.found(finding)

    def _refused(self, row: Row) -> bool:
        """Whether a subject of it is blocked, or throttled and too early."""
        action_for = self.detector.action_for
        by_ip = action_for("client_ip", row.client_ip, row.tenant)
        by_user = "allow"
        if row.user != "anonymous":
            by_user = action_for("user", row.user, row.tenant)
        if by_ip == "block" or by_user == "block":
            return True
        if by_ip == "throttle" and self._too_early(("client_ip", row.client_ip), row):
            return True
        return by_user == "throttle" and self._too_early(("user", row.user), row)

    def _too_early(self, subject: tuple[str, str], row: Row) -> bool:
        if row.ts - self._passed.get(subject, 0.0) < THROTTLE_EVERY_S:
            return True
        self._passed[subject] = row.ts
        return False

    def _maybe_again(self, row: Row) -> None:
        """Attackers try again; how often is part of who they are."""
        cause = self.causes[row.cause]
        if cause.kind == "attack" and self._lot.random() < cause.retry:
            self._sent += 1
            at = row.ts + 0.5 + self._lot.expovariate(1 / cause.retry_after)
            heapq.heappush(self._again, (at, self._sent, row))
