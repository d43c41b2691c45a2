"""Types shared by all dialects: path facts, errors, usage meters, counting tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.core.model import RequestFacts, Usage

# How the records of an answer are separated; also the format of a CountTask's bytes.
SSE = "sse"
NDJSON = "ndjson"
JSON = "json"
FRAMES = "frames"  # AWS event stream, kept as one JSON payload per line
OPAQUE = "opaque"  # audio, images, plain text: never parsed

# How an answer stands (``UsageMeter.end``): not ended, ended by the dialect's own mark
# (``[DONE]``, ``message_stop``), or ended by an error inside a 200 answer.
OPEN_STREAM, ENDED, FAILED = "open", "ended", "failed"

# From a lower-case name to the value of that answer header, or None.
HeaderLookup = Callable[[bytes], bytes | None]


class DialectError(Exception):
    """A request body that cannot be read: answered 400 in the client's dialect."""

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
    ``model_required``: the API refuses a body without a model.
    ``work``: the kind of work that may be paid later (``works.WORK_OF``); ``polled``: the
    id of such work, where the path names it.
    """

    __slots__ = (
        "billable",
        "counted",
        "endpoint",
        "metered",
        "model",
        "model_required",
        "polled",
        "stream",
        "work",
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
        model_required: bool = False,
        work: str = "",
        polled: str = "",
    ) -> None:
        self.endpoint = endpoint
        self.metered = metered
        self.billable = billable
        self.counted = counted
        self.model = model
        self.stream = stream
        self.model_required = model_required
        self.work = work
        self.polled = polled


class CountTask(msgspec.Struct):
    """An exchange whose tokens have to be counted from its text, off the event loop.

    Settling may add ``body`` (the decoded request body) and ``prompt_estimate`` (tokens);
    without a body the prompt is estimated.
    """

    endpoint: str
    model: str = ""
    framing: str = JSON
    # ``answer``: the last records, whole. ``text``: of the records before them, only
    # the generated text, as the contents of JSON strings.
    answer: list[bytes] = []
    text: list[bytes] = []
    # Answer bytes that were not kept: their tokens are estimated.
    lost_bytes: int = 0
    prompt_bytes: int = 0
    prompt_tokens_known: int = 0
    prompt_estimate: int = 0
    body: bytes = b""
    # Usage that the provider stated in part, such as Anthropic's prompt count in a
    # truncated stream.
    stated: Usage | None = None
    # What the answer states beside tokens: model, tier, price, other units.
    beside: Usage | None = None


class UsageMeter(Protocol):
    """Reads the usage of one answer while its bytes pass."""

    def feed(self, data: bytes) -> None:
        """Scan answer bytes (decoded, without chunked framing), split in any way."""

    def finish(self, complete: bool) -> Usage | None:  # noqa: FBT001
        """The usage that the provider stated; None if it must be counted (``unstated``).

        ``complete`` is False for a truncated answer.
        """

    def unstated(self) -> CountTask | None:
        """The counting task of an answer for which ``finish`` returned None."""

    @property
    def implausible(self) -> bool:
        """Whether the stated usage cannot be true, so that it is not used."""

    def end(self) -> str:
        """OPEN_STREAM, ENDED or FAILED, by what was fed so far."""


def count_task(
    facts: RequestFacts, model: str, framing: str, stated: Usage | None
) -> CountTask:
    """A counting task with the request's sizes, still without the answer."""
    return CountTask(
        endpoint=facts.endpoint,
        model=facts.model or model,
        framing=framing,
        prompt_bytes=facts.prompt_bytes,
        prompt_tokens_known=facts.prompt_tokens_known,
        stated=stated,
    )
