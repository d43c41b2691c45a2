"""What control does for the admin API."""

from __future__ import annotations

import structlog

from gateway.control.backend import ControlBackend


def test_failed_admin_request_is_a_structured_log_event():
    """The log line has the request id, method and path as fields, and a traceback."""
    backend = object.__new__(ControlBackend)
    with structlog.testing.capture_logs() as lines:
        try:
            int("x")
        except ValueError:
            backend.log_failure("adm_1", "GET", "/api/v1/status")
    assert lines == [
        {
            "event": "admin_request_failed",
            "log_level": "error",
            "exc_info": True,
            "request_id": "adm_1",
            "method": "GET",
            "path": "/api/v1/status",
        }
    ]
