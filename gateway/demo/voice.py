"""What the demo says: what happens, what Tidegate saw, what it did."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.demo.acts import ACTS, Act
from gateway.demo.house import House
from gateway.demo.people import OK, Street

LOOK_S = 0.4
ORDINARY = "customers"
_DID = {
    "allow": "nothing: nobody is to blame",
    "tag": "marked its requests, and let them pass",
    "throttle": "throttled",
    "block": "blocked",
}
_COLOUR = {"critical": "red", "warning": "yellow", "info": "cyan"}


class Voice:
    """Speaks on ``console``; follows the gateway's own incidents while acts run."""

    def __init__(self, house: House, street: Street, console: Console) -> None:
        self._house = house
        self._street = street
        self._console = console
        self._told: dict[str, str] = {}
        self.incidents: dict[str, Mapping[str, Any]] = {}

    def say(self, text: str = "") -> None:
        """A line of the narrator's."""
        self._console.print(text, highlight=False)

    def open_act(self, number: int, act: Act) -> None:
        """The heading and the story of an act."""
        self.say()
        self._console.rule(f"[bold]{number}. {act.title}", align="left")
        self.say(f"[bold]What happens[/]  {act.story}")

    async def follow(self) -> None:
        """Tell of every incident when it opens and when its action changes."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Ask the gateway once, and tell what is new."""
        found = await self._house.look("/api/v1/incidents")
        for incident in reversed(found["items"] if found else []):
            self.incidents[incident["id"]] = incident
            told = self._told.get(incident["id"])
            if told is None:
                self._tell(incident)
            harmless = incident["severity"] == "info"
            if told != incident["action"] and (
                harmless or incident["action"] != "allow"
            ):
                self._did(incident)
            self._told[incident["id"]] = incident["action"]

    async def blocked(self) -> int:
        """How many blocks are in force."""
        status = await self._house.look("/api/v1/status")
        return int(status["blocks"]["active"]) if status else 0

    def _tell(self, incident: Mapping[str, Any]) -> None:
        colour = _COLOUR.get(incident["severity"], "white")
        subject = incident["subject"]
        reasons = escape(" ".join(incident["reasons"]))
        self.say(
            f"[bold]Tidegate saw[/]  [{colour}]{incident['class']}[/], score "
            f"{incident['score']:g}: {subject['kind']} {escape(subject['id'])} of "
            f"{escape(incident['tenant'])}. {reasons}"
        )

    def _did(self, incident: Mapping[str, Any]) -> None:
        until = incident.get("until")
        lasts = f" until {until[11:19]} UTC" if until else ""
        done = _DID.get(incident["action"], incident["action"])
        self.say(f"[bold]Tidegate did[/]  {done}{lasts}.")

    async def close_act(self, act: Act, began_at: float, blocked: int) -> None:
        """What came of it; ``blocked`` subjects stood blocked before."""
        await self.look()
        now = await self.blocked()
        if now > blocked:
            self.say(f"[bold]Blocked now[/]   {now - blocked} more clients.")
        street = self._street
        asked, refused = street.asked(act.name), street.refused(act.name)
        first = street.first_refused.get(act.name)
        if first is None:
            self.say(f"[bold]Outcome[/]       {asked} requests, none refused.")
        else:
            later = refused + street.passed_since[act.name]
            self.say(
                f"[bold]Outcome[/]       {refused} of {asked} requests refused; the "
                f"first {first - began_at:.1f} s after it began, and "
                f"{100 * refused / later:.0f} % of all since."
            )
        self.say(f"[dim]{self.others()}[/]")

    def others(self) -> str:
        """How everybody else fares."""
        asked = self._street.asked(ORDINARY)
        refused = self._street.refused(ORDINARY)
        fine = self._street.answers.get(ORDINARY, Counter())[OK]
        return (
            f"Everybody else: {asked} requests so far, {fine} answered, "
            f"{refused} refused."
        )

    def table(self, saved: str) -> None:
        """The sum of it all."""
        table = Table(title="What was stopped", title_justify="left")
        for name in ("who", "asked", "passed", "refused"):
            table.add_column(name, justify="left" if name == "who" else "right")
        names = {act.name: act.title for act in ACTS} | {ORDINARY: "Ordinary customers"}
        for group, title in names.items():
            asked, refused = self._street.asked(group), self._street.refused(group)
            table.add_row(title, str(asked), str(asked - refused), str(refused))
        self.say()
        self._console.print(table)
        self.say(saved)


def make_console() -> Console:
    """Standard output; plain text where it is no terminal."""
    return Console(file=sys.stdout, soft_wrap=not sys.stdout.isatty())
