"""What the exchanges of one worker share: ids, the date, the clock."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from time import perf_counter, time
from types import SimpleNamespace

from gateway.limits.gate import Gate
from gateway.proxy.shared import Shared


def shared() -> Shared:
    """Without tables, store and counter."""
    loop = SimpleNamespace(time=perf_counter)
    return Shared(
        loop, None, store=None, gate=Gate(), counter=None, append_record=bool,
    )  # type: ignore[arg-type] # fmt: skip


def test_request_ids_are_unique_in_and_between_workers():
    """Each worker has a random prefix, each request the next number."""
    first, second = shared(), shared()
    ids = {made.next_request_id() for made in (first, first, second, second)}
    assert len(ids) == 4
    assert all(len(one) == 24 for one in ids)


def test_date_is_now_and_made_once_a_second():
    """The value of ``Date`` is the same object within a second."""
    made = shared()
    made.epoch = 1_000_000_000.25 - perf_counter()
    first = made.http_date()
    assert made.http_date() is first
    assert parsedate_to_datetime(first.decode()).timestamp() == 1_000_000_000


def test_clock_follows_the_system():
    """Epoch seconds are ``epoch`` plus ``perf_counter``."""
    made = shared()
    made.epoch = 0.0
    made.sync_clock()
    assert abs(made.epoch + perf_counter() - time()) < 1.0
