"""``tidegate incidents``: the incidents of all gateways of a store."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from gateway.commands.connect import open_admin
from gateway.commands.flags import OK, AdminFlag, ConfigFlag, JsonFlag, TokenFlag
from gateway.commands.output import print_items, print_json_list

IdArgument = Annotated[str, Parameter(help="Id of the incident: inc_…")]
COLUMNS = ("opened_at", "state", "severity", "class", "who", "tenant", "id")

incidents = App(name="incidents", help="Incidents of all gateways of the store.")


@incidents.command(name="list")
def list_incidents(
    *,
    state: Annotated[
        Literal["open", "resolved"] | None,
        Parameter(help="Only incidents in this state."),
    ] = None,
    json: JsonFlag = False,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Show open and recent incidents, newest first."""
    found = open_admin(config, admin, token).list_all("/api/v1/incidents", state=state)
    if json:
        print_json_list(found)
        return OK
    rows = [
        one | {"who": f"{one['subject']['kind']} {one['subject']['id']}"}
        for one in found
    ]
    print_items(rows, COLUMNS, "no incidents")
    return OK


@incidents.command
def ack(
    id: IdArgument,  # noqa: A002 - the name in the help text
    /,
    *,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Acknowledge an incident; pagers are notified."""
    open_admin(config, admin, token).post("incidents", id, "acknowledge")
    print(f"acknowledged {id}")
    return OK


@incidents.command
def resolve(
    id: IdArgument,  # noqa: A002 - the name in the help text
    /,
    *,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Resolve an incident by hand; receivers are notified."""
    open_admin(config, admin, token).post("incidents", id, "resolve")
    print(f"resolved {id}")
    return OK
