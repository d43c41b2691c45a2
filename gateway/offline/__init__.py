"""Past logs: where were they abnormal? ``analyze`` for frames and files.

from gateway.offline import analyze

report = analyze(polars.read_parquet("week.parquet"))
for window in report.windows:
    print(window.subject, window.tokens, window.expected, window.cls)

Start reading in ``analyze.py``. May import ``config`` and the pure folders.
"""

from __future__ import annotations

from gateway.offline.analyze import analyze, analyze_files
from gateway.offline.columns import Choice
from gateway.offline.errors import InputError
from gateway.offline.findings import AbnormalWindow, ServiceTimeline, Share
from gateway.offline.report import AnalysisReport

__all__ = [
    "AbnormalWindow",
    "AnalysisReport",
    "Choice",
    "InputError",
    "ServiceTimeline",
    "Share",
    "analyze",
    "analyze_files",
]
