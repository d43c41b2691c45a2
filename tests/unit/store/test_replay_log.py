"""The replay log returns the calls that a store lost, and drops old ones."""

from __future__ import annotations

from gateway.limits.ports import Plan, Reserved
from gateway.store import wire
from gateway.store.replay_log import ReplayLog
from tests.cells import sliding


def call(cost: int) -> bytes:
    """Pack a call of one reserve."""
    return wire.encode_call(
        [(wire.RESERVE, Reserved(Plan((sliding("a", 9),)), (cost,)), None)]
    )


def test_calls_after_a_number_are_returned_as_holds():
    """Only the calls that the store lost are returned, in order, once."""
    replay_log = ReplayLog()
    for seq in (1, 2, 3):
        replay_log.add(seq, 0.0, call(seq), 10 * seq, ())
    held = [wire.encode_replay(call(seq), 10 * seq, ()) for seq in (2, 3)]
    assert replay_log.take_after(3, 1.0) == []
    assert replay_log.take_after(1, 1.0) == held
    assert replay_log.take_after(1, 1.0) == []


def test_a_worker_idle_for_long_replays_nothing():
    """The store's record of a worker idle for a day has expired, which is no loss."""
    replay_log = ReplayLog()
    replay_log.add(1, 0.0, call(1), 0, ())
    assert replay_log.take_after(-1, 90_000.0) == []


def test_a_call_of_refused_reserves_alone_is_not_replayed():
    """A call whose only reserve was refused leaves nothing to replay."""
    replay_log = ReplayLog()
    replay_log.add(1, 0.0, call(1), 0, (0,))
    assert replay_log.take_after(-1, 0.0) == []


def test_calls_are_dropped_by_age_and_by_size():
    """Calls beyond the age or size limit are dropped, oldest first."""
    replay_log = ReplayLog(keep_s=3.0, most_bytes=3 * len(call(1)))
    replay_log.add(1, 0.0, call(1), 0, ())
    replay_log.add(2, 2.0, call(1), 0, ())
    replay_log.add(3, 4.0, call(1), 0, ())
    assert len(replay_log.take_after(0, 4.0)) == 2
    for seq in range(4, 9):
        replay_log.add(seq, 4.0, call(1), 0, ())
    assert len(replay_log.take_after(0, 4.0)) == 3


def test_a_call_above_the_size_limit_is_not_kept():
    """The size limit holds for a single call too."""
    replay_log = ReplayLog(most_bytes=1)
    replay_log.add(1, 0.0, call(1), 0, ())
    assert replay_log.take_after(0, 4.0) == []
