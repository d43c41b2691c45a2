"""``tidegate analyze``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from gateway.commands.extras import missing_extra
from gateway.commands.flags import FAILED, OK, ColumnFlag, FailOnFlag, TimeFormatFlag
from gateway.commands.output import fail


def analyze(
    *files: str,
    window: Annotated[
        str, Parameter(help="Length of a window; it must divide a day.")
    ] = "5m",
    json: Annotated[
        bool, Parameter("--json", negative="", help="Print one JSON document.")
    ] = False,
    html: Annotated[
        str | None, Parameter(help="Write a report page to this file.")
    ] = None,
    plot: Annotated[str | None, Parameter(help="Write a PNG to this file.")] = None,
    time_column: ColumnFlag = None,
    user_column: ColumnFlag = None,
    tokens_column: ColumnFlag = None,
    prompt_column: ColumnFlag = None,
    completion_column: ColumnFlag = None,
    time_format: TimeFormatFlag = None,
    timezone: Annotated[
        str, Parameter(help="Of times without an offset, and of the report.")
    ] = "UTC",
    fail_on: FailOnFlag = None,
) -> int:
    """Find the abnormal windows of past logs: CSV, JSON lines (also gzip), Parquet.

    No clean history is needed: the expected values are robust estimates from the log
    itself. Needs `pip install 'tidegate[analyze]'`.
    """
    if not files:
        return fail("name one or more log files")
    if missing := missing_extra("analyze"):
        return fail(missing)
    from gateway.offline import Choice, InputError  # noqa: PLC0415
    from gateway.offline.run import Wanted  # noqa: PLC0415
    from gateway.offline.run import run as run_analyze  # noqa: PLC0415

    choice = Choice(
        time_column, user_column, tokens_column, prompt_column, completion_column
    )
    try:
        report = run_analyze(
            Wanted(files, window, choice, time_format, timezone, json, html, plot)
        )
    except InputError as error:
        return fail(str(error))
    return FAILED if fail_on and report.reaches(fail_on) else OK
