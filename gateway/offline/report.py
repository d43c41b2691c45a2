"""What ``analyze`` found, as values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from gateway.offline.rows import Skipped
from gateway.offline.usual import Floats

Severity = Literal["warning", "critical"]
ALL = "*"


class Share(msgspec.Struct, frozen=True):
    """A user's part of an abnormal window."""

    user: str
    tokens: int
    share: float  # of the window
    requests: int
    expected: int  # what the user has at such a time
    did: str


class Window(msgspec.Struct, frozen=True):
    """One abnormal window; ``kind`` is ``all`` or ``user``. Times: epoch seconds."""

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


class Timeline(msgspec.Struct):
    """The service, window by window: what charts show."""

    start: int
    window_s: int
    tokens: Floats
    expected: Floats
    limit: Floats


class Report(msgspec.Struct):
    """Abnormal windows of a log, sorted by time, and what they were judged by."""

    rows: int
    users: int
    start: float  # first and last request, epoch seconds
    end: float
    window_s: int
    threshold: dict[str, Any]
    windows: list[Window]
    timeline: Timeline
    skipped: int
    skipped_rows: list[Skipped]
    zone: str = "UTC"

    def reaches(self, severity: Severity) -> bool:
        """Whether a window is at least this severe."""
        wanted = ("warning", "critical") if severity == "warning" else ("critical",)
        return any(window.severity in wanted for window in self.windows)

    def table(self) -> str:
        """Plain text for people, the worst first."""
        from gateway.offline.table import text  # noqa: PLC0415 - it knows this module

        return text(self)

    def to_html(self) -> str:
        """One self-contained page."""
        from gateway.offline.page import page  # noqa: PLC0415 - as above

        return page(self)

    def plot(self, name: str) -> None:
        """The timeline as a PNG file; raises InputError where it cannot be written."""
        from gateway.offline.plot import write_png  # noqa: PLC0415 - as above

        write_png(self, name)

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


def _skipped(one: Skipped) -> dict[str, Any]:
    held: dict[str, Any] = {"line": one.line, "why": one.why}
    return held | {"file": one.file} if one.file else held
