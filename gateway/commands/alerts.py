"""``tidegate alerts``: the delivery of alerts by a running gateway."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from gateway.commands.connect import SAMPLE_S, open_admin
from gateway.commands.flags import OK, AdminFlag, ConfigFlag, JsonFlag, TokenFlag
from gateway.commands.output import print_items, print_json_list

COLUMNS = ("at", "state", "target", "type", "incident", "attempts", "answer", "id")

alerts = App(name="alerts", help="Delivery of alerts: sent, pending and failed.")


@alerts.command(name="list")
def list_alerts(
    *,
    state: Annotated[
        Literal["sent", "pending", "dead"] | None,
        Parameter(help="Only alerts in this state."),
    ] = None,
    json: JsonFlag = False,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Show alerts and their delivery state, newest first."""
    found = open_admin(config, admin, token).list_all("/api/v1/alerts", state=state)
    if json:
        print_json_list(found)
    else:
        print_items(found, COLUMNS, "no alerts")
    return OK


@alerts.command(name="test")
def send_sample(
    name: Annotated[str, Parameter(help="Receiver, as named in the file.")],
    /,
    *,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Send a sample to one receiver: an incident that opens and is resolved."""
    client = open_admin(config, admin, token)
    client.post("alerts", "targets", name, "test", timeout_s=SAMPLE_S)
    print(f"{name} accepted the sample")
    return OK


@alerts.command
def resend(
    what: Annotated[
        str, Parameter(help="Id of a dead alert, or a receiver for all of its own.")
    ],
    /,
    *,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Send dead alerts again; a disabled receiver is enabled again."""
    done = open_admin(config, admin, token).post("alerts", what, "resend")
    print(f"alerts to be sent again: {done['resent']}")
    return OK
