"""The file that stands in for a store: whole entries or none."""

from __future__ import annotations

import pytest

from gateway.alerts.journal import Journal
from gateway.alerts.memory_outbox import MemoryOutbox
from gateway.alerts.model import report_of
from tests.disks import full_disk
from tests.unit.alerts.test_outbox import NOW, letter, said


@pytest.fixture(name="path")
def _path(tmp_path):
    return tmp_path / "journal"


def test_an_entry_that_was_cut_short_is_the_last(path):
    """Entries behind it would be read as something else."""
    journal = Journal(str(path))
    journal.begin(b"state")
    journal.append(b"a")
    with full_disk(path.stat().st_size + 7):
        journal.append(b"long")
    assert not journal.is_written
    journal.append(b"b")
    assert list(Journal(str(path)).entries()) == [b"state", b"a"]
    journal.begin(b"state a")
    journal.append(b"c")
    assert list(Journal(str(path)).entries()) == [b"state a", b"c"]
    journal.close()


def test_a_new_file_that_finds_no_room_leaves_the_old_one(path):
    """Half a state is never put in the place of a whole one."""
    journal = Journal(str(path))
    journal.begin(b"state")
    with full_disk(20):
        journal.begin(b"x" * 100)
    assert list(Journal(str(path)).entries()) == [b"state"]
    journal.remove()
    assert not path.exists()


async def test_alerts_are_durable_again_after_a_full_disk(path, monkeypatch):
    """What the disk did not take meanwhile is in the next whole state."""
    monkeypatch.setattr("gateway.alerts.memory_outbox.RETRY_CHANGES", 2)
    outbox = MemoryOutbox(str(path))
    with full_disk(path.stat().st_size + 10):
        await outbox.report(report_of(said("inc_1"), "gw"), NOW)
    for n in range(3):
        await outbox.put_silence(f"s{n}", b"x")
    again = MemoryOutbox(str(path))
    assert await again.incidents() == await outbox.incidents()
    assert await again.silences() == await outbox.silences()
    for one in (outbox, again):
        one.close()


async def test_a_damaged_file_is_read_as_far_as_it_can_be(path):
    """A gateway starts whatever lies there."""
    outbox = MemoryOutbox(str(path))
    await outbox.report(report_of(said("inc_1"), "gw"), NOW)
    with path.open("ab") as file:
        file.write(b"\0\0\0\4junk\0\0\0\4\x94\xa1a\1\2")
    again = MemoryOutbox(str(path))
    assert [one.id for one in await again.incidents()] == ["inc_1"]
    path.write_bytes(b"\0\0\0\4junk")
    empty = MemoryOutbox(str(path))
    assert await empty.incidents() == []
    for one in (outbox, again, empty):
        one.close()


async def test_a_clean_end_leaves_what_goes_on(path):
    """An incident that a receiver was told of can be ended after the next start."""
    outbox = MemoryOutbox(str(path))
    await outbox.report(report_of(said("inc_1"), "gw"), NOW)
    outbox.close()
    again = MemoryOutbox(str(path))
    assert [one.state for one in await again.incidents()] == ["open"]
    end = said("inc_1", "incident.resolved")
    await again.report(report_of(end, "gw"), NOW + 1)
    await again.deliver("r", "me", [letter("m")], NOW)
    await again.finish("r", "me", letter("m").message, "sent", NOW)
    again.close()
    assert not path.exists()
