"""The SQLite outbox over restarts; ``test_outbox.py`` holds what all outboxes promise."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from gateway.alerts.model import report_of
from gateway.alerts.sqlite_outbox import SqliteOutbox
from tests.unit.alerts.test_outbox import NOW, letter, said, tell

REPOSITORY = Path(__file__).resolve().parents[3]
KILLED = """
import asyncio, os, sys
from gateway.alerts.sqlite_outbox import SqliteOutbox
from tests.unit.alerts.test_outbox import NOW, letter, tell

async def main() -> None:
    outbox = SqliteOutbox(sys.argv[1])
    for n in range(6):
        await tell(outbox, id_=f"inc_{n}", tenant=f"t{n}")
    await outbox.lease("r", "me", 60)
    await outbox.deliver("r", "me", [letter("m1"), letter("m2")], NOW)
    await outbox.finish("r", "me", letter("m1").message, "dead", NOW)
    await outbox.put_silence("s", b"x")
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_a_killed_process_leaves_everything_in_the_file(tmp_path):
    """Every call that was answered before a SIGKILL is there after it."""
    path = str(tmp_path / "alerts")
    command = [sys.executable, "-c", KILLED, path]
    done = subprocess.run(command, check=False, cwd=REPOSITORY)  # noqa: ASYNC221 - our own text
    assert done.returncode == -signal.SIGKILL
    again = SqliteOutbox(path)
    incidents = await again.incidents()
    assert [one.id for one in incidents] == [f"inc_{n}" for n in range(5, -1, -1)]
    assert len(await again.events("r", 99, NOW)) == 6
    assert (await again.due("r")).message.id == "m2"
    assert [one.id for one in await again.listed("r", "dead", 9)] == ["m1"]
    assert await again.silences() == {"s": b"x"}
    assert await again.lease("r", "me", 60)
    await again.close()


async def test_a_clean_end_leaves_what_goes_on(tmp_path):
    """The file stays while an incident is open, and goes when nothing is left."""
    path = tmp_path / "alerts"
    outbox = SqliteOutbox(str(path))
    await outbox.report(report_of(said("inc_1"), "gw"), NOW)
    await outbox.close()
    again = SqliteOutbox(str(path))
    assert [one.state for one in await again.incidents()] == ["open"]
    end = said("inc_1", "incident.resolved")
    await again.report(report_of(end, "gw"), NOW + 1)
    await again.lease("r", "me", 60)
    await again.deliver("r", "me", [letter("m")], NOW)
    await again.finish("r", "me", letter("m").message, "sent", NOW)
    await again.close()
    await again.close()
    assert not path.exists()


async def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    """An outbox in memory takes the same calls and leaves no file."""
    monkeypatch.chdir(tmp_path)
    outbox = SqliteOutbox()
    assert await tell(outbox, id_="inc_1") == "inc_1"
    await outbox.close()
    assert list(tmp_path.iterdir()) == []
