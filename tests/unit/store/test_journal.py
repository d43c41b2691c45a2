"""The journal adds up without losing a token; recents forget what is old."""

from __future__ import annotations

from gateway.limits.ports import Plan, Reserved
from gateway.store import wire
from gateway.store.journal import Journal, Recents
from tests.cells import calendar, concurrent, sliding

SECOND = 1_000_000


def taken(journal: Journal) -> list[tuple[bytes, int, int]]:
    """Everything in it: key, cost, time."""
    return sorted(
        (op[1].plan.cells[0].key, op[1].costs[0], op[1].at_us)
        for op in journal.take(10_000)
    )


def test_costs_of_one_bucket_are_added_up():
    """One sum per counter and bucket, with the newest time in it."""
    journal, cell = Journal(), sliding("a", 9)
    for at_us in (0, 400_000, SECOND):
        journal.add(Plan((cell,)), (5,), at_us)
    assert (len(journal), journal.noted) == (2, 3)
    assert taken(journal) == [(cell.key, 5, SECOND), (cell.key, 10, 400_000)]
    assert (len(journal), journal.noted) == (0, 0)


def test_only_weights_are_noted_and_twins_once():
    """Leases are not weights; limits that share a counter count once."""
    journal = Journal()
    cells = (sliding("a", 9), sliding("a", 5), concurrent("c", 1), sliding("z", 1))
    journal.add(Plan(cells), (5, 5, 1, 0), 0)
    assert taken(journal) == [(cells[0].key, 5, 0)]


def test_a_full_journal_folds_and_keeps_every_token():
    """Beyond its bound there is one sum per counter."""
    journal, plan = Journal(fold_at=10), Plan((sliding("a", 9), calendar("d", 9, 5.0)))
    for second in range(100):
        journal.add(plan, (1, 2), second * SECOND)
    assert len(journal) == 2
    assert [cost for _, cost, _ in taken(journal)] == [100, 200]


def test_a_folded_journal_is_fine_again_once_empty():
    """Buckets count anew after it was taken."""
    journal, plan = Journal(fold_at=2), Plan((sliding("a", 9),))
    for _ in range(2):
        for second in range(5):
            journal.add(plan, (1,), second * SECOND)
        assert sum(cost for _, cost, _ in taken(journal)) == 5
    journal.add(plan, (1,), 0)
    journal.add(plan, (1,), SECOND)
    assert len(journal) == 2


def test_taking_some_leaves_the_rest():
    """The backlog rides along in slices."""
    journal = Journal()
    for number in range(5):
        journal.add(Plan((sliding(f"k{number}", 9),)), (1,), 0)
    assert (len(journal.take(3)), len(journal), len(journal.take(3))) == (3, 2, 2)


def call(cost: int) -> bytes:
    """A packed call of one reserve."""
    return wire.encode_call(
        [(wire.RESERVE, Reserved(Plan((sliding("a", 9),)), (cost,)), None)]
    )


def test_recents_give_what_came_after():
    """Only the calls a store does not know, as holds, in order."""
    recents = Recents()
    for seq in (1, 2, 3):
        recents.add(seq, 0.0, call(seq), 10 * seq, ())
    held = [wire.tell_again(call(seq), 10 * seq, ()) for seq in (2, 3)]
    assert recents.take_after(3, 1.0) == []
    assert recents.take_after(1, 1.0) == held
    assert recents.take_after(1, 1.0) == []


def test_a_worker_that_was_idle_for_long_tells_nothing_again():
    """Its record in the store has lapsed; that is not a loss."""
    recents = Recents()
    recents.add(1, 0.0, call(1), 0, ())
    assert recents.take_after(-1, 90_000.0) == []


def test_a_call_of_which_nothing_counted_is_not_told_again():
    """Its only reserve was refused."""
    recents = Recents()
    recents.add(1, 0.0, call(1), 0, (0,))
    assert recents.take_after(-1, 0.0) == []


def test_recents_forget_by_age_and_by_size():
    """Seconds and bytes are bounded."""
    recents = Recents(keep_s=3.0, most_bytes=3 * len(call(1)))
    recents.add(1, 0.0, call(1), 0, ())
    recents.add(2, 2.0, call(1), 0, ())
    recents.add(3, 4.0, call(1), 0, ())
    assert len(recents.take_after(0, 4.0)) == 2
    for seq in range(4, 9):
        recents.add(seq, 4.0, call(1), 0, ())
    assert len(recents.take_after(0, 4.0)) == 3


def test_a_call_too_big_to_remember_is_not_kept():
    """The bound holds even for one."""
    recents = Recents(most_bytes=1)
    recents.add(1, 0.0, call(1), 0, ())
    assert recents.take_after(0, 4.0) == []
