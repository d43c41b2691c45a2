"""``tidegate learn``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from gateway.commands.extras import missing_extra
from gateway.commands.flags import (
    FAILED,
    OK,
    USAGE,
    ColumnFlag,
    ConfigFlag,
    TimeFormatFlag,
)
from gateway.commands.output import fail, unknown_option


# Over 60 lines: most are its flags with their help texts.
def learn(
    *files: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True,  # for "-" itself
            help="Past records or logs, in any order; - is standard input.",
        ),
    ],
    out: Annotated[
        str | None, Parameter(help="File that `watch --baselines` reads.")
    ] = None,
    store: Annotated[
        str | None, Parameter(help="Store URL that `serve` will be started with.")
    ] = None,
    config: ConfigFlag = None,
    tenant: Annotated[
        str, Parameter(help="Tenant of rows that name none.")
    ] = "default",
    time_column: ColumnFlag = None,
    user_column: ColumnFlag = None,
    address_column: ColumnFlag = None,
    prompt_column: ColumnFlag = None,
    completion_column: ColumnFlag = None,
    tokens_column: ColumnFlag = None,
    timezone: Annotated[str, Parameter(help="Of times without an offset.")] = "UTC",
    time_format: TimeFormatFlag = None,
) -> int:
    """Build baselines from past traffic, so that a new gateway starts with history.

    Reads the gateway's records, bare events, and other logs (CSV, Parquet, JSON lines;
    columns are found by their usual names). Writes the baselines to the store, where
    `serve` finds them at its start, or to a file. Past abuse blocks no client. Needs
    `pip install 'tidegate[analyze]'`.
    """
    unknown = unknown_option(files)
    if unknown or not files:
        return fail(unknown or "name a file of past traffic, or - for standard input")
    if missing := missing_extra("learn"):
        return fail(missing)
    from gateway.offline.columns import Choice  # noqa: PLC0415
    from gateway.offline.errors import InputError  # noqa: PLC0415
    from gateway.replay.learn import learn as run  # noqa: PLC0415
    from gateway.replay.logs import LogOptions  # noqa: PLC0415
    from gateway.replay.saving import SaveError  # noqa: PLC0415
    from gateway.stream.source import SourceError  # noqa: PLC0415

    choice = Choice(
        time=time_column,
        user=user_column,
        total=tokens_column,
        prompt=prompt_column,
        completion=completion_column,
    )
    guide = LogOptions(choice, address_column, timezone, time_format, tenant)
    try:
        run(files, guide, out=out, store=store, config=config)
    except (SourceError, InputError) as error:
        return fail(str(error))
    except SaveError as error:
        return fail(str(error), USAGE if error.usage else FAILED)
    return OK
