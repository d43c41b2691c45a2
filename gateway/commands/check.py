"""``tidegate check``."""

from __future__ import annotations

import sys

from gateway.commands.flags import OK, ConfigFlag
from gateway.commands.output import print_table
from gateway.config import load


def check(*, config: ConfigFlag = None) -> int:
    """Validate the file and print the effective policy of every tenant.

    Each value is printed with the place that states it. Exit 2 with file, line, key and
    the allowed values if something is wrong.
    """
    from gateway.config.explain import explain  # noqa: PLC0415

    loaded = load(config)
    for section in explain(loaded):
        print_table(("", "value", "from"), section.rows, section.title)
        print()
    from gateway.serve.price_table import (  # noqa: PLC0415
        age_warning,
        describe_table,
        newest_table,
    )

    table = newest_table()
    print(f"prices: {describe_table(table)}")
    old = age_warning(table)
    if old:
        print(f"tidegate: warning: {old}", file=sys.stderr)
    for warning in loaded.warnings:
        print(f"tidegate: warning: {warning}", file=sys.stderr)
    print(f"{loaded.file or 'the configuration'} is valid")
    return OK
