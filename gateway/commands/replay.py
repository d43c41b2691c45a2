"""``replay`` and ``learn`` on the command line. Light: what they need comes later."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

_Column = Annotated[str | None, Parameter(help="Its name, where it is not found.")]
_OK, _FAILED, _USAGE = 0, 1, 2


def replay(
    *records: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True,  # for "-" itself
            help="Files of records (.gz is unpacked), in any order; - is standard"
            " input.",
        ),
    ],
    config: Annotated[
        str, Parameter(["--config", "-c"], help="The draft: a configuration file.")
    ],
    current: Annotated[
        str | None, Parameter(help="Another file to set beside it, such as today's.")
    ] = None,
    baselines: Annotated[
        str | None, Parameter(help="What detection begins with: `learn --out`.")
    ] = None,
    json: Annotated[
        bool, Parameter("--json", negative="", help="The whole report as JSON.")
    ] = False,
    top: Annotated[int, Parameter(help="Subjects in the table.")] = 20,
) -> int:
    """Send recorded traffic through a draft policy: who would have been limited,
    throttled, blocked, and what it would have saved, beside what was done then.

    Time is that of the records. Limits, prices and detection are those of `serve`;
    a policy in observe mode is shown as if it enforced. Nobody is acted on.
    """
    from gateway.replay.command import replay as run  # noqa: PLC0415
    from gateway.stream.source import SourceError  # noqa: PLC0415

    unknown = _unknown_option(records)
    if unknown or not records:
        return _fail(unknown or "name a file of records, or - for standard input")
    if top < 1:
        return _fail("--top: at least 1")
    try:
        run(records, config, current, baselines=baselines, as_json=json, top=top)
    except SourceError as error:
        return _fail(str(error))
    return _OK


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
    config: Annotated[
        str | None,
        Parameter(
            ["--config", "-c"],
            help="Configuration that names the store. Default: ./tidegate.toml where"
            " there is one.",
        ),
    ] = None,
    tenant: Annotated[str, Parameter(help="Tenant of what names none.")] = "default",
    time_column: _Column = None,
    user_column: _Column = None,
    address_column: _Column = None,
    prompt_column: _Column = None,
    completion_column: _Column = None,
    tokens_column: _Column = None,
    timezone: Annotated[str, Parameter(help="Of times without one.")] = "UTC",
    time_format: Annotated[
        str | None, Parameter(help='How times are written, such as "%d/%m/%Y %H:%M".')
    ] = None,
) -> int:
    """Build baselines from past traffic, so that a gateway installed today knows last
    week.

    Reads the gateway's records, bare events, and logs of others (CSV, Parquet, JSON
    lines; columns are found by their usual names). Baselines go into the store, where
    `serve` finds them when it starts, or into a file. Nobody is blocked for what he did
    then.
    """
    from gateway.offline.columns import Choice  # noqa: PLC0415
    from gateway.offline.errors import InputError  # noqa: PLC0415
    from gateway.replay.keeping import KeepError  # noqa: PLC0415
    from gateway.replay.learn import learn as run  # noqa: PLC0415
    from gateway.replay.logs import Guide  # noqa: PLC0415
    from gateway.stream.source import SourceError  # noqa: PLC0415

    unknown = _unknown_option(files)
    if unknown or not files:
        return _fail(unknown or "name a file of past traffic, or - for standard input")
    choice = Choice(
        time=time_column,
        user=user_column,
        total=tokens_column,
        prompt=prompt_column,
        completion=completion_column,
    )
    guide = Guide(choice, address_column, timezone, time_format, tenant)
    try:
        run(files, guide, out=out, store=store, config=config)
    except (SourceError, InputError) as error:
        return _fail(str(error))
    except KeepError as error:
        return _fail(str(error), _USAGE if error.usage else _FAILED)
    return _OK


def _unknown_option(names: tuple[str, ...]) -> str:
    """Leading hyphens are let through for ``-``: anything else is a slip."""
    odd = next((name for name in names if name.startswith("-") and name != "-"), "")
    return f"unknown option: {odd}" if odd else ""


def _fail(message: str, code: int = _USAGE) -> int:
    sys.stderr.write(f"tidegate: {message}\n")
    return code
