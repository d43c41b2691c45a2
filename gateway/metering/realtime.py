"""Sessions over WebSocket: reads passing messages and sums the usage of all answers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from gateway.core.model import Usage
from gateway.metering.frames import (
    BINARY,
    CLOSE,
    MESSAGE_BYTES,
    TEXT,
    UNREAD,
    FrameScanError,
    FrameScanner,
    UnmaskedError,
)
from gateway.metering.session_events import (
    SessionEvent,
    client_event,
    cut_event,
    server_event,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_JSON = frozenset({TEXT, BINARY})  # Gemini Live sends its JSON in binary messages.


class ClientMessage(NamedTuple):
    """A message of the client: its bytes, and what it says if it can be read."""

    raw: bytes
    event: SessionEvent | None = None
    control: bool = False


class RealtimeMeter:
    """Usage and model of one session, read from both directions.

    ``model``: what the upstream states. ``asked_model``: what the client's events name.
    ``asked``: answers that the client has asked for and that have not begun;
    ``running``: those that have begun and not ended. ``heard``: the upstream said
    something of an answer (the session clears it).

    ``refused``: the upstream has refused a message, perhaps one that asks for an answer;
    ``faded``: it has ended an answer whose usage should follow. Either is certain when
    nothing more comes.
    """

    __slots__ = (
        "_calls",
        "_down",
        "_passed",
        "_unread",
        "_up",
        "asked",
        "asked_model",
        "begun",
        "client_events",
        "faded",
        "heard",
        "lost",
        "model",
        "refused",
        "responses",
        "running",
        "total",
        "unmasked",
    )

    def __init__(
        self, max_message: int = MESSAGE_BYTES, max_client: int = MESSAGE_BYTES
    ) -> None:
        self._up: FrameScanner | None = FrameScanner(max_client, client=True)
        self._down: FrameScanner | None = FrameScanner(max_message)
        self.client_events = 0
        self.responses = 0
        self.begun = False  # the upstream has stated a model, or begun an answer
        self.model = self.asked_model = ""
        self.asked = self.running = 0
        self.refused = self.faded = self.heard = False
        # Messages passed on since the upstream was heard of last, and calls of tools
        # that wait for the client's reply.
        self._passed = self._calls = 0
        self._unread = 0  # messages of the upstream that may be of any kind
        # A direction could not be read, or not to its end.
        self.lost = self.unmasked = False
        self.total = Usage()

    @property
    def between_messages(self) -> bool:
        """Whether a message to the client could be inserted here."""
        return self._down is not None and self._down.between_messages

    @property
    def skipped(self) -> int:
        """Messages of either side that were too large to read."""
        return self.skipped_client + self._unread

    @property
    def skipped_client(self) -> int:
        """Messages of the client that were too large to read."""
        return 0 if self._up is None else self._up.skipped

    @property
    def answers(self) -> int:
        """Answers that are under way."""
        return self.asked + self.running

    @property
    def frames(self) -> int:
        """Frames that the last ``client_messages`` has read."""
        return 0 if self._up is None else self._up.frames

    @property
    def stopped(self) -> bool:
        """Whether the last ``client_messages`` has left frames unread."""
        return self._up is not None and self._up.stopped

    # -- the client -----------------------------------------------------------------

    def client_messages(
        self, data: bytes, most: int = sys.maxsize
    ) -> Iterator[ClientMessage]:
        """The messages that bytes of the client complete, of ``most`` frames.

        Bytes that are no frames (``lost``) come as one message.
        """
        scanner = self._up
        if scanner is None:
            yield ClientMessage(data)
            return
        try:
            for kind, payload, raw in scanner.feed(data, most):
                yield self._client_message(kind, payload, raw)
        except UnmaskedError:
            self.lost = self.unmasked = True
            self._up = None
        except FrameScanError:
            self.lost = True
            self._up = None
            yield ClientMessage(scanner.rest())

    def _client_message(self, kind: int, payload: bytes, raw: bytes) -> ClientMessage:
        if kind >= CLOSE:
            return ClientMessage(raw, control=True)
        if kind == UNREAD or not payload:
            return ClientMessage(raw)
        self.client_events += 1
        # Other opcodes are not defined.
        return ClientMessage(raw, client_event(payload) if kind in _JSON else None)

    def asks(self, event: SessionEvent, *, strict: bool) -> bool:
        """Whether the message asks for an answer beside any that is under way.

        ``strict``: what is not known to the gateway does.
        """
        if event.replies and not self._calls:
            return True
        return event.asks or (strict and event.unknown)

    def pass_on(self, event: SessionEvent | None, *, asks: bool) -> None:
        """Note that the upstream gets a message."""
        self._passed += 1
        if event is None:
            return
        if event.replies:
            self._calls = max(0, self._calls - 1)
        self.asked_model = event.model or self.asked_model
        if asks:
            self.asked += 1
            self.refused = False
            self.heard = True

    # -- the upstream ---------------------------------------------------------------

    def feed_upstream(self, data: bytes) -> list[Usage | None]:
        """Scan bytes from the upstream; returns the usage of each completed answer, None
        for one whose usage was not stated.
        """
        found: list[Usage | None] = []
        scanner = self._down
        if scanner is None:
            return found
        try:
            for kind, payload, head in scanner.feed(data):
                event = server_event(payload) if kind in _JSON else None
                if kind == UNREAD:
                    event = cut_event(head, payload)
                    self._unread += event is None
                if event is not None:
                    self._follow(event)
                    if event.usage is not None or event.unstated:
                        found.append(event.usage)
        except FrameScanError:
            self.lost = True
            self._down = None
        for usage in found:
            if usage is not None:
                self.responses += 1
                self.total = sum_usage(self.total, usage)
        return found

    def _follow(self, event: SessionEvent) -> None:
        """Follow which answers are under way."""
        self.model = event.model or self.model
        if event.model or event.begins or event.goes_on or event.usage is not None:
            self.begun = True
        if event.begins or (event.goes_on and not self.running):
            self._begin()
        elif event.ends:
            self._end()
        elif event.refuses:
            self.asked = max(0, self.asked - 1)
        elif event.fails and self.asked and not self.running:
            # Certain only if the request was all that the upstream could refuse.
            if self._passed <= 1:
                self.asked -= 1
            else:
                self.refused = True
        elif event.fades and self.answers:
            self.faded = True
        elif not event.goes_on:
            return
        self._calls += event.calls
        self._passed = 0
        self.heard = True

    def _begin(self) -> None:
        self.asked = max(0, self.asked - 1)
        self.running += 1
        self.refused = self.faded = False

    def _end(self) -> None:
        if self.running:
            self.running -= 1
        else:
            # An upstream that names no beginnings: how many are left is not known.
            self.asked = 0
        self.refused = self.faded = False

    def give_up(self) -> int:
        """Expect no more of the answers under way; returns how many there were that the
        upstream has not refused.
        """
        answers = self.running if self.refused else self.answers
        self.asked = self.running = 0
        self.refused = self.faded = False
        return answers


def sum_usage(one: Usage, other: Usage) -> Usage:
    """The sum of two usages, with the source and the names of the second."""
    units = dict(one.units)
    for unit, amount in other.units:
        units[unit] = units.get(unit, 0) + amount
    costs = [cost for cost in (one.cost_usd, other.cost_usd) if cost is not None]
    return Usage(
        one.prompt + other.prompt,
        one.completion + other.completion,
        one.total + other.total,
        one.cached + other.cached,
        one.reasoning + other.reasoning,
        one.cache_write + other.cache_write,
        other.source,
        units=tuple(units.items()),
        model=other.model or one.model,
        tier=other.tier or one.tier,
        cost_usd=sum(costs) if costs else None,
    )
