"""The ``tidegate`` command: registers every command and maps errors to exit codes.

Exit codes: 0 fine, 1 failed while running, 2 bad usage, configuration or input. The
command modules import what they need inside their functions: ``--help`` stays fast.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App, CycloptsError

from gateway import __version__
from gateway.commands.alerts import alerts
from gateway.commands.analyze import analyze
from gateway.commands.blocks import blocks
from gateway.commands.check import check
from gateway.commands.demo import demo
from gateway.commands.errors import RemoteError
from gateway.commands.flags import FAILED, INTERRUPTED, OK, USAGE
from gateway.commands.incidents import incidents
from gateway.commands.keys import keys
from gateway.commands.learn import learn
from gateway.commands.live import tail, top
from gateway.commands.output import fail
from gateway.commands.prices import prices
from gateway.commands.replay import replay
from gateway.commands.serve import serve
from gateway.commands.silences import silences
from gateway.commands.watch import watch
from gateway.config import ConfigError

app = App(
    name="tidegate",
    version=__version__,
    help="""Reverse-proxy sidecar in front of LLM APIs.

Counts the tokens of every request and answer, enforces each tenant's limits, and
detects and blocks abuse.

    tidegate serve --upstream https://api.openai.com

Exit codes: 0 fine, 1 failed while running, 2 bad usage or configuration.
""",
    help_format="markdown",
)
for group in (keys, blocks, alerts, incidents, silences):
    app.command(group)
for command in (serve, check, watch, analyze, learn, replay, prices, top, tail, demo):
    app.command(command)


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
        message = " ".join(str(error).split())
        return fail(f"{message}\nsee tidegate --help, tidegate COMMAND --help")
    except ConfigError as error:
        for problem in error.problems:
            fail(str(problem))
        return USAGE
    except RemoteError as error:
        return fail(str(error), USAGE if error.usage else FAILED)
    except BrokenPipeError:
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return result if isinstance(result, int) else OK


def main() -> NoReturn:
    """Entry point of the ``tidegate`` command."""
    sys.exit(run())
