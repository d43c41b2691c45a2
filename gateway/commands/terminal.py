"""Rendering of ``tidegate top`` and ``tidegate tail`` on the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.commands.remote import AdminClient
from gateway.core.money import usd_text

_SEVERE = {"critical": "bold red", "warning": "yellow", "info": "blue"}
# Clients in the table of ``top``.
_SHOWN = 15


def top(client: AdminClient) -> int:
    """Redraw the screen with every update; without a terminal, print it once. Raises
    RemoteError.
    """
    console = Console()
    if not console.is_terminal:
        events = (content for event, content in client.stream() if event == "counters")
        console.print(_screen(next(events), client))
        return 0
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for event, content in client.stream():
                if event == "counters":
                    live.update(_screen(content, client), refresh=True)
    except KeyboardInterrupt:
        return 0
    return 0


def _screen(counters: dict[str, Any], client: AdminClient) -> Group:
    incidents = client.get("incidents?state=open&limit=5")["items"]
    rows = client.get(f"clients?sort=now&limit={_SHOWN}")["items"]
    return Group(_head(counters), *map(_incident, incidents), Text(), _clients(rows))


def _head(counters: dict[str, Any]) -> Text:
    last, running = counters["buckets"]
    state = "serving" if counters["ready"] else "NOT READY"
    store = "store ok" if counters["store_up"] else "STORE UNAVAILABLE"
    return Text(
        f"tidegate  {state}  {store}  {' and '.join(counters['modes'])}\n"
        f"{last['requests'] / 10:,.1f} requests/s  {last['tokens'] / 10:,.0f} tokens/s  "
        f"{last['errors']} errors  {last['refused']} refused  (last 10 s; running: "
        f"{running['requests']})\n"
        f"{counters['inflight']} open  {counters['blocked']} blocked  "
        f"{usd_text(counters['spend_today'])} today  {counters['incidents']} incidents"
    )


def _incident(incident: dict[str, Any]) -> Text:
    subject = incident["subject"]
    words = f"▲ {incident['class']} by {subject['id']} ({incident['tenant']}): "
    words += " ".join(incident["reasons"])
    return Text(words, style=_SEVERE[incident["severity"]])


def _clients(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("client")
    table.add_column("tenant")
    for name in ("requests/min", "vs expected", "tokens/h", "usd/h", "score"):
        table.add_column(name, justify="right")
    table.add_column("now")
    for row in rows:
        expected, state = row["expected_1m"], row["standing"]
        ratio = "new"
        if expected is not None:
            ratio = f"{row['requests_1m'] / max(expected, 0.1):.1f}"
        name = f"{row['id']} ({row['key']})" if row.get("key") else row["id"]
        table.add_row(
            *map(Text, (name, row["tenant"], f"{row['requests_1m']:,.0f}", ratio)),
            Text(f"{row['tokens']:,}"),
            Text(usd_text(row["usd"]).removeprefix("$")),
            Text(f"{row['score']:.1f}" if row["score"] else "-"),
            Text(state["action"] if state else "-"),
        )
    return table


def tail(client: AdminClient, *, as_json: bool) -> int:
    """Print one line per event. Raises RemoteError."""
    console = Console(soft_wrap=True)
    try:
        for event, content in client.stream():
            if event not in ("output", "change"):
                continue
            if as_json:
                sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")
                sys.stdout.flush()
            else:
                console.print(_line(event, content))
    except KeyboardInterrupt:
        return 0
    return 0


def _line(event: str, content: dict[str, Any]) -> Text:
    if event == "change":
        when = datetime.fromtimestamp(content["at"]).astimezone()
        words = f"{content['role']} {content['what']} {content['kind']} {content['id']}"
        return Text(f"{when:%H:%M:%S}  {words} ({content['status']})")
    when = datetime.fromisoformat(content["ts"]).astimezone()
    subject = content["subject"]
    words = (
        f"{when:%H:%M:%S}  {content['type']}  {content['class']} {content['score']:.1f}  "
        f"{subject['kind']} {subject['id']} ({content['tenant']})  "
        f"{' '.join(content['reasons'])}"
    )
    return Text(words, style=_SEVERE[content["severity"]])
