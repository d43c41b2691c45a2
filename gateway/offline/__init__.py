"""Past logs: where were they abnormal? ``analyze`` for frames and files.

from gateway.offline import analyze

report = analyze(polars.read_parquet("week.parquet"))
for window in report.windows:
    print(window.subject, window.tokens, window.expected, window.cls)
"""

from __future__ import annotations

from gateway.offline.analyze import analyze, analyze_files
from gateway.offline.columns import Choice
from gateway.offline.errors import InputError
from gateway.offline.report import Report, Share, Timeline, Window

__all__ = [
    "Choice",
    "InputError",
    "Report",
    "Share",
    "Timeline",
    "Window",
    "analyze",
    "analyze_files",
]
