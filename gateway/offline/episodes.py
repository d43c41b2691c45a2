"""Adjacent abnormal windows of one subject, merged into one row of the report."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.offline.findings import AbnormalWindow, Severity

# Windows apart that still belong to one episode.
_GAP_WINDOWS = 2


class Episode(msgspec.Struct):
    """A stretch of abnormal windows of one subject; times are epoch seconds."""

    kind: str
    subject: str
    cls: str
    severity: Severity
    windows: list[AbnormalWindow]

    @property
    def start(self) -> int:
        """When it began."""
        return self.windows[0].start

    @property
    def end(self) -> int:
        """When it ended."""
        return self.windows[-1].end

    @property
    def tokens(self) -> int:
        """Of its windows."""
        return sum(window.tokens for window in self.windows)

    @property
    def expected(self) -> int:
        """Of its windows."""
        return sum(window.expected for window in self.windows)

    @property
    def excess(self) -> int:
        """Tokens beyond the expectation."""
        return self.tokens - self.expected

    @property
    def score(self) -> float:
        """The highest."""
        return max(window.score for window in self.windows)

    @property
    def worst(self) -> AbnormalWindow:
        """The window with the largest excess."""
        return max(self.windows, key=lambda one: one.tokens - one.expected)


def episodes(windows: Iterable[AbnormalWindow], window_s: int) -> list[Episode]:
    """All episodes, the worst first: by severity, then by excess."""
    running: dict[tuple[str, str], Episode] = {}
    found: list[Episode] = []
    for window in windows:
        key = (window.kind, window.subject)
        one = running.get(key)
        if one is None or window.start - one.end > _GAP_WINDOWS * window_s:
            one = Episode(*key, window.cls, window.severity, [])
            running[key] = one
            found.append(one)
        one.windows.append(window)
        if window.severity == "critical":
            one.severity = "critical"
    for one in found:
        one.cls = one.worst.cls
    return sorted(found, key=lambda e: (e.severity != "critical", -e.excess, e.start))
