"""Records for tests."""

from __future__ import annotations

from gateway.core.model import RequestRecord


def make_record(**changes) -> RequestRecord:
    """A successful plain chat request, with ``changes``."""
    fields = {
        "ts": 1_763_916_387.123456, "request_id": "r1", "tenant": "acme",
        "user": "key_1", "client_ip": "203.0.113.9", "method": "POST",
        "path": "/v1/chat/completions", "endpoint": "chat.completions",
        "model": "gpt-4o", "stream": False, "status": 200, "prompt_tokens": 3,
        "completion_tokens": 4, "total_tokens": 7, "cached_tokens": 1,
        "reasoning_tokens": 2, "usage_source": "upstream", "usd": 0.5,
        "duration_ms": 12.5, "ttfb_ms": 3.5, "overhead_ms": 0.2, "action": "allow",
        "limit": None, "score": 0.0, "cls": None, "reasons": (), "fingerprint": None,
        "outcome": "ok",
    }  # fmt: skip
    return RequestRecord(**{**fields, **changes})
