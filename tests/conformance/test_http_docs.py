"""The table of docs/http.md and the corpus say the same."""

from __future__ import annotations

import re

from tests.corpus.malformed import CASES

ROW = re.compile(r"^\| `([a-z0-9-]+)` \|.*\| (\d{3}|-) \| [^|]+ \|$", re.MULTILINE)


def test_every_documented_rule_is_in_the_corpus(repository):
    """Rule and status of each row are those of the corpus, in both directions."""
    text = (repository / "docs" / "http.md").read_text(encoding="utf-8")
    documented = dict(ROW.findall(text))
    tested = {case.rule: str(case.status or "-") for case in CASES}
    assert documented == tested


def test_one_status_for_each_rule():
    """No rule of the corpus is answered in two ways, and names are unique."""
    assert len({(case.rule, case.status) for case in CASES}) == len(
        {case.rule for case in CASES}
    )
    assert len({case.name for case in CASES}) == len(CASES) >= 150
