"""The result of ``analyze``: the findings, and each form they can be written in."""

from __future__ import annotations

from gateway.offline import page, plot, table
from gateway.offline.findings import Findings


class AnalysisReport(Findings):
    """Findings that render themselves as text, as an HTML page or as a picture."""

    def table(self) -> str:
        """Plain text for people, the worst first."""
        return table.text(self)

    def to_html(self) -> str:
        """One self-contained page."""
        return page.page(self)

    def plot(self, name: str) -> None:
        """The timeline as a PNG file; raises InputError where it cannot be written."""
        plot.write_png(self, name)
