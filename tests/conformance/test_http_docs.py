"""docs/http.md and the corpus list the same rules."""

from __future__ import annotations

import re

from tests.corpus.malformed import CASES

ROW = re.compile(r"^\| `([a-z0-9-]+)` \|.*\| (\d{3}|-) \| [^|]+ \|$", re.MULTILINE)


def test_every_documented_rule_is_in_the_corpus(repository):
    """Every documented rule is in the corpus with its status, and the reverse."""
    text = (repository / "docs" / "http.md").read_text(encoding="utf-8")
    documented = dict(ROW.findall(text))
    tested = {case.rule: str(case.status or "-") for case in CASES}
    assert documented == tested


def test_one_status_for_each_rule():
    """Each rule of the corpus has one status; names are unique."""
    assert len({(case.rule, case.status) for case in CASES}) == len(
        {case.rule for case in CASES}
    )
    assert len({case.name for case in CASES}) == len(CASES) >= 150
