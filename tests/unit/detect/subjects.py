"""Facts of typical subjects, one for each class."""

from __future__ import annotations

import msgspec

from gateway.detect.rules.classify import classify
from gateway.detect.rules.facts import Facts

SWEEP = Facts(denied=30, missing=10, targets=12, ok=2)
STOLEN = Facts(
    kind="user",
    known=True,
    newcomers=6,
    new_networks=6.0,
    new_models=3.0,
    company=8,
    windows=50,
)
WALK = Facts(
    requests_m=400,
    requests=400,
    repetition_run=400,
    alike=0.9,
    templated=0.9,
    apart=7,
    peer_score=8.0,
)
LOOP = Facts(
    known=True,
    alike=1.0,
    apart=1.0,
    same_size=1.0,
    repetition_run=200,
    repetition_tokens=900_000,
    ok=200,
)
RUNAWAY = Facts(
    known=True,
    alike=1.0,
    apart=2.0,
    repetition_run=60,
    repetition_tokens=9_000_000,
    most_repetition_tokens=400_000,
    longer_asks=5.0,
    ok=60,
)
RAISED = Facts(
    known=True, spoken=90_000, longer_answers=12.0, louder_answers=8.0, ok=60
)
MORE = Facts(known=True, windows=50, requests=900, most_requests=100, request_score=8.0)
STANDS_OUT = Facts(
    cold=True, requests_m=60, requests=60, concurrent_m=4.0, concurrent_score=4.0
)
PACED = Facts(
    requests_m=30,
    repetition_run=200,
    alike=0.9,
    templated=1.0,
    apart=7,
    regular=0.2,
    concurrent_m=2.0,
)


def named(facts: Facts, **change: object) -> tuple[str | None, bool]:
    """Class of a signal with a score of at least 3, and whether it is behaviour."""
    finding = classify(msgspec.structs.replace(facts, **change))
    if finding is None or finding.score < 3:
        return None, False
    assert finding.reasons
    return finding.cls, finding.behaviour
