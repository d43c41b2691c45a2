"""Why a request is refused: what its answer and its record need.

Texts of limits are in ``limits/admission.py``, those of other refusals where they are
decided: ``proxy/prepare.py`` and ``proxy/steps``.
"""

from __future__ import annotations

import msgspec

from gateway.core.model import Action


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A request that is not forwarded. A value, not an exception.

    ``code``, ``message`` and ``param`` go into the error body of the client's dialect;
    ``header_lines`` are complete header lines. ``action`` and ``limit`` go into the
    record. ``by_policy``: observe mode lets the request pass. ``retry_after``:
    seconds, -1 when waiting does not help. ``upstream_failed``: a 502, 503 or 504 in
    place of an upstream's answer.
    """

    status: int
    code: str
    message: str
    param: str | None = None
    header_lines: bytes = b""
    action: Action = "allow"
    limit: str | None = None
    by_policy: bool = False
    retry_after: float = -1.0
    upstream_failed: bool = False
