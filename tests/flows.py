"""Flows for unit tests of the steps, without connections or a store."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gateway.core.model import Policy
from gateway.http.head import parse_request_head
from gateway.http.heads import RequestFields
from gateway.proxy.flow import Flow
from gateway.proxy.prepare import RequestContext

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n\r\n"


def flow_of(policy: Policy | None = None, **context: Any) -> Flow:
    """A flow of a client under ``policy``; None: of an unknown client."""
    made = RequestContext(parse_request_head(HEAD), 1)
    if policy is not None:
        made.identity = SimpleNamespace(  # type: ignore[assignment]
            policy=policy, takes_body_user=False, allowed=False, key=("t", "ip", "u")
        )
    for name, value in context.items():
        setattr(made, name, value)
    return Flow(made, RequestFields(None), b"id", None)
