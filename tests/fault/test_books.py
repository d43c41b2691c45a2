"""Every token is on the books once, whatever died while it was used."""

from __future__ import annotations

from loadtests.books import run

FREEZE_S = 2.0


def test_books_balance_after_kills_and_a_freeze():
    """Clients leave, upstreams reset, a worker and the store are killed, the store is
    frozen: users = tenants = the upstream's own count, but for the exchanges that were
    open on the killed worker; and no client saw a 5xx.
    """
    found = run(1.5, FREEZE_S, leases=False)
    assert found["wrong"] == []
    assert found["requests"] > 100
    # Who waits for the store waits for the whole freeze; the rest is what a machine
    # that runs other tests may add. loadtests/books.py has the figures.
    assert found["overhead_first_frozen_ms"]["max"] < 0.75 * FREEZE_S * 1000
    assert found["overhead_frozen_ms"]["median"] < 0.25 * FREEZE_S * 1000
