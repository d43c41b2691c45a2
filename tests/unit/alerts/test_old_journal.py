"""The alert journal of version 0.1 is imported once."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.alerts.sqlite_outbox import SqliteOutbox
from tests.disks import full_disk

NOW = 1_767_600_000.0
# Written by version 0.1: a whole state, then four changes. Three gateways reported one
# incident; ``hook`` has m2 waiting for a retry, m3 dead, m4 waiting and m1 sent.
JOURNAL = Path(__file__).with_name("journal_0.1.bin")


@pytest.fixture(name="path")
def _path(tmp_path):
    path = tmp_path / "run.alerts"
    shutil.copy(JOURNAL, path)
    path.chmod(0o600)
    return path


async def check(outbox: SqliteOutbox) -> None:
    """All that the journal held."""
    shown = [(one.id, one.state) for one in await outbox.incidents()]
    assert sorted(shown) == [
        ("inc_1", "open"), ("inc_4", "resolved"), ("inc_5", "open")
    ]  # fmt: skip
    first = next(one for one in await outbox.incidents() if one.id == "inc_1")
    assert first.gateways == ("gw1", "gw2", "gw3")
    assert first.aliases == ("inc_1", "inc_2", "inc_3")
    assert first.acknowledged_by == "ann"
    kinds = [one.type for one in await outbox.events("new", 99, NOW)]
    assert kinds == [
        "incident.opened", "incident.opened", "incident.acknowledged",
        "incident.resolved", "client.blocked", "incident.opened",
    ]  # fmt: skip
    assert [one.type for one in await outbox.events("hook", 99, NOW)] == kinds[4:]
    ids = {
        what: [one.id for one in await outbox.listed("hook", what, 9)]
        for what in ("pending", "dead", "sent")
    }
    assert ids == {"pending": ["m4", "m2"], "dead": ["m3"], "sent": ["m1"]}
    due = await outbox.due("hook")
    assert (due.message.id, due.at) == ("m4", NOW + 12)
    retried = (await outbox.listed("hook", "pending", 9))[1]
    assert retried.attempts == 1
    states = await outbox.all_delivery_states("hook")
    assert states["inc_5"].folded
    assert states["inc_1"].payload == {"id": "inc_1"}
    assert await outbox.folded("hook", 9) == [{"id": "inc_9", "event": "e9"}]
    assert await outbox.silences() == {"s": b'{"x":1}'}
    assert await outbox.state("slack") == "https://x answered 410"


async def test_everything_in_the_journal_is_taken_over(path):
    """Incidents, events, messages and silences are as before; the file is a database."""
    outbox = SqliteOutbox(str(path))
    await check(outbox)
    assert path.read_bytes().startswith(b"SQLite format 3\0")
    assert path.stat().st_mode & 0o777 == 0o600
    await outbox.close()
    again = SqliteOutbox(str(path))
    await check(again)
    await again.close()


async def test_an_entry_that_a_kill_cut_short_is_left_out(path):
    """The entries before it are taken over."""
    with path.open("ab") as file:
        file.write(b"\0\0\1\0torn")
    outbox = SqliteOutbox(str(path))
    await check(outbox)
    assert not path.with_name("run.alerts.unreadable").exists()
    await outbox.close()


async def test_a_damaged_journal_is_taken_over_up_to_the_damage(path):
    """The file is kept under another name, and the gateway starts."""
    damaged = path.read_bytes() + b"\0\0\0\4junk\0\0\0\4\x94\xa1a\1\2"
    path.write_bytes(damaged)
    outbox = SqliteOutbox(str(path))
    await check(outbox)
    assert path.with_name("run.alerts.unreadable").read_bytes() == damaged
    await outbox.close()
    path.write_bytes(b"\0\0\0\4junk")
    empty = SqliteOutbox(str(path))
    assert await empty.incidents() == []
    await empty.close()


def _rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the state in the first frame."""
    content = path.read_bytes()
    (size,) = struct.unpack_from(">I", content)
    state = msgspec.msgpack.decode(content[4 : 4 + size])
    change(state)
    frame = msgspec.msgpack.encode(state)
    path.write_bytes(struct.pack(">I", len(frame)) + frame + content[4 + size :])


async def test_a_damaged_counter_gives_no_event_a_used_number(path):
    """Events are logged after an import whose counter was behind the log."""
    _rewrite(path, lambda state: state.update(serial=0))
    outbox = SqliteOutbox(str(path))
    await check(outbox)
    assert await outbox.resolve("inc_5", "ann", NOW + 20)
    await outbox.close()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s: s["log"].append(s["log"][0]), id="an event twice"),
        pytest.param(lambda s: s.update(version=1 << 63), id="a number too large"),
    ],
)
async def test_a_state_that_no_table_takes_does_not_prevent_the_start(path, change):
    """What came before is kept, and so is a copy of the journal."""
    _rewrite(path, change)
    outbox = SqliteOutbox(str(path))
    assert len(await outbox.incidents()) >= 1
    assert path.with_name("run.alerts.unreadable").exists()
    await outbox.close()


async def test_a_full_disk_leaves_the_journal_in_place(path):
    """Nothing is lost when there is no room for the database; the next start tries."""
    before = path.read_bytes()
    with full_disk(20):
        outbox = SqliteOutbox(str(path))
        await check(outbox)
        await outbox.close()
    assert path.read_bytes() == before
    again = SqliteOutbox(str(path))
    await check(again)
    await again.close()
