"""Flags that several commands share, and the exit codes of all of them."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

OK, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130  # the shells' convention: 128 + SIGINT
TOKEN_VARIABLE = "TIDEGATE_ADMIN_TOKEN"  # noqa: S105 - its name, not its value

ConfigFlag = Annotated[
    str | None,
    Parameter(
        ["--config", "-c"],
        help="Configuration file. Default: ./tidegate.toml if it exists.",
    ),
]
AdminFlag = Annotated[
    str | None,
    Parameter("--admin", help="host:port of the gateway's admin port."),
]
TokenFlag = Annotated[
    str | None,
    Parameter("--token", help=f"Admin token. Default: {TOKEN_VARIABLE}."),
]
JsonFlag = Annotated[bool, Parameter("--json", negative="", help="Print JSON.")]
JsonLinesFlag = Annotated[
    bool, Parameter("--json", negative="", help="Print one JSON object a line.")
]
FailOnFlag = Annotated[
    Literal["warning", "critical"] | None,
    Parameter(help="Exit 1 if anything of this severity or worse is found."),
]
ColumnFlag = Annotated[
    str | None, Parameter(help="Name of the column. Default: found by usual names.")
]
TimeFormatFlag = Annotated[
    str | None, Parameter(help='Format of the times, such as "%d/%m/%Y %H:%M".')
]
