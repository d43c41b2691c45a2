"""The commands. Exit codes: 0 fine, 1 failed while running, 2 bad usage or input.

What a command needs is imported inside it, so that ``--help`` answers at once and the
supervisor (which replaces this process) starts with nothing of it in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter

from gateway import __version__
from gateway.commands.oncall import alerts, incidents, silences
from gateway.commands.remote import AdminClient, RemoteError
from gateway.commands.replay import learn, replay
from gateway.config import ConfigError, Loaded, find_file, load, parse_duration

OK, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130  # as shells have it: 128 and the number of the signal
# 32 bytes of randomness; the prefix makes a leaked key easy to find.
KEY_PREFIX = "tg_"
TOKEN_VARIABLE = "TIDEGATE_ADMIN_TOKEN"  # noqa: S105 - its name, not its value
SPEC_VARIABLE = "TIDEGATE_SPEC"

app = App(
    name="tidegate",
    version=__version__,
    help="""Reverse-proxy sidecar in front of LLM APIs.

Counts the tokens of every request and answer, keeps each tenant's limits, and names and
stops abuse.

    tidegate serve --upstream https://api.openai.com

Exit codes: 0 fine, 1 failed while running, 2 bad usage or configuration.
""",
    help_format="markdown",
)
keys = App(name="keys", help="Make client keys, or the hashes that the file holds.")
blocks = App(name="blocks", help="Block list of a running gateway.")
app.command(keys)
app.command(blocks)
app.command(alerts)
app.command(incidents)
app.command(silences)
app.command(replay)
app.command(learn)

ConfigFlag = Annotated[
    str | None,
    Parameter(
        ["--config", "-c"],
        help="Configuration file. Default: ./tidegate.toml where there is one.",
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
TenantFlag = Annotated[
    str | None,
    Parameter("--tenant", help="Only in this tenant. Default: everywhere."),
]
KindArgument = Annotated[
    Literal["client_ip", "user", "tenant", "network"],
    Parameter(help="What is blocked."),
]
HeldArgument = Annotated[
    Literal["client_ip", "user", "tenant", "network", "prompts"],
    Parameter(help="What is blocked."),
]
IdArgument = Annotated[
    str, Parameter(help="Its id: 203.0.113.9, key_…, acme, 203.0.113.0/24.")
]

ColumnFlag = Annotated[
    str | None, Parameter(help="Name of the column. Default: found by usual names.")
]


@app.command
def serve(
    *,
    config: ConfigFlag = None,
    upstream: Annotated[
        str | None, Parameter(help="URL of the LLM API; enough to run without a file.")
    ] = None,
    mode: Annotated[
        Literal["enforce", "observe"] | None,
        Parameter(help="Of every policy. Default without a file: observe."),
    ] = None,
    listen: Annotated[
        str | None, Parameter(help="host:port for clients. Default: 127.0.0.1:8080.")
    ] = None,
    admin: Annotated[
        str | None, Parameter(help="host:port for operators. Default: 127.0.0.1:9901.")
    ] = None,
    store: Annotated[
        str | None, Parameter(help="Store URL. Default: embedded:./tidegate-data.")
    ] = None,
    workers: Annotated[
        str | None, Parameter(help='Worker processes, or "auto". Default: 1.')
    ] = None,
) -> int:
    """Run the gateway. SIGHUP reloads the file, SIGTERM drains and ends.

    Without a file: one upstream, tenant "default", every credential admitted, no fixed
    limits, counters in ./tidegate-data, mode observe.
    """
    overrides = {
        "upstream": upstream,
        "mode": mode,
        "server.listen": listen,
        "admin.listen": admin,
        "store.url": store,
        "server.workers": workers,
    }
    stated = {key: value for key, value in overrides.items() if value is not None}
    loaded = load(config, stated)  # the supervisor logs the warnings
    file = os.path.abspath(loaded.file) if loaded.file else None
    _become_supervisor({"config": file, "overrides": stated})


def _become_supervisor(spec: dict[str, Any]) -> NoReturn:
    """Replace this process; the supervisor reads the configuration itself."""
    environ = os.environ | {SPEC_VARIABLE: json.dumps(spec)}
    argv = [sys.executable, "-m", "gateway.serve.supervisor"]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, argv, environ)  # noqa: S606 - no shell is wanted


@app.command
def check(*, config: ConfigFlag = None) -> int:
    """Validate the file and print the effective policy of every tenant.

    Each value stands beside the place that states it. Exit 2 with file, line, key and
    what is allowed where something is wrong.
    """
    from gateway.config.explain import explain  # noqa: PLC0415

    loaded = load(config)
    _print_sections([(s.title, s.rows) for s in explain(loaded)])
    _print_warnings(loaded)
    print(f"{loaded.file or 'the configuration'} is valid")
    return OK


@keys.command
def new() -> int:
    """Make a client key. Prints the key, then its hash for `api_keys`."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    print(key)
    print(hash_key(key))
    return OK


@keys.command(name="hash")
def hash_() -> int:
    """Read a client key from standard input and print its hash for `api_keys`."""
    if sys.stdin.isatty():
        from getpass import getpass  # noqa: PLC0415

        key = getpass("key: ")
    else:
        key = sys.stdin.readline().rstrip("\r\n")
    if not key:
        return _fail("no key on standard input", USAGE)
    print(hash_key(key))
    return OK


def hash_key(key: str) -> str:
    """How the configuration file holds a client key.

    A plain hash is enough: keys are long and random, so there is no guessing them.
    """
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


@blocks.command(name="list")
def list_blocks(
    *,
    json: Annotated[bool, Parameter("--json", negative="", help="As JSON.")] = False,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Show the blocks in force."""
    found = _admin_client(config, admin, token).list_blocks()
    if json:
        _print_json({"items": found, "next": None})
        return OK
    columns = ("kind", "id", "tenant", "until", "reason")
    rows = [tuple(_cell(block.get(name)) for name in columns) for block in found]
    _print_table(columns, rows) if rows else print("no blocks")
    return OK


@blocks.command(name="add")
def add_block(
    kind: KindArgument,
    id: IdArgument,  # noqa: A002 - what the user reads in the help
    /,
    *,
    tenant: TenantFlag = None,
    ttl: Annotated[
        str | None, Parameter(help='How long, such as "10m". Default: until removed.')
    ] = None,
    reason: Annotated[str, Parameter(help="A sentence for those who ask why.")] = "",
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """Block a subject, on every worker and machine within a second."""
    try:
        if ttl is not None and not parse_duration(ttl):
            return _fail("--ttl: nothing would be blocked", USAGE)
    except ValueError as error:
        return _fail(f"--ttl: {error}", USAGE)
    block = {"kind": kind, "id": id, "tenant": tenant, "ttl": ttl, "reason": reason}
    _admin_client(config, admin, token).add_block(block)
    print(f"blocked {kind} {id}{f' for {ttl}' if ttl else ''}")
    return OK


@blocks.command(name="remove")
def remove_block(
    kind: HeldArgument,
    id: IdArgument,  # noqa: A002 - what the user reads in the help
    /,
    *,
    tenant: TenantFlag = None,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """End a block."""
    _admin_client(config, admin, token).remove_block(kind, id, tenant)
    print(f"unblocked {kind} {id}")
    return OK


@app.command
def watch(
    source: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,  # for "-" itself
            help="File of events (.gz is unpacked); - or none: standard input.",
        ),
    ] = None,
    /,
    *,
    config: ConfigFlag = None,
    json: Annotated[
        bool, Parameter("--json", negative="", help="One JSON object a line.")
    ] = False,
    follow: Annotated[
        bool,
        Parameter(["--follow", "-f"], negative="", help="Wait for what is added."),
    ] = False,
    baselines: Annotated[
        str | None, Parameter(help="File of what was learned before.")
    ] = None,
    fail_on: Annotated[
        Literal["warning", "critical"] | None,
        Parameter(help="Exit 1 when anything this severe is found."),
    ] = None,
) -> int:
    """Find abuse in live or recorded events, one JSON object a line.

    Reads the gateway's records and bare events. Time is that of the events: a week
    replays in seconds and gives the same verdicts each time. Nobody is acted on.
    """
    from gateway.stream.command import watch as run_watch  # noqa: PLC0415
    from gateway.stream.source import SourceError  # noqa: PLC0415

    if source and source.startswith("-") and source != "-":
        return _fail(f"unknown option: {source}\nsee tidegate watch --help", USAGE)
    held = load(config).config if find_file(config) else None
    if source is None and os.isatty(0):
        return _fail("name a file of events, or pipe them in", USAGE)
    try:
        tally = run_watch(
            source or "-", held, as_json=json, follow=follow, baselines=baselines
        )
    except SourceError as error:
        return _fail(str(error), USAGE)
    return FAILED if fail_on and tally.reaches(fail_on) else OK


@app.command
def analyze(
    *files: str,
    window: Annotated[
        str, Parameter(help="Length of a window; it must divide a day.")
    ] = "5m",
    json: Annotated[
        bool, Parameter("--json", negative="", help="One JSON document.")
    ] = False,
    html: Annotated[str | None, Parameter(help="Write a report page here.")] = None,
    plot: Annotated[str | None, Parameter(help="Write a PNG picture here.")] = None,
    time_column: ColumnFlag = None,
    user_column: ColumnFlag = None,
    tokens_column: ColumnFlag = None,
    prompt_column: ColumnFlag = None,
    completion_column: ColumnFlag = None,
    time_format: Annotated[
        str | None, Parameter(help='Form of the times, such as "%d/%m/%Y %H:%M".')
    ] = None,
    timezone: Annotated[
        str, Parameter(help="Of times that state none, and of the report.")
    ] = "UTC",
    fail_on: Annotated[
        Literal["warning", "critical"] | None,
        Parameter(help="Exit 1 when anything this severe is found."),
    ] = None,
) -> int:
    """Find the abnormal windows of past logs: CSV, JSON lines (also gzip), Parquet.

    No clean history is needed: the expectation comes from the log itself, robustly.
    """
    from gateway.offline import Choice, InputError  # noqa: PLC0415
    from gateway.offline.command import Wanted  # noqa: PLC0415
    from gateway.offline.command import run as run_analyze  # noqa: PLC0415

    if not files:
        return _fail("name one or more log files", USAGE)
    choice = Choice(
        time_column, user_column, tokens_column, prompt_column, completion_column
    )
    try:
        report = run_analyze(
            Wanted(files, window, choice, time_format, timezone, json, html, plot)
        )
    except InputError as error:
        return _fail(str(error), USAGE)
    return FAILED if fail_on and report.reaches(fail_on) else OK


@app.command
def top(
    *, config: ConfigFlag = None, admin: AdminFlag = None, token: TokenFlag = None
) -> int:
    """What a running gateway does now, once a second, until Ctrl-C."""
    from gateway.commands.terminal import top as run_top  # noqa: PLC0415

    return run_top(_admin_client(config, admin, token))


@app.command
def tail(
    *,
    json: Annotated[
        bool, Parameter("--json", negative="", help="One JSON object a line.")
    ] = False,
    config: ConfigFlag = None,
    admin: AdminFlag = None,
    token: TokenFlag = None,
) -> int:
    """What detection says and operators do, as it happens, until Ctrl-C."""
    from gateway.commands.terminal import tail as run_tail  # noqa: PLC0415

    return run_tail(_admin_client(config, admin, token), as_json=json)


@app.command
def demo(
    *,
    fast: Annotated[
        bool, Parameter(negative="", help="40 seconds instead of two minutes.")
    ] = False,
    admin: Annotated[
        str, Parameter(help="host:port of its console. Port 0: any that is free.")
    ] = "127.0.0.1:0",
    seed: Annotated[int, Parameter(help="Another number, another play.")] = 1,
) -> int:
    """Show in two minutes, on this machine alone, what Tidegate does.

    A made-up LLM, a gateway, ordinary customers; then a scraper, a cost spike, a flood
    from many addresses, and a campaign on which nobody is acted. Ends by itself.
    """
    from gateway.demo.command import demo as run_demo  # noqa: PLC0415

    return run_demo(fast=fast, admin=admin, seed=seed)


def _admin_client(
    config: str | None, admin: str | None, token: str | None
) -> AdminClient:
    """The gateway that flags, environment or the file name."""
    token = token or os.environ.get(TOKEN_VARIABLE)
    if admin is None and find_file(config):
        table = load(config).config.admin
        admin = table.listen
        if token is None and table.token:
            token = table.token.reveal()
    return AdminClient(admin or "127.0.0.1:9901", token)


# -- output --------------------------------------------------------------------------


def _print_sections(sections: Sequence[tuple[str, Sequence[tuple[str, ...]]]]) -> None:
    for title, rows in sections:
        _print_table(("", "value", "from"), rows, title)
        print()


def _print_table(
    columns: Sequence[str], rows: Sequence[tuple[str, ...]], title: str = ""
) -> None:
    """A table for a terminal, or plain columns for a pipe."""
    if sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(*columns, title=title or None, title_justify="left")
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    if title:
        print(title)
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in rows if title else [tuple(columns), *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"{'  ' if title else ''}{'  '.join(cells)}".rstrip())


def _cell(value: Any) -> str:
    return "-" if value is None or value == "" else str(value)


def _print_json(content: Any) -> None:
    print(json.dumps(content, ensure_ascii=False))


def _print_warnings(loaded: Loaded) -> None:
    for warning in loaded.warnings:
        print(f"tidegate: warning: {warning}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    print(f"tidegate: {message}", file=sys.stderr)
    return code


def run(tokens: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        result = app(
            sys.argv[1:] if tokens is None else tokens,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        hint = "\nsee tidegate --help, tidegate COMMAND --help"
        return _fail(f"{_first_words(error)}{hint}", USAGE)
    except ConfigError as error:
        for problem in error.problems:
            _fail(str(problem), USAGE)
        return USAGE
    except RemoteError as error:
        return _fail(str(error), USAGE if error.usage else FAILED)
    except BrokenPipeError:
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return result if isinstance(result, int) else OK


def _first_words(error: CycloptsError) -> str:
    return " ".join(str(error).split())


def main() -> NoReturn:
    """Entry point of the ``tidegate`` command."""
    sys.exit(run())
