"""``tidegate demo``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from gateway.commands.extras import missing_extra
from gateway.commands.output import fail


def demo(
    *,
    fast: Annotated[
        bool, Parameter(negative="", help="40 seconds instead of two minutes.")
    ] = False,
    admin: Annotated[
        str, Parameter(help="host:port of the console. Port 0: any free port.")
    ] = "127.0.0.1:0",
    seed: Annotated[int, Parameter(help="Seed of the generated traffic.")] = 1,
) -> int:
    """Show in two minutes, on this machine alone, what Tidegate does.

    Starts a mock LLM API, a gateway and ordinary traffic; then a scraper, a cost spike,
    a distributed flood, and a campaign whose surge is expected. Ends by itself. Needs
    `pip install 'tidegate[analyze]'`, to learn from past traffic first.
    """
    if missing := missing_extra("demo"):
        return fail(missing)
    from gateway.demo.run import demo as run_demo  # noqa: PLC0415

    return run_demo(fast=fast, admin=admin, seed=seed)
