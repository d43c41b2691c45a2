"""``tidegate alerts``, ``incidents`` and ``silences``: a running gateway's, from a
terminal.
"""

from __future__ import annotations

import json as json_
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from gateway.commands.remote import SAMPLE_S, AdminClient, RemoteError
from gateway.config import find_file, load

OK = 0
TOKEN_VARIABLE = "TIDEGATE_ADMIN_TOKEN"  # noqa: S105 - its name, not its value
alerts = App(name="alerts", help="Delivery of alerts: what was sent, waits, or failed.")
incidents = App(name="incidents", help="Incidents of all gateways of the store.")
silences = App(name="silences", help="Silences and maintenance windows.")

ConfigFlag = Annotated[
    str | None, Parameter(["--config", "-c"], help="Configuration file.")
]
AdminFlag = Annotated[
    str | None, Parameter("--admin", help="host:port of the gateway's admin port.")
]
TokenFlag = Annotated[
    str | None, Parameter("--token", help=f"Admin token. Default: {TOKEN_VARIABLE}.")
]
JsonFlag = Annotated[bool, Parameter("--json", negative="", help="As JSON.")]


@alerts.command(name="list")
def list_alerts(
    *,
    state: Annotated[
        Literal["sent", "pending", "dead"] | None, Parameter(help="Only these.")
    ] = None,
    json: JsonFlag = False,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Show alerts with what became of them, newest first."""
    found = _client(config, admin, token).list_all("/api/v1/alerts", state=state)
    columns = ("at", "state", "target", "type", "incident", "attempts", "answer", "id")
    _show(found, columns, "no alerts", as_json=json)
    return OK


@alerts.command(name="test")
def send_sample(
    name: Annotated[str, Parameter(help="Receiver, as the file names it.")],
    /,
    *,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Send a real sample to one receiver: an incident that opens and is resolved."""
    client = _client(config, admin, token)
    client.post("alerts", "targets", name, "test", timeout_s=SAMPLE_S)
    print(f"{name} accepted the sample")
    return OK


@alerts.command
def resend(
    what: Annotated[str, Parameter(help="Id of a dead letter, or a receiver: all.")],
    /,
    *,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Send once more what was given up; a disabled receiver is enabled again."""
    done = _client(config, admin, token).post("alerts", what, "resend")
    print(f"alerts to be sent again: {done['resent']}")
    return OK


@incidents.command(name="list")
def list_incidents(
    *,
    state: Annotated[
        Literal["open", "resolved"] | None, Parameter(help="Only.")
    ] = None,
    json: JsonFlag = False,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Show open and recent incidents, newest first."""
    found = _client(config, admin, token).list_all("/api/v1/incidents", state=state)
    rows = [
        one | {"who": f"{one['subject']['kind']} {one['subject']['id']}"}
        for one in found
    ]
    columns = ("opened_at", "state", "severity", "class", "who", "tenant", "id")
    _show(found if json else rows, columns, "no incidents", as_json=json)
    return OK


@incidents.command
def ack(
    id: Annotated[str, Parameter(help="inc_…")],  # noqa: A002 - what the help shows
    /,
    *,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Say that somebody looks after it; pagers are told."""
    _client(config, admin, token).post("incidents", id, "acknowledge")
    print(f"acknowledged {id}")
    return OK


@incidents.command
def resolve(
    id: Annotated[str, Parameter(help="inc_…")],  # noqa: A002 - what the help shows
    /,
    *,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """End it by hand; receivers are told."""
    _client(config, admin, token).post("incidents", id, "resolve")
    print(f"resolved {id}")
    return OK


@silences.command(name="list")
def list_silences(
    *,
    json: JsonFlag = False,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Show what is not told, now or later; of a recurring window the next one."""
    found = _client(config, admin, token).list_all("/api/v1/silences")
    rows = [one | {"repeats": _repeats(one["repeat"])} for one in found]
    columns = ("state", "from", "to", "repeats", "tenant", "class", "subject", "reason")
    _show(found if json else rows, (*columns, "id"), "no silences", as_json=json)
    return OK


@silences.command(name="add")
def add_silence(
    *,
    since: Annotated[
        str | None, Parameter("--from", help="RFC 3339 moment. Default: now.")
    ] = None,
    until: Annotated[
        str | None, Parameter("--to", help="RFC 3339 moment; or --for.")
    ] = None,
    ttl: Annotated[
        str | None, Parameter("--for", help="How long: 90m, 2h. Default: an hour.")
    ] = None,
    every: Annotated[
        str | None,
        Parameter(help="Comes back each week: days, as in sat,sun. With --at."),
    ] = None,
    at: Annotated[str | None, Parameter(help="With --every: 02:00-04:00.")] = None,
    zone: Annotated[
        str, Parameter(help="Time zone of --at, such as Europe/Berlin.")
    ] = "UTC",
    tenant: Annotated[str, Parameter(help="Only this tenant.")] = "*",
    class_: Annotated[str, Parameter("--class", help="Only this class.")] = "*",
    subject: Annotated[str, Parameter(help="Only this one: kind:id.")] = "*",
    reason: Annotated[str, Parameter(help="For those who ask why.")] = "",
    json: JsonFlag = False,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Tell nobody of what matches: now, in a planned window, or each week."""
    if (every is None) != (at is None):
        raise RemoteError("--every and --at go together", usage=True)
    asked: dict[str, Any] = {"tenant": tenant, "class": class_, "subject": subject}
    asked |= {"from": since, "to": until, "ttl": ttl, "reason": reason}
    if every is not None and at is not None:
        starts, _, ends = at.partition("-")
        days = [day.strip().lower() for day in every.split(",")]
        asked["repeat"] = {"days": days, "from": starts, "to": ends, "zone": zone}
    made = _client(config, admin, token).send("/api/v1/silences", asked)
    if json:
        print(json_.dumps(made, ensure_ascii=False))
        return OK
    again = _repeats(made["repeat"])
    print(f"{made['id']} from {made['from']} to {made['to']}{again and f', {again}'}")
    return OK


@silences.command(name="remove")
def remove_silence(
    id: Annotated[str, Parameter(help="sil_…")],  # noqa: A002 - what the help shows
    /,
    *,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """End it now; what is still open is told."""
    _client(config, admin, token).delete("silences", id)
    print(f"removed {id}")
    return OK


def _repeats(repeat: dict[str, Any] | None) -> str:
    if repeat is None:
        return ""
    days = ",".join(repeat["days"])
    return f"{days} {repeat['from']}-{repeat['to']} {repeat['zone']}"


def _client(config: str | None, admin: str | None, token: str | None) -> AdminClient:
    """The gateway that flags, environment or the file name."""
    token = token or os.environ.get(TOKEN_VARIABLE)
    if admin is None and find_file(config):
        table = load(config).config.admin
        admin = table.listen
        if token is None and table.token:
            token = table.token.reveal()
    return AdminClient(admin or "127.0.0.1:9901", token)


def _show(
    found: Sequence[dict[str, Any]], columns: Sequence[str], none: str, *, as_json: bool
) -> None:
    if as_json:
        print(json_.dumps({"items": list(found), "next": None}, ensure_ascii=False))
        return
    if not found:
        print(none)
        return
    rows = [tuple(_cell(one.get(name)) for name in columns) for one in found]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (tuple(columns), *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _cell(value: Any) -> str:
    return "-" if value is None or value == "" else str(value)
