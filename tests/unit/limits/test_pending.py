"""What is kept of work that is paid later."""

from __future__ import annotations

import time

import msgspec
import pytest

from gateway.core.model import Usage
from gateway.limits.pending import (
    SCHEMA,
    PendingWork,
    pack_work,
    pending_cells,
    unpack_work,
)
from gateway.limits.ports import Plan
from gateway.limits.windows import is_firm
from tests.cells import calendar, concurrent, sliding

CELLS = (
    sliding("r", 100, meter="requests"),
    sliding("t", 1000, overdraft=100),
    sliding("p", 1000, meter="prompt_tokens"),
    sliding("c", 1000, meter="completion_tokens"),
    concurrent("o", 5),
    calendar("d", 10**9, time.time() + 3600),
)
COSTS = (1, 500, 100, 400, 1, 10**6)


def work(**fields: object) -> PendingWork:
    """Work of one call, with these fields instead."""
    made = PendingWork(
        SCHEMA,
        "req",
        "acme",
        "alice",
        "192.0.2.1",
        "responses",
        "/v1/responses",
        "gpt-5",
        123,
        pending_cells(CELLS, COSTS),
        {},
        100,
        400,
    )
    return msgspec.structs.replace(made, **fields)


def test_work_is_read_as_it_was_written():
    """The plan is the one that was reserved, without its leases."""
    read = unpack_work(pack_work(work()))
    assert read == work()
    assert read.usage == Usage(100, 400, 500, source="estimated")
    assert read.costs == (1, 500, 100, 400, 10**6)
    kept = [cell for cell in CELLS if cell.limit.meter != "concurrent"]
    assert isinstance(read.plan, Plan)
    for ours, theirs in zip(read.plan.cells, kept, strict=True):
        assert (ours.key, ours.kind, ours.window_us) == (
            theirs.key,
            theirs.kind,
            theirs.window_us,
        )
        assert (ours.amount, ours.overdraft, ours.ends_at) == (
            theirs.amount,
            theirs.overdraft,
            theirs.ends_at,
        )
        assert is_firm(ours) == is_firm(theirs)


def test_what_it_is_settled_at():
    """Requests stay as counted; tokens by the policy's weights."""
    usage = Usage(10, 20, 30, source="upstream")
    assert work().actual(usage, 7) == (1, 30, 10, 20, 7)
    weighed = work(weights={"completion": 2.0})
    assert weighed.actual(usage, 7) == (1, 50, 10, 20, 7)


@pytest.mark.parametrize(
    "note",
    [b"", b"\xc1", b"\x90", pack_work(work(schema=SCHEMA + 1)), pack_work(work())[:-1]],
)
def test_other_notes_are_not_read(note):
    """A note of another version, or no note."""
    assert unpack_work(note) is None


def test_names_with_half_a_surrogate_pair():
    """JSON allows them in names; they are replaced."""
    assert unpack_work(pack_work(work(model="gpt-\ud800"))).model == "gpt-?"
