"""Ways around the meter: what the upstream bills is in the records (loadtests/evasion)."""

from __future__ import annotations

import asyncio

import pytest

from loadtests.evasion import admitted, all_cases, run

# Kinds of which no case may evade.
HELD = (
    "model",
    "reader",
    "content type",
    "form",
    "caps",
    "path",
    "account",
    "method",
    "coding",
    "framing",
    "cut",
    "usage",
    "hidden usage",
    "end",
    "other model",
    "background",
    "batch",
    "video",
    "units",
    "session",
    "identity",
    "body's user",
    "limit",
)


def test_nothing_is_billed_that_is_not_recorded():
    """Every case of these kinds is refused, or its bill is in the records."""
    cases = [case for case in all_cases() if case.kind in HELD]
    assert {case.kind for case in cases} == set(HELD)
    assert len(cases) > 120
    results = asyncio.run(run(cases, 1, "memory:"))
    evaded = [result for result in results if result.outcome == "evaded"]
    assert not evaded, evaded
    # The upstreams served: refusing everything would hold, too.
    assert sum(result.billed_tokens > 0 for result in results) > 120


def test_what_is_known_to_evade_is_in_the_docs():
    """A case may evade only if a page of docs/ says so."""
    known = {case.known.sentence for case in all_cases() if case.known}
    assert all(map(admitted, known))


@pytest.mark.parametrize("text", ["Nothing evades the gateway.", "x" * 30])
def test_other_sentences_are_not_in_the_docs(text):
    """The search for such a sentence finds no others."""
    assert not admitted(text)
