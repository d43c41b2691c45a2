"""Historical maximum of the service: what the busiest subjects of the last days reached.

Amounts of work differ between subjects by a factor of 1,000, and every day some subject
starts its first job. So amounts without precedent for a subject are compared with the
highest figure that several subjects of the service reached in the last days (several,
because one of them may have been an undetected attack).
"""

from __future__ import annotations

import msgspec

# Figures are forgotten after one to two such spans.
SPAN_S = 4 * 86_400.0
# The figure that counts is the third highest, and where there are many subjects, the
# one that one in 1,000 of them exceeds.
RANK = 3
SUBJECTS_PER_RANK = 1000
HELD = 64
# What is measured of each subject: its busiest minute and window, its longest run.
METERS = ("minute", "requests", "tokens", "longest", "run", "run_tokens")


class ServiceMaximum(msgspec.Struct, array_like=True):
    """The highest figures of one meter, one per subject, of this span and the one before.
    ``usual`` is what several subjects reached, 0 while too few are known.
    """

    now: dict[str, float] = {}
    past: dict[str, float] = {}
    since: float = 0.0
    least: float = 0.0
    usual: float = 0.0

    def learn(self, subject: str, figure: float) -> None:
        """A subject has come to this figure."""
        if figure <= self.least:
            return
        now = self.now
        now[subject] = max(figure, now.get(subject, 0.0))
        if len(now) > HELD:
            lowest = min(now, key=lambda one: (now[one], one))
            self.least = now.pop(lowest)

    def refresh(self, at: float, subjects: int) -> None:
        """Bring ``usual`` up to date (say, once an hour), and forget.

        ``at`` is epoch seconds, ``subjects`` how many there are.
        """
        if not self.since:
            self.since = at
        elif at - self.since > SPAN_S:
            self.past, self.now = self.now, {}
            self.since, self.least = at, 0.0
        both = dict(self.past)
        for subject, figure in self.now.items():
            both[subject] = max(figure, both.get(subject, 0.0))
        rank = min(HELD, max(RANK, subjects // SUBJECTS_PER_RANK))
        figures = sorted(both.values(), reverse=True)
        self.usual = figures[rank - 1] if len(figures) >= rank else 0.0


def new_service_maxima() -> dict[str, ServiceMaximum]:
    """One for each meter."""
    return {meter: ServiceMaximum() for meter in METERS}
