"""From windows to a report: users first, then the service without what they explain."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from gateway.offline.findings import (
    ALL,
    AbnormalWindow,
    ServiceTimeline,
    Severity,
    Share,
)
from gateway.offline.report import AnalysisReport
from gateway.offline.service import (
    SCALES,
    WEIGHT,
    Meters,
    ServiceVerdict,
    judge_service,
    median_window,
)
from gateway.offline.traffic import Traffic
from gateway.offline.users import WEIGHT_SHARE, UserFlag, judge_users, make_grid
from gateway.offline.usual import Floats, add_up
from gateway.offline.words import short

CRITICAL = 5.0
_TOP_USERS = 5
_CROWD = -1
# A crowd: nobody holds more of the excess than this.
_CROWD_SHARE = 0.3
_LONGER = 3.0
# Who holds this much of the service's excess, at this many times their own mean, is
# named with it.
MOST_OF_EXCESS = 0.7
OWN_FACTOR = 4.0


def judge(traffic: Traffic, zone: str = "UTC") -> AnalysisReport:
    """The report on a log's windows."""
    total = add_up(traffic.window, traffic.tokens, traffic.windows)
    median = median_window(total)
    flagged = judge_users(traffic, median) if traffic.users else []
    known = np.zeros(traffic.windows)
    for one in flagged:
        known[one.windows] += np.maximum(one.tokens - one.expected, 0.0)
    # The crowd's members may be flagged on their own account as well.
    known = np.minimum(known, total)
    calm = add_up(traffic.window, traffic.tempered(), traffic.windows)
    requests = add_up(traffic.window, traffic.requests, traffic.windows)
    meters = Meters(total, np.minimum(calm, total), known, requests)
    service = judge_service(meters, make_grid(traffic), traffic.window_s)
    writer = _Writer(traffic, service, flagged)
    windows = [*writer.service_windows(), *writer.user_windows()]
    windows.sort(key=lambda one: (one.start, one.kind, one.subject))
    return AnalysisReport(
        rows=traffic.rows,
        users=len(traffic.users),
        start=traffic.from_us / 1e6,
        end=traffic.to_us / 1e6,
        window_s=traffic.window_s,
        threshold=_threshold(service),
        windows=windows,
        timeline=ServiceTimeline(
            start=traffic.start_of(0),
            window_s=traffic.window_s,
            tokens=service.total,
            expected=service.expected,
            limit=service.limit,
        ),
        skipped=traffic.bad,
        skipped_rows=traffic.skipped,
        zone=zone,
    )


# Share of an ordinary window's tokens from which a user's excess may be critical.
FELT = 0.5


class _Writer:
    """Findings with who made them up."""

    def __init__(
        self, traffic: Traffic, service: ServiceVerdict, flagged: list[UserFlag]
    ) -> None:
        self.traffic, self.service = traffic, service
        self.flagged = [one for one in flagged if one.user != _CROWD]
        self.known = {
            (one.user, window): float(expected)
            for one in self.flagged
            for window, expected in zip(one.windows, one.expected, strict=True)
        }
        users = len(traffic.users)
        held = traffic.user.clip(0)
        self.tokens_of = add_up(held, traffic.tokens, users)
        self.requests_of = add_up(held, traffic.requests, users)
        self.order = np.argsort(traffic.window, kind="stable")
        self.bounds = np.searchsorted(
            traffic.window[self.order], np.arange(traffic.windows + 1)
        )

    def service_windows(self) -> list[AbnormalWindow]:
        """Flagged windows of the whole service."""
        service = self.service
        found = []
        for at in np.flatnonzero(service.flags).tolist():
            shares = self._top(at)
            found.append(
                self._window(
                    at,
                    "all",
                    ALL,
                    (service.total[at], service.expected[at], service.score[at]),
                    cls=self._class_of(at, shares),
                    shares=shares,
                )
            )
        return found

    def _named_by_service(self) -> list[AbnormalWindow]:
        """Users who hold nearly all of the service's excess, where their own history
        (few users, large ones) was not enough to say so.
        """
        service, found = self.service, []
        for at in np.flatnonzero(service.flags & ~service.steps).tolist():
            row = self._largest(at)
            user = int(self.traffic.user[row])
            if user < 0 or (user, at) in self.known:
                continue
            tokens = float(self.traffic.tokens[row])
            alone = len(self.traffic.users) == 1
            usual = self._mean_elsewhere(user, tokens)
            expected = float(service.expected[at]) if alone else usual
            excess = float(service.total[at] - service.expected[at])
            if not alone and tokens - expected < MOST_OF_EXCESS * excess:
                continue
            if tokens > OWN_FACTOR * usual or alone:
                figures = (tokens, expected, float(service.score[at]))
                shares = (self._share(row, at),)
                name = self.traffic.users[user]
                found.append(
                    self._window(
                        at, "user", name, figures, cls="cost_spike", shares=shares
                    )
                )
        return found

    def _largest(self, at: int) -> int:
        rows = self.order[self.bounds[at] : self.bounds[at + 1]]
        if not len(rows):
            return 0
        return int(rows[np.argmax(self.traffic.tokens[rows])])

    def user_windows(self) -> list[AbnormalWindow]:
        """Flagged windows of users."""
        found = self._named_by_service() if self.traffic.users else []
        for one in self.flagged:
            name = self.traffic.users[one.user]
            parts = zip(one.windows, one.tokens, one.expected, one.score, strict=True)
            for at, tokens, expected, score in parts:
                shares = (self._share(self._row(one.user, at), at),)
                found.append(
                    self._window(
                        at,
                        "user",
                        name,
                        (tokens, expected, score),
                        cls="cost_spike",
                        shares=shares,
                    )
                )
        return found

    def _window(
        self,
        at: int,
        kind: Literal["all", "user"],
        subject: str,
        figures: tuple[float, float, float],
        *,
        cls: str,
        shares: tuple[Share, ...],
    ) -> AbnormalWindow:
        tokens, expected, score = figures
        # Nobody is paged for a user whose excess the service hardly feels.
        weighs = kind == "all" or tokens - expected >= FELT * self.service.median
        severity: Severity = "warning"
        if score >= CRITICAL and weighs:
            severity = "critical"
        start = self.traffic.start_of(at)
        return AbnormalWindow(
            start=start,
            end=start + self.traffic.window_s,
            kind=kind,
            subject=subject,
            tokens=round(tokens),
            expected=round(max(0.0, expected)),
            score=round(float(score), 2),
            severity=severity,
            cls=cls,
            top_users=shares,
        )

    def _class_of(self, at: int, shares: tuple[Share, ...]) -> str:
        """One user's tokens, or a volume that nobody alone explains."""
        if not shares or self.service.steps[at]:
            return "volume"
        excess = max(1.0, self.service.total[at] - self.service.expected[at])
        worst = max(one.tokens - one.expected for one in shares)
        return "cost_spike" if worst > _CROWD_SHARE * excess else "volume"

    def _row(self, user: int, at: int) -> int:
        traffic = self.traffic
        low, high = np.searchsorted(traffic.user, (user, user + 1))
        return int(low + np.searchsorted(traffic.window[low:high], at))

    def _top(self, at: int) -> tuple[Share, ...]:
        """Who had most of a window."""
        if not self.traffic.users:
            return ()
        rows = self.order[self.bounds[at] : self.bounds[at + 1]]
        best = rows[np.argsort(-self.traffic.tokens[rows], kind="stable")[:_TOP_USERS]]
        return tuple(self._share(int(row), at) for row in best)

    def _share(self, row: int, at: int) -> Share:
        traffic = self.traffic
        user = int(traffic.user[row])
        tokens = float(traffic.tokens[row])
        expected = self.known.get((user, at))
        if expected is None:
            expected = self._mean_elsewhere(user, tokens)
        return Share(
            user=traffic.users[user],
            tokens=round(tokens),
            share=round(float(tokens / max(1.0, self.service.total[at])), 3),
            requests=int(traffic.requests[row]),
            expected=round(expected),
            did=self._did(row, user, tokens, expected),
        )

    def _mean_elsewhere(self, user: int, tokens: float) -> float:
        others = self.tokens_of[user] - tokens
        return float(others / max(1, self.traffic.windows - 1))

    def _did(self, row: int, user: int, tokens: float, expected: float) -> str:
        """One plain sentence."""
        traffic = self.traffic
        requests = float(traffic.requests[row])
        each = tokens / max(1.0, requests)
        other_requests = self.requests_of[user] - requests
        parts = [f"{requests:,.0f} request{'s' if requests != 1 else ''}"]
        if other_requests >= 1:
            usual = (self.tokens_of[user] - tokens) / other_requests
            note = f" (usually {usual:,.0f})" if each > _LONGER * usual else ""
        else:
            note = ""
        parts.append(f"{each:,.0f} tokens each{note}")
        prompt = float(traffic.prompt[row])
        if prompt:
            parts.append(f"{100 * prompt / max(1.0, tokens):.0f} % prompt")
        if other_requests < 1:
            parts.append("never seen otherwise")
        elif expected >= 1:
            parts.append(f"{short(tokens / expected)} times the usual")
        return ", ".join(parts)


def _threshold(service: ServiceVerdict) -> dict[str, Any]:
    """How windows were judged, in words and figures."""
    return {
        "method": "robust expectation of the log itself; what stood out was dropped, "
        "the rest fitted again; then each window against the fit",
        "scale": "log",
        "score": "3 is the limit of the ordinary, 5 critical",
        "median_window": round(service.median),
        "least_excess": round(WEIGHT * service.median),
        "least_excess_user": round(WEIGHT_SHARE * service.median),
        "lengths": list(SCALES),
        "typical_limit": _typical(service.limit, service.expected),
    }


def _typical(limit: Floats, expected: Floats) -> float | None:
    """The limit as a multiple of the expectation, in the middle."""
    held = expected > 0
    if not held.any():
        return None
    return round(float(np.median(limit[held] / expected[held])), 2)
