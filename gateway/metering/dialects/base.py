"""What every dialect shares: the match of a path, its errors, the counting task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.core.model import RequestFacts, Usage

# How an answer's records are told apart; also what a CountTask's bytes are.
SSE = "sse"
NDJSON = "ndjson"
JSON = "json"
FRAMES = "frames"  # AWS event stream: kept as one JSON payload a line
OPAQUE = "opaque"  # audio, images, plain text: never parsed

# The answer header of that lower-case name, or None.
HeaderLookup = Callable[[bytes], bytes | None]


class DialectError(Exception):
    """The client's body cannot be read: answered 400 in the client's dialect."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class PathMatch:
    """What method and path alone say about a request.

    ``metered``: the body must be read and admitted before it is forwarded.
    ``billable``: the request costs tokens.
    ``counted``: the tokens of an answer that states no usage are counted from its text.
    ``model`` and ``stream``: only where the path names them (Gemini, Bedrock, Azure).
    """

    __slots__ = (
        "billable",
        "counted",
        "endpoint",
        "metered",
        "model",
        "stream",
    )

    def __init__(
        self,
        endpoint: str,
        *,
        metered: bool = False,
        billable: bool = True,
        counted: bool = False,
        model: str = "",
        stream: bool | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.metered = metered
        self.billable = billable
        self.counted = counted
        self.model = model
        self.stream = stream


class CountTask(msgspec.Struct):
    """An exchange whose tokens have to be counted from its text, off the loop.

    The exchange that settles it may set ``body`` (the request body, decoded) and
    ``prompt_estimate`` (tokens) before it hands the task on; without a body the prompt
    is estimated.
    """

    endpoint: str
    model: str = ""
    framing: str = JSON
    # Whole answer records as they came; before them came those of which only the text
    # was kept, as the insides of JSON strings.
    answer: list[bytes] = []
    text: list[bytes] = []
    # Answer bytes that were seen but not kept: they are estimated.
    lost_bytes: int = 0
    prompt_bytes: int = 0
    prompt_tokens_known: int = 0
    prompt_estimate: int = 0
    body: bytes = b""
    # What the provider did say, e.g. Anthropic's prompt count of a stream cut short.
    stated: Usage | None = None


class UsageMeter(Protocol):
    """Reads one answer's usage while its bytes pass."""

    def feed(self, data: bytes) -> None:
        """Scan decoded, de-chunked answer bytes; any split will do."""

    def finish(self, complete: bool) -> Usage | None:  # noqa: FBT001
        """What the provider stated; None when it must be counted (``unstated``).

        ``complete`` is False for an answer cut short.
        """

    def unstated(self) -> CountTask | None:
        """What is needed to count an answer for which ``finish`` gave None."""

    @property
    def first_token_seen(self) -> bool:
        """Whether any answer bytes came."""


def count_task(
    facts: RequestFacts, model: str, framing: str, stated: Usage | None
) -> CountTask:
    """A task that knows the request's size and nothing of the answer yet."""
    return CountTask(
        endpoint=facts.endpoint,
        model=facts.model or model,
        framing=framing,
        prompt_bytes=facts.prompt_bytes,
        prompt_tokens_known=facts.prompt_tokens_known,
        stated=stated,
    )
