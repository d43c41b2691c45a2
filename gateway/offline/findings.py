"""What ``analyze`` found in a log, as values that every renderer reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from gateway.offline.rows import SkippedRow
from gateway.offline.usual import Floats

Severity = Literal["warning", "critical"]
ALL = "*"


class Share(msgspec.Struct, frozen=True):
    """A user's part of an abnormal window."""

    user: str
    tokens: int
    share: float  # of the window's tokens, 0 to 1
    requests: int
    expected: int  # tokens expected of this user in the window
    did: str


class AbnormalWindow(msgspec.Struct, frozen=True):
    """One abnormal window; ``kind`` is ``all`` (the service) or ``user``. Times are
    epoch seconds.
    """

    start: int
    end: int
    kind: Literal["all", "user"]
    subject: str
    tokens: int
    expected: int
    score: float
    severity: Severity
    cls: str
    top_users: tuple[Share, ...]

    def to_dict(self) -> dict[str, Any]:
        """The documented JSON form."""
        users = [msgspec.structs.asdict(one) for one in self.top_users]
        return {
            "from": stamp(self.start),
            "to": stamp(self.end),
            "subject": {"kind": self.kind, "id": self.subject},
            "tokens": self.tokens,
            "expected": self.expected,
            "score": self.score,
            "severity": self.severity,
            "class": self.cls,
            "top_users": users,
        }


class ServiceTimeline(msgspec.Struct):
    """Tokens of the whole service by window: seen, expected, and the threshold."""

    start: int
    window_s: int
    tokens: Floats
    expected: Floats
    limit: Floats


class Findings(msgspec.Struct):
    """Abnormal windows of a log in order of time, and the thresholds applied."""

    rows: int
    users: int
    start: float  # first and last request, epoch seconds
    end: float
    window_s: int
    threshold: dict[str, Any]
    windows: list[AbnormalWindow]
    timeline: ServiceTimeline
    skipped: int
    skipped_rows: list[SkippedRow]
    zone: str = "UTC"

    def reaches(self, severity: Severity) -> bool:
        """Whether a window is at least this severe."""
        wanted = ("warning", "critical") if severity == "warning" else ("critical",)
        return any(window.severity in wanted for window in self.windows)

    def to_dict(self) -> dict[str, Any]:
        """The documented JSON form."""
        return {
            "rows": self.rows,
            "users": self.users,
            "span": {"from": stamp(self.start), "to": stamp(self.end)},
            "window_s": self.window_s,
            "threshold": self.threshold,
            "windows": [window.to_dict() for window in self.windows],
            "skipped": self.skipped,
            "skipped_rows": [_skipped(one) for one in self.skipped_rows],
        }


def stamp(at: float) -> str:
    """RFC 3339 in UTC, with milliseconds where there are any."""
    whole = float(at).is_integer()
    text = datetime.fromtimestamp(at, UTC).isoformat(
        timespec="seconds" if whole else "milliseconds"
    )
    return text.replace("+00:00", "Z")


def _skipped(one: SkippedRow) -> dict[str, Any]:
    held: dict[str, Any] = {"line": one.line, "why": one.why}
    return held | {"file": one.file} if one.file else held
