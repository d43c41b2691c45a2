"""Why a request is refused: what its answer and its record need.

Texts of limits are in ``limits/admission.py``, those of other refusals where they are
decided: ``proxy/prepare.py`` and ``proxy/steps``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.core.model import Action

# Longest wait in seconds after which clients should retry by themselves. Anthropic's SDK
# sleeps as long as Retry-After says, whatever its own timeout is.
LONGEST_RETRY_S: Final = 60.0
_REQUEST_TIMEOUT: Final = 408


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A request that is not forwarded. A value, not an exception.

    ``code``, ``message`` and ``param`` go into the error body of the client's dialect;
    ``header_lines`` are complete header lines. ``action`` and ``limit`` go into the
    record. ``by_policy``: observe mode lets the request pass. ``retry_after``:
    seconds, -1 when waiting does not help. ``upstream_failed``: a 502, 503 or 504 in
    place of an upstream's answer. ``calendar``: by a limit of a calendar period, whose
    clients would all retry in the same instant.
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
    calendar: bool = False

    @property
    def final(self) -> bool:
        """Whether clients should not retry by themselves."""
        if self.retry_after < 0:
            return not self.upstream_failed and self.status != _REQUEST_TIMEOUT
        return self.calendar or self.retry_after > LONGEST_RETRY_S
