"""Log set-up of every process: structlog to standard error.

JSON lines, or text on a terminal. Nothing on a hot path logs at ``info`` or below. No
log call has a key, prompt or answer as argument, and tracebacks contain no local
variables, because these hold keys and prompts.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, cast

import msgspec

if not sys.stderr.isatty():
    # structlog imports rich if installed: 2.5 MB in each process.
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
    """Configure the logs of this process; ``form`` is json, console or auto. ``role``
    ("control", "worker-0") is a field of every line.
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
    # Libraries log through the standard library; only warnings are of interest.
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
    """Encode with timestamp, level and event first."""
    first = {key: event.pop(key) for key in _FIRST if key in event}
    return msgspec.json.encode(first | event, enc_hook=options.get("default"))
