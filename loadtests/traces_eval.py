"""Evaluates the volume score on real load: learn week 1, score week 2.

    python -m loadtests.traces_eval [--attacks] [--traces FILE]

Every window with a score over 3 or 5 counts as a false positive (the load has no known
attack); a burst is one window multiplied by 5, 10 or 30. ``--attacks`` adds three floods
per client to the learning week, which must not hide bursts in week 2.
"""

from __future__ import annotations

import argparse
import gzip
import random
from pathlib import Path

from gateway.detect.baseline import UpperBaseline, new_upper_baseline
from gateway.detect.score import Tail, new_tail

TRACES = Path(__file__).parents[2] / "shared/traces/clients_10min.csv.gz"
WINDOW_S = 600
WEEK = 7 * 86_400 // WINDOW_S
STEADY = 0.9  # share of windows with a request
FACTORS = (5, 10, 30)
REFIT_EVERY = 6  # windows


def load(path: Path) -> list[list[float]]:
    """Load steady clients: requests per window of each."""
    with gzip.open(path, "rt") as lines:
        next(lines)
        rows = [[float(cell) for cell in line.split(",")[1:]] for line in lines]
    clients = [list(column) for column in zip(*rows, strict=True)]
    return [c for c in clients if sum(x > 0 for x in c) >= STEADY * len(c)]


def spoil(clients: list[list[float]], seed: int) -> None:
    """Put three floods of 5 to 50 times, one to six windows long, into week 1."""
    chance = random.Random(seed)
    for client in clients:
        for _ in range(3):
            start = chance.randrange(36, WEEK - 6)
            factor = chance.uniform(5, 50)
            for at in range(start, start + chance.randint(1, 6)):
                client[at] = (client[at] + 1) * factor


class Count:
    """Windows of week 2, and flagged ones, unchanged and multiplied."""

    def __init__(self) -> None:
        self.windows = 0
        self.over = {3: 0, 5: 0}
        self.caught = dict.fromkeys(FACTORS, 0)
        self.expected_over: list[float] = []

    def add(
        self, envelope: UpperBaseline, tail: Tail, index: int, count: float
    ) -> None:
        """Score one window and its multiples without learning them."""
        self.windows += 1
        score = sigma(envelope, tail, index, count)
        for level in self.over:
            self.over[level] += score > level
        for factor in FACTORS:
            score = sigma(envelope, tail, index, count * factor)
            self.caught[factor] += score > 5

    def text(self) -> str:
        """The figures in per cent."""
        share = 100 / self.windows
        false = "  ".join(
            f"over {level} sigma {n * share:.3f} %" for level, n in self.over.items()
        )
        caught = " / ".join(f"{n * share:.1f}" for n in self.caught.values())
        return f"{false}  |  5x / 10x / 30x over 5 sigma: {caught} %"


def surprise(envelope: UpperBaseline, index: int, count: float) -> float:
    """Spreads above the upper baseline."""
    expected = envelope.expect(index)
    return (envelope.value(count) - expected.level) / expected.spread


def sigma(envelope: UpperBaseline, tail: Tail, index: int, count: float) -> float:
    """The calibrated score of a window."""
    return tail.score(surprise(envelope, index, count))


def run(clients: list[list[float]]) -> tuple[Count, Tail]:
    """Score and then learn each window of both weeks in order of time."""
    envelopes = [new_upper_baseline(WINDOW_S, 10.0) for _ in clients]
    tail, count = new_tail(), Count()
    for index in range(len(clients[0])):
        for client, envelope in zip(clients, envelopes, strict=True):
            if index >= WEEK:
                count.add(envelope, tail, index, client[index])
            if index >= WEEK // 7:
                tail.learn(surprise(envelope, index, client[index]))
            envelope.learn(index, client[index])
        if index % REFIT_EVERY == 0:
            tail.refit()
    return count, tail


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attacks", action="store_true")
    parser.add_argument("--traces", type=Path, default=TRACES)
    chosen = parser.parse_args()
    clients = load(chosen.traces)
    if chosen.attacks:
        spoil(clients, 1)
    count, tail = run(clients)
    print(f"{len(clients)} steady clients, {count.windows} windows of week 2")
    print(count.text())
    print(
        f"tail: u={tail.u:.2f} share={tail.u_share:.4f} "
        f"scale={tail.scale:.3f} shape={tail.shape:.3f}"
    )


if __name__ == "__main__":
    main()
