"""``tidegate blocks``: the block list of a running gateway."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from gateway.commands.connect import open_admin
from gateway.commands.flags import OK, AdminFlag, ConfigFlag, JsonFlag, TokenFlag
from gateway.commands.output import fail, print_items, print_json_list
from gateway.config import parse_duration
from gateway.config.values import DURATION_EXAMPLES

TenantFlag = Annotated[
    str | None,
    Parameter("--tenant", help="Only in this tenant. Default: everywhere."),
]
KindArgument = Annotated[
    Literal["client_ip", "user", "tenant", "network"],
    Parameter(help="Kind of subject."),
]
# "prompts": a template block, which only detection makes.
RemovableKindArgument = Annotated[
    Literal["client_ip", "user", "tenant", "network", "prompts"],
    Parameter(help="Kind of subject."),
]
IdArgument = Annotated[
    str, Parameter(help="Its id: 203.0.113.9, key_…, acme, 203.0.113.0/24.")
]
COLUMNS = ("kind", "id", "tenant", "until", "reason")

blocks = App(name="blocks", help="Block list of a running gateway.")


@blocks.command(name="list")
def list_blocks(
    *,
    json: JsonFlag = False,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Show the blocks in force."""
    found = open_admin(config, admin, token).list_all("/api/v1/blocks")
    if json:
        print_json_list(found)
    else:
        print_items(found, COLUMNS, "no blocks")
    return OK


@blocks.command(name="add")
def add_block(
    kind: KindArgument,
    id: IdArgument,  # noqa: A002 - the name in the help text
    /,
    *,
    tenant: TenantFlag = None,
    ttl: Annotated[
        str | None,
        Parameter(help='Duration, such as "10m". Default: until it is removed.'),
    ] = None,
    reason: Annotated[str, Parameter(help="Reason, shown in lists.")] = "",
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Block a subject on every worker and machine, within a second."""
    try:
        if ttl is not None and not parse_duration(ttl):
            return fail("--ttl: 0 would block nothing")
    except ValueError as error:
        return fail(f"--ttl: {error} (allowed: {DURATION_EXAMPLES})")
    block = {"kind": kind, "id": id, "tenant": tenant, "ttl": ttl, "reason": reason}
    open_admin(config, admin, token).add_block(block)
    print(f"blocked {kind} {id}{f' for {ttl}' if ttl else ''}")
    return OK


@blocks.command(name="remove")
def remove_block(
    kind: RemovableKindArgument,
    id: IdArgument,  # noqa: A002 - the name in the help text
    /,
    *,
    tenant: TenantFlag = None,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Remove a block."""
    open_admin(config, admin, token).remove_block(kind, id, tenant)
    print(f"unblocked {kind} {id}")
    return OK
