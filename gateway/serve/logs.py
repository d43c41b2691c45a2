"""Logs: structlog to standard error, one set-up for every process.

JSON lines, or text for people on a terminal. Nothing on a hot path logs at ``info`` or
below, and no key, prompt or answer is ever an argument of a log call. Tracebacks show
the way, never the variables on it: these hold keys and prompts.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, cast

import msgspec

if not sys.stderr.isatty():
    # structlog imports rich where it finds it, 2.5 MB in each process.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor

_FIRST = ("timestamp", "level", "event")
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


# For modules that log without a role. Import it from here: this module keeps structlog
# from loading rich.
get_logger = structlog.get_logger


def set_up_logs(level: str, form: str, role: str) -> FilteringBoundLogger:
    """Configure this process; ``form`` is json, console or auto. The logger's lines
    carry ``role`` ("control", "worker-0").
    """
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        processors += [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
        factory: Any = structlog.BytesLoggerFactory(sys.stderr.buffer)
    else:
        colors = sys.stderr.isatty()
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=colors, exception_formatter=structlog.dev.plain_traceback
            )
        )
        factory = structlog.PrintLoggerFactory(sys.stderr)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library; only their troubles matter.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    return cast("FilteringBoundLogger", structlog.get_logger(role=role))


def log_state(
    log: FilteringBoundLogger,
    problem: str,
    *,
    failing: str,
    working: str,
    level: int = logging.WARNING,
) -> None:
    """Log that a part fails (event ``failing``, at ``level``, with the reason) or, where
    ``problem`` is "", that it works again (event ``working``, at ``info``).
    """
    if problem:
        log.log(level, failing, why=problem)
    else:
        log.info(working)


def _to_json(event: dict[str, Any], **options: Any) -> bytes:
    """When, how bad and what come first; the rest as it was given."""
    first = {key: event.pop(key) for key in _FIRST if key in event}
    return msgspec.json.encode(first | event, enc_hook=options.get("default"))
