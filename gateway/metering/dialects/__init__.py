"""Dialects: the wire formats of LLM providers.

``find_endpoint`` says from method and path which dialect and endpoint a request is;
the dialect reads the request (``read_request``), opens a ``UsageMeter`` for the answer and
writes errors its clients understand. A ``UsageFilter`` takes out the usage chunk that
only the gateway asked for. Everything is pure: bytes in, values out.
"""

from gateway.metering.dialects.base import (
    CountTask,
    DialectError,
    HeaderLookup,
    UsageMeter,
)
from gateway.metering.dialects.dialect import Dialect
from gateway.metering.dialects.filter import UsageFilter
from gateway.metering.dialects.match import Match
from gateway.metering.dialects.routes import DIALECTS, find_endpoint

__all__ = [
    "DIALECTS",
    "CountTask",
    "Dialect",
    "DialectError",
    "HeaderLookup",
    "Match",
    "UsageFilter",
    "UsageMeter",
    "find_endpoint",
]
