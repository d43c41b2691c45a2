"""``tidegate replay``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from gateway.commands.flags import OK
from gateway.commands.output import fail, unknown_option


def replay(
    *records: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True,  # for "-" itself
            help="Files of records (.gz is decompressed), in any order; - is standard"
            " input.",
        ),
    ],
    config: Annotated[
        str, Parameter(["--config", "-c"], help="The draft: a configuration file.")
    ],
    current: Annotated[
        str | None,
        Parameter(help="Another file to compare with, such as the current one."),
    ] = None,
    baselines: Annotated[
        str | None, Parameter(help="Initial baselines, from `learn --out`.")
    ] = None,
    json: Annotated[
        bool, Parameter("--json", negative="", help="Print the whole report as JSON.")
    ] = False,
    top: Annotated[int, Parameter(help="Subjects in the table.")] = 20,
) -> int:
    """Replay recorded traffic through a draft policy and compare the decisions.

    Shows which clients would have been limited, throttled or blocked and the cost that
    this would have saved, next to the decisions in the records. Time is that of the
    records. Limits, prices and detection are those of `serve`; a policy in observe mode is shown as if
    it enforced. Blocks nothing.
    """
    from gateway.replay.run import replay as run  # noqa: PLC0415
    from gateway.stream.source import SourceError  # noqa: PLC0415

    unknown = unknown_option(records)
    if unknown or not records:
        return fail(unknown or "name a file of records, or - for standard input")
    if top < 1:
        return fail("--top: at least 1")
    try:
        run(records, config, current, baselines=baselines, as_json=json, top=top)
    except SourceError as error:
        return fail(str(error))
    return OK
