"""What becomes of an answer whose client has left."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gateway.proxy.strangers import end_wait, start_wait
from gateway.proxy.time_limits import FOREVER, start_drain

if TYPE_CHECKING:
    from asyncio import TimerHandle
    from collections.abc import Callable

    from gateway.proxy.flow import Flow
    from gateway.proxy.shared import Shared

# For the status of a stranger's call: an upstream refuses an invalid credential sooner.
STATUS_WAIT_S = 30.0
# For the rest of an answer that is not streamed: it is generated before its head is sent.
BODY_WAIT_S = 10.0


class Leaving:
    """How long the upstream is read although nobody gets the answer.

    ``until`` (the loop's clock): FOREVER before the client leaves, and where the upstream
    is not read. ``waiting``: for the status alone, with a timer of its own.
    """

    __slots__ = ("_end", "until", "waiting")

    def __init__(self) -> None:
        self.until = FOREVER
        self.waiting = False
        self._end: Callable[[], None] | None = None

    def read_on(self, flow: Flow, shared: Shared, *, ended: bool) -> bool:
        """Read the answer to its end, only to meter it, if the route does so.

        ``ended``: the client has all of it.
        """
        route = flow.context.route
        until = start_drain(route, shared, ended=ended)
        if until == FOREVER or route is None:
            return False
        self.until, self._end = until, route.end_drain
        return True

    def wait(self, flow: Flow, shared: Shared, give_up: Callable[[], None]) -> bool:
        """Wait for the status of a stranger's call; ``give_up`` if it does not come.

        False: nothing depends on it, or too many wait.
        """
        stranger = flow.stranger
        matters = stranger is not None and (
            stranger.reserved is not None or flow.context.buffer_limit > 0
        )
        if not matters or shared.draining or not start_wait(shared):
            return False
        self.waiting = True
        timer = shared.loop.call_later(STATUS_WAIT_S, give_up)
        self._end = partial(_end_wait, shared, timer)
        return True

    def go_on(self, flow: Flow, shared: Shared, status: int) -> bool:
        """The status has come. Whether the rest of the answer is read, to meter it."""
        self.waiting = False
        if flow.stranger is not None or flow.facts is None or status >= 300:
            return False
        self.end()
        if not flow.facts.stream and start_wait(shared):
            self.until = shared.now() + BODY_WAIT_S
            self._end = partial(end_wait, shared)
            return True
        return self.read_on(flow, shared, ended=False)

    def end(self) -> None:
        """Leave the place of an answer that is read."""
        end, self._end = self._end, None
        self.until = FOREVER
        if end is not None:
            end()


# Of an exchange whose client is there.
STAYS = Leaving()


def _end_wait(shared: Shared, timer: TimerHandle) -> None:
    timer.cancel()
    end_wait(shared)
