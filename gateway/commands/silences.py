"""``tidegate silences``: silences and maintenance windows of a running gateway."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from gateway.commands.connect import open_admin
from gateway.commands.flags import OK, AdminFlag, ConfigFlag, JsonFlag, TokenFlag
from gateway.commands.output import fail, print_items, print_json, print_json_list

COLUMNS = (
    "state", "from", "to", "repeats", "tenant", "class", "subject", "reason", "id",
)  # fmt: skip

silences = App(name="silences", help="Silences and maintenance windows.")


@silences.command(name="list")
def list_silences(
    *,
    json: JsonFlag = False,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Show current and future silences; of a recurring one, its next window."""
    found = open_admin(config, admin, token).list_all("/api/v1/silences")
    if json:
        print_json_list(found)
        return OK
    rows = [one | {"repeats": _repeats(one["repeat"])} for one in found]
    print_items(rows, COLUMNS, "no silences")
    return OK


@silences.command(name="add")
def add_silence(
    *,
    since: Annotated[
        str | None, Parameter("--from", help="RFC 3339 time. Default: now.")
    ] = None,
    until: Annotated[
        str | None, Parameter("--to", help="RFC 3339 time; or use --for.")
    ] = None,
    ttl: Annotated[
        str | None, Parameter("--for", help="Duration: 90m, 2h. Default: 1h.")
    ] = None,
    every: Annotated[
        str | None,
        Parameter(help="Weekly, on these days: sat,sun. Requires --at."),
    ] = None,
    at: Annotated[
        str | None, Parameter(help="Hours of a weekly silence: 02:00-04:00.")
    ] = None,
    zone: Annotated[
        str, Parameter(help="Time zone of --at, such as Europe/Berlin.")
    ] = "UTC",
    tenant: Annotated[str, Parameter(help="Only this tenant.")] = "*",
    class_: Annotated[str, Parameter("--class", help="Only this class.")] = "*",
    subject: Annotated[str, Parameter(help="Only this subject: kind:id.")] = "*",
    reason: Annotated[str, Parameter(help="Reason, shown in lists.")] = "",
    json: JsonFlag = False,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Suppress matching alerts: now, in a planned window, or weekly."""
    if (every is None) != (at is None):
        return fail("--every and --at go together")
    asked: dict[str, Any] = {"tenant": tenant, "class": class_, "subject": subject}
    asked |= {"from": since, "to": until, "ttl": ttl, "reason": reason}
    if every is not None and at is not None:
        starts, _, ends = at.partition("-")
        days = [day.strip().lower() for day in every.split(",")]
        asked["repeat"] = {"days": days, "from": starts, "to": ends, "zone": zone}
    made = open_admin(config, admin, token).send("/api/v1/silences", asked)
    if json:
        print_json(made)
        return OK
    again = _repeats(made["repeat"])
    print(f"{made['id']} from {made['from']} to {made['to']}{again and f', {again}'}")
    return OK


@silences.command(name="remove")
def remove_silence(
    id: Annotated[str, Parameter(help="Id of the silence: sil_…")],  # noqa: A002 - the name in the help text
    /,
    *,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Remove a silence; incidents that are still open are alerted then."""
    open_admin(config, admin, token).delete("silences", id)
    print(f"removed {id}")
    return OK


def _repeats(repeat: dict[str, Any] | None) -> str:
    if repeat is None:
        return ""
    days = ",".join(repeat["days"])
    return f"{days} {repeat['from']}-{repeat['to']} {repeat['zone']}"
