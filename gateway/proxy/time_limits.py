"""How long an exchange may take, by its stage. All times are of the loop's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.proxy.stage import Stage

if TYPE_CHECKING:
    from gateway.http.handler import ClientSide
    from gateway.proxy.route import Route
    from gateway.proxy.shared import Shared
    from gateway.proxy.upload import Upload

FOREVER = float("inf")
# For the end of the framing after the answer's own end mark, where the client has left.
END_WAIT_S = 2.0


def answer_limit(
    route: Route, conn: ClientSide, upload: Upload | None, sent_at: float
) -> tuple[float, str]:
    """Deadline for the answer, or for progress of an upload; and the error text if it
    passes.
    """
    if upload is None or upload.done:
        return sent_at + route.first_byte_s, "the upstream did not answer in time"
    if upload.stalled_at:
        until = upload.stalled_at + conn.write_timeout_s
        return until, "the upstream does not take the request"
    return FOREVER, ""  # the client has not sent the whole body


def stage_limit(
    stage: int,
    route: Route,
    conn: ClientSide,
    upload: Upload | None,
    active_at: float,
) -> tuple[float, str]:
    """Deadline of this stage, and the error text if it passes.

    ``active_at``: the last activity of the upstream.
    """
    if stage == Stage.SENT:
        return answer_limit(route, conn, upload, active_at)
    if stage in (Stage.ANSWERING, Stage.TUNNEL):
        return active_at + route.idle_s, "the upstream sent nothing for too long"
    return FOREVER, ""


def start_drain(route: Route | None, shared: Shared, *, ended: bool) -> float:
    """Until when the answer may be read to its end, only to meter it.

    FOREVER: not at all, because the route does not drain, or drains ``drain_max``
    answers already. ``ended``: the client has all of it, only the connection is kept.
    """
    if route is None or not (route.drain_on_leave or ended):
        return FOREVER
    if not route.start_drain(ended=ended):
        shared.drain_refused += 1
        return FOREVER
    return shared.now() + (END_WAIT_S if ended else route.drain_s)
