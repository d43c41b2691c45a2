"""Dialects: the wire formats of LLM providers.

``find_endpoint`` finds dialect and endpoint by method and path. The dialect reads the
request (``read_request``), opens a ``UsageMeter`` for the answer and writes errors in
the format of its clients. A ``UsageFilter`` removes the usage chunk that only the
gateway asked for. Start reading in ``dialect.py``.

A new dialect: a module with a subclass of ``Dialect``, its instance and its paths in
``routes.py``, its name in ``config/structs.py``, an error format in ``errors.py``. Usage members that no provider had
before: fields in ``fields.py``, text members in ``texts.py``.
"""

from gateway.metering.dialects.base import (
    ENDED,
    FAILED,
    OPEN_STREAM,
    CountTask,
    DialectError,
    HeaderLookup,
    UsageMeter,
)
from gateway.metering.dialects.dialect import NAME_CHARS, Dialect
from gateway.metering.dialects.filter import UsageFilter
from gateway.metering.dialects.match import Match
from gateway.metering.dialects.meters import NullMeter
from gateway.metering.dialects.routes import DIALECTS, find_endpoint
from gateway.metering.dialects.sessions import session_match, session_model

__all__ = [
    "DIALECTS",
    "ENDED",
    "FAILED",
    "NAME_CHARS",
    "OPEN_STREAM",
    "CountTask",
    "Dialect",
    "DialectError",
    "HeaderLookup",
    "Match",
    "NullMeter",
    "UsageFilter",
    "UsageMeter",
    "find_endpoint",
    "session_match",
    "session_model",
]
