"""``tidegate watch``."""

from __future__ import annotations

import os
from typing import Annotated

from cyclopts import Parameter

from gateway.commands.flags import FAILED, OK, ConfigFlag, FailOnFlag, JsonLinesFlag
from gateway.commands.output import fail
from gateway.config import find_file, load


def watch(
    source: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,  # for "-" itself
            help="File of events (.gz is decompressed). - or absent: standard input.",
        ),
    ] = None,
    /,
    *,
    config: ConfigFlag = None,
    json: JsonLinesFlag = False,
    follow: Annotated[
        bool,
        Parameter(["--follow", "-f"], negative="", help="Wait for appended lines."),
    ] = False,
    baselines: Annotated[
        str | None, Parameter(help="Baselines that `learn --out` wrote.")
    ] = None,
    fail_on: FailOnFlag = None,
) -> int:
    """Find abuse in live or recorded events, one JSON object a line.

    Reads the gateway's records and bare events. Uses event time only: a week of events
    replays in seconds and gives the same verdicts each time. Blocks nothing.
    """
    from gateway.stream.run import watch as run_watch  # noqa: PLC0415
    from gateway.stream.source import SourceError  # noqa: PLC0415

    if source and source.startswith("-") and source != "-":
        return fail(f"unknown option: {source}\nsee tidegate watch --help")
    held = load(config).config if find_file(config) else None
    if source is None and os.isatty(0):
        return fail("name a file of events, or pipe them in")
    try:
        tally = run_watch(
            source or "-", held, as_json=json, follow=follow, baselines=baselines
        )
    except SourceError as error:
        return fail(str(error))
    return FAILED if fail_on and tally.reaches(fail_on) else OK
