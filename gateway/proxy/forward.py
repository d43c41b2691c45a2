"""Step 7, towards the upstream: the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http.request_writer import NO_BODY, OutgoingRequest
from gateway.proxy.scoring import verdict_field

if TYPE_CHECKING:
    from gateway.http.handler import UpstreamAddress
    from gateway.proxy.flow import Flow
    from gateway.proxy.upload import Upload

# Actions on a forwarded request, which a header field states to the upstream.
_MARKED = frozenset({"tag", "throttle"})
NO_FIELDS: frozenset[bytes] = frozenset()


def outgoing_request(
    flow: Flow, upload: Upload | None, target: UpstreamAddress
) -> OutgoingRequest:
    """The request as it goes to this target."""
    context = flow.context
    if upload is not None:
        length = upload.length
    elif flow.body or context.buffer_limit or flow.content_length == 0:
        length = len(flow.body)
    else:
        length = NO_BODY
    return OutgoingRequest(
        context.head_for(target),
        flow.request_lines,
        flow.request_id,
        length,
        (verdict_field(flow.verdict),) if flow.action in _MARKED else (),
        # The usage chunk could not be removed from a compressed stream.
        uncompressed=flow.usage_requested,
    )
