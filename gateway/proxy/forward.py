"""Step 7, towards the upstream: the request, and the time limit of its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http.request_writer import NO_BODY, OutgoingRequest
from gateway.proxy.scoring import verdict_field

if TYPE_CHECKING:
    from gateway.http.handler import ClientSide, UpstreamAddress
    from gateway.proxy.flow import Flow
    from gateway.proxy.route import Route
    from gateway.proxy.upload import Upload

FOREVER = float("inf")
# For the end of the framing after the answer's own end mark, where the client has left.
END_WAIT_S = 2.0
# Actions on a forwarded request, which a header field states to the upstream.
_MARKED = frozenset({"tag", "throttle"})


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


def answer_limit(
    route: Route, conn: ClientSide, upload: Upload | None, sent_at: float
) -> tuple[float, str]:
    """Deadline for the answer, or for progress of an upload, on the loop's clock; and
    the error text if it passes.
    """
    if upload is None or upload.done:
        return sent_at + route.first_byte_s, "the upstream did not answer in time"
    if upload.stalled_at:
        until = upload.stalled_at + conn.write_timeout_s
        return until, "the upstream does not take the request"
    return FOREVER, ""  # the client has not sent the whole body
