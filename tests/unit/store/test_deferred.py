"""Deferred charges add up without losing a token, bounded in size."""

from __future__ import annotations

from gateway.limits.ports import Plan
from gateway.store.deferred import DeferredCharges
from tests.cells import calendar, concurrent, sliding

SECOND = 1_000_000


def taken(deferred: DeferredCharges) -> list[tuple[bytes, int, int]]:
    """Take all charges: key, cost, time."""
    return sorted(
        (op[1].plan.cells[0].key, op[1].costs[0], op[1].at_us)
        for op in deferred.take(10_000)
    )


def test_costs_of_one_bucket_are_added_up():
    """There is one sum per counter and bucket, with the newest time in it."""
    deferred, cell = DeferredCharges(), sliding("a", 9)
    for at_us in (0, 400_000, SECOND):
        deferred.add(Plan((cell,)), (5,), at_us)
    assert (len(deferred), deferred.exchanges) == (2, 3)
    assert taken(deferred) == [(cell.key, 5, SECOND), (cell.key, 10, 400_000)]
    assert (len(deferred), deferred.exchanges) == (0, 0)


def test_leases_are_skipped_and_shared_counters_charged_once():
    """Concurrency is not charged; limits that share a counter are charged once."""
    deferred = DeferredCharges()
    cells = (sliding("a", 9), sliding("a", 5), concurrent("c", 1), sliding("z", 1))
    deferred.add(Plan(cells), (5, 5, 1, 0), 0)
    assert taken(deferred) == [(cells[0].key, 5, 0)]


def test_beyond_the_bound_sums_are_folded_without_losing_a_token():
    """Beyond the bound there is one sum per counter, without buckets."""
    deferred, plan = (
        DeferredCharges(fold_at=10),
        Plan((sliding("a", 9), calendar("d", 9, 5.0))),
    )
    for second in range(100):
        deferred.add(plan, (1, 2), second * SECOND)
    assert len(deferred) == 2
    assert [cost for _, cost, _ in taken(deferred)] == [100, 200]


def test_buckets_are_kept_again_once_the_folded_sums_were_taken():
    """Folding ends when all sums were taken."""
    deferred, plan = DeferredCharges(fold_at=2), Plan((sliding("a", 9),))
    for _ in range(2):
        for second in range(5):
            deferred.add(plan, (1,), second * SECOND)
        assert sum(cost for _, cost, _ in taken(deferred)) == 5
    deferred.add(plan, (1,), 0)
    deferred.add(plan, (1,), SECOND)
    assert len(deferred) == 2


def test_taking_some_leaves_the_rest():
    """``take`` returns at most as many charges as asked for."""
    deferred = DeferredCharges()
    for number in range(5):
        deferred.add(Plan((sliding(f"k{number}", 9),)), (1,), 0)
    assert (len(deferred.take(3)), len(deferred), len(deferred.take(3))) == (3, 2, 2)
