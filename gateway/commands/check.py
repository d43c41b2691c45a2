"""``tidegate check``."""

from __future__ import annotations

import sys

from gateway.commands.flags import OK, ConfigFlag
from gateway.commands.output import print_table
from gateway.config import ConfigError, Loaded, Problem, load


def check(*, config: ConfigFlag = None) -> int:
    """Validate the file and print the effective policy of every tenant.

    Each value is printed with the place that states it. Exit 2 with file, line, key and
    the allowed values if something is wrong.
    """
    from gateway.config.explain import explain  # noqa: PLC0415

    loaded = load(config)
    _check_certificates(loaded)
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


def _check_certificates(loaded: Loaded) -> None:
    """Raise ConfigError for certificates with which no port could start."""
    from gateway.serve.tls import ServerTls  # noqa: PLC0415

    problems = []
    for name, table in (
        ("server", loaded.config.server),
        ("admin", loaded.config.admin),
    ):
        if table.tls is None:
            continue
        cert, key = table.tls.cert, table.tls.key
        try:
            ServerTls(cert, key)
        except OSError as error:  # ssl.SSLError, too
            message = f"cannot use {cert} with {key}: {error.strerror or error}"
            source = loaded.file or "configuration"
            problems.append(Problem(source, 0, f"{name}.tls", message))
    if problems:
        raise ConfigError(tuple(problems))
