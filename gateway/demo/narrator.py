"""The output of the demo: each scenario, the incidents and actions, the result."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.demo.clients import OK, TrafficGenerator
from gateway.demo.gateway import DemoGateway
from gateway.demo.scenarios import SCENARIOS, Scenario

POLL_S = 0.4
ORDINARY = "customers"
_ACTIONS = {
    "allow": "nothing: not an attack",
    "tag": "tagged its requests and let them pass",
    "throttle": "throttled",
    "block": "blocked",
}
_COLOUR = {"critical": "red", "warning": "yellow", "info": "cyan"}


class Narrator:
    """Prints to ``console``; polls the gateway's incidents while scenarios run."""

    def __init__(
        self, gateway_: DemoGateway, traffic: TrafficGenerator, console: Console
    ) -> None:
        self._gateway = gateway_
        self._traffic = traffic
        self._console = console
        self._shown: dict[str, str] = {}
        self.incidents: dict[str, Mapping[str, Any]] = {}

    def print(self, text: str = "") -> None:
        """Print one line."""
        self._console.print(text, highlight=False)

    def open_scenario(self, number: int, scenario: Scenario) -> None:
        """Print the heading and the description of a scenario."""
        self.print()
        self._console.rule(f"[bold]{number}. {scenario.title}", align="left")
        self.print(f"[bold]What happens[/]  {scenario.description}")

    async def follow(self) -> None:
        """Print incidents when they open and when their action changes."""
        while True:
            await self.fetch()
            await asyncio.sleep(POLL_S)

    async def fetch(self) -> None:
        """Poll the incidents once and print changes."""
        found = await self._gateway.fetch("/api/v1/incidents")
        for incident in reversed(found["items"] if found else []):
            self.incidents[incident["id"]] = incident
            shown = self._shown.get(incident["id"])
            if shown is None:
                self._print_incident(incident)
            harmless = incident["severity"] == "info"
            if shown != incident["action"] and (
                harmless or incident["action"] != "allow"
            ):
                self._print_action(incident)
            self._shown[incident["id"]] = incident["action"]

    async def blocked(self) -> int:
        """The number of blocks in force."""
        status = await self._gateway.fetch("/api/v1/status")
        return int(status["blocks"]["active"]) if status else 0

    def _print_incident(self, incident: Mapping[str, Any]) -> None:
        colour = _COLOUR.get(incident["severity"], "white")
        subject = incident["subject"]
        reasons = escape(" ".join(incident["reasons"]))
        self.print(
            f"[bold]Detected[/]      [{colour}]{incident['class']}[/], score "
            f"{incident['score']:g}: {subject['kind']} {escape(subject['id'])} of "
            f"{escape(incident['tenant'])}. {reasons}"
        )

    def _print_action(self, incident: Mapping[str, Any]) -> None:
        until = incident.get("until")
        lasts = f" until {until[11:19]} UTC" if until else ""
        done = _ACTIONS.get(incident["action"], incident["action"])
        self.print(f"[bold]Action[/]        {done}{lasts}.")

    async def close_scenario(
        self, scenario: Scenario, began_at: float, blocked: int
    ) -> None:
        """Print the result of a scenario; ``blocked``: blocks in force before it."""
        await self.fetch()
        now = await self.blocked()
        if now > blocked:
            self.print(f"[bold]Blocked now[/]   {now - blocked} more clients.")
        traffic = self._traffic
        count, refused = traffic.count(scenario.name), traffic.refused(scenario.name)
        first = traffic.first_refused.get(scenario.name)
        if first is None:
            self.print(f"[bold]Result[/]        {count} requests, none refused.")
        else:
            later = refused + traffic.passed_since[scenario.name]
            self.print(
                f"[bold]Result[/]        {refused} of {count} requests refused: the "
                f"first {first - began_at:.1f} s after the start, then "
                f"{100 * refused / later:.0f} % of them."
            )
        self.print(f"[dim]{self.others()}[/]")

    def others(self) -> str:
        """Counts of the ordinary clients, as a sentence."""
        count = self._traffic.count(ORDINARY)
        refused = self._traffic.refused(ORDINARY)
        answered = self._traffic.answers.get(ORDINARY, Counter())[OK]
        return (
            f"Ordinary clients: {count} requests so far, {answered} answered, "
            f"{refused} refused."
        )

    def table(self, saved: str) -> None:
        """Print the counts of all groups, then ``saved``."""
        table = Table(title="Requests by group", title_justify="left")
        for name in ("group", "sent", "allowed", "refused"):
            table.add_column(name, justify="left" if name == "group" else "right")
        names = {scenario.name: scenario.title for scenario in SCENARIOS} | {
            ORDINARY: "Ordinary clients"
        }
        for group, title in names.items():
            count, refused = self._traffic.count(group), self._traffic.refused(group)
            table.add_row(title, str(count), str(count - refused), str(refused))
        self.print()
        self._console.print(table)
        self.print(saved)


def make_console() -> Console:
    """A console on standard output; plain text unless it is a terminal."""
    return Console(file=sys.stdout, soft_wrap=not sys.stdout.isatty())
