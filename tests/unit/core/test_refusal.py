"""When clients should not retry a refusal by themselves."""

from __future__ import annotations

import pytest

from gateway.core.refusal import LONGEST_RETRY_S, Refusal


@pytest.mark.parametrize(
    ("refusal", "final"),
    [
        (Refusal(429, "c", "m", retry_after=0.0), False),
        (Refusal(429, "c", "m", retry_after=LONGEST_RETRY_S), False),
        (Refusal(429, "c", "m", retry_after=LONGEST_RETRY_S + 0.001), True),
        (Refusal(429, "c", "m", retry_after=5.0, calendar=True), True),
        (Refusal(429, "c", "m"), True),
        (Refusal(403, "c", "m"), True),
        (Refusal(508, "c", "m"), True),
        (Refusal(408, "c", "m"), False),
        (Refusal(503, "c", "m", upstream_failed=True), False),
    ],
)
def test_final(refusal, final):
    """Final: waiting does not help, lasts over a minute, or ends for all at once. A
    request that was too slow, and an upstream that failed, may be retried.
    """
    assert refusal.final == final
