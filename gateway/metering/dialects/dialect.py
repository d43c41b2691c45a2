"""The base class of dialects: the wire format of one family of providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from msgspec import Raw

from gateway.core.model import RequestFacts
from gateway.metering.dialects.base import (
    NDJSON,
    OPAQUE,
    SSE,
    DialectError,
    HeaderLookup,
    PathMatch,
    UsageMeter,
)
from gateway.metering.dialects.errors import openai_error
from gateway.metering.dialects.forms import FormFields, form_fields
from gateway.metering.dialects.meters import (
    USAGE_HIT,
    JsonMeter,
    NullMeter,
    SniffMeter,
    StreamMeter,
)
from gateway.metering.dialects.requests import EMPTY, to_count, to_flag
from gateway.metering.dialects.sizes import PromptSize, content_size, text_size
from gateway.metering.dialects.splice import capped, with_cap

_NDJSON_TYPES = ("application/x-ndjson", "application/stream+json", "application/jsonl")
_OPAQUE_TYPES = ("audio/", "image/", "video/", "application/octet-stream")
_HTTP_OK = range(200, 300)
# Endpoints whose servers read forms; all others read JSON only.
FORM_ENDPOINTS = frozenset(
    {
        "images.edits",
        "images.variations",
        "audio.transcriptions",
        "audio.translations",
        "videos",
    }
)

# Records, plans and prices keep the name. The longest are ARNs of Bedrock.
NAME_CHARS = 512

CapPaths = tuple[tuple[str, ...], ...]
Search = Callable[[bytes], object]
ErrorWriter = Callable[[int, str, str, str | None], bytes]


class Dialect:
    """Reads requests, opens usage meters and writes errors of one family of providers.

    Stateless. Subclasses set the class variables and override ``_read_body``.
    """

    name: ClassVar[str] = "passthrough"
    # Paths of members in the body: completion caps, and the number of answers.
    cap_paths: ClassVar[CapPaths] = ()
    n_paths: ClassVar[CapPaths] = ()
    fold_case: ClassVar[bool] = False
    # A search for what a record with usage contains, and the writer of error bodies
    # (tuples of one, because a function in a class would become a method).
    searcher: ClassVar[tuple[Search]] = (USAGE_HIT,)
    error_writer: ClassVar[tuple[ErrorWriter]] = (openai_error,)

    def read_request(
        self, match: PathMatch, body: bytes, query: str, content_type: str
    ) -> RequestFacts:
        """Read the request for admission. Raises DialectError for a 400."""
        fields = None
        if match.endpoint in FORM_ENDPOINTS:
            fields = form_fields(body, content_type)
        if fields is None:
            # JSON, whatever the header says: no server reads a form here.
            facts = self._read_body(match, body)
        else:
            facts = self._read_form(match, fields)
        if facts.max_tokens is not None and facts.max_tokens <= 0:
            facts.max_tokens, facts.endless = None, True
        if len(facts.model) > NAME_CHARS or (
            (facts.models or facts.body_model or facts.tools)
            and max(map(len, facts.checked_models)) > NAME_CHARS
        ):
            raise DialectError("'model' is too long", "model")
        return facts

    def _read_body(self, match: PathMatch, body: bytes) -> RequestFacts:
        return RequestFacts(
            match.endpoint, match.model, bool(match.stream), billable=match.billable
        )

    def _read_form(self, match: PathMatch, fields: FormFields) -> RequestFacts:
        n = to_count(fields.get("n") or None, "n")
        model = fields.get("model") or ""
        return RequestFacts(
            match.endpoint,
            model=match.model or model,
            stream=bool(to_flag(fields.get("stream"), "stream")),
            n=max(1, n or 1),
            user=fields.get("user"),
            prompt_bytes=len(fields.get("prompt", "")),
            billable=match.billable,
            body_model=other_model(match, model),
        )

    def ask_usage(self, body: bytes, facts: RequestFacts) -> bytes | None:
        """The body with a request for usage in the stream; None: body unchanged."""
        return None

    def clamp(
        self, body: bytes, facts: RequestFacts, max_tokens: int | None, n: int | None
    ) -> bytes:
        """The body with its caps lowered, and ``max_tokens`` written in where it is
        absent. Raises DialectError if that fails.
        """
        caps: list[tuple[tuple[str, ...], int]] = []
        absent = facts.max_tokens is None and not facts.endless
        if max_tokens is not None and not absent:
            caps += [(path, max_tokens) for path in self.cap_paths]
        if n is not None:
            caps += [(path, max(1, n // facts.prompts)) for path in self.n_paths]
        if caps:
            body = capped(body, tuple(caps), fold_case=self.fold_case)
        path = self.cap_path(facts) if absent else None
        if max_tokens is None or path is None:
            return body
        return with_cap(body, path, max_tokens, fold_case=self.fold_case)

    def other_cap_name(self, facts: RequestFacts) -> str:
        """The other name of the cap, if servers refuse one of both; "": there is none."""
        return ""

    def cap_path(self, facts: RequestFacts) -> tuple[str, ...] | None:
        """Where a request states its cap; None: its answer has no completion."""
        return None

    def open_meter(
        self,
        match: PathMatch,
        facts: RequestFacts,
        status: int,
        headers: HeaderLookup,
        content_type: bytes,
    ) -> UsageMeter:
        """The usage meter for one answer; ``content_type`` is the answer's."""
        if not (facts.billable and match.billable) or status not in _HTTP_OK:
            return NullMeter()
        kind = framing_of(content_type)
        common = (facts, match)
        if kind in (SSE, NDJSON):
            return StreamMeter(*common, kind, self.searcher[0])
        if kind == OPAQUE:
            return JsonMeter(*common, OPAQUE)
        if kind == "json" and not facts.stream:
            return JsonMeter(*common)
        return SniffMeter(*common, self.searcher[0])

    def error_body(
        self, status: int, code: str, message: str, param: str | None = None
    ) -> bytes:
        """A JSON error body in this dialect."""
        return self.error_writer[0](status, code, message, param)

    def error_headers(self, status: int, code: str) -> list[tuple[bytes, bytes]]:
        """Header fields that this dialect's errors need in addition to the body."""
        return []


_FRAMINGS: dict[bytes, str] = {
    b"application/json": "json",
    b"text/event-stream": SSE,
    b"text/event-stream; charset=utf-8": SSE,
}


def framing_of(content_type: bytes) -> str:
    """sse, ndjson, json, opaque, or "" where the bytes must tell."""
    known = _FRAMINGS.get(content_type)
    if known is not None:
        return known
    kind = content_type.decode("latin-1").partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return SSE
    if kind in _NDJSON_TYPES:
        return NDJSON
    if kind == "application/json" or kind.endswith("+json"):
        return "json"
    return OPAQUE if kind.startswith(_OPAQUE_TYPES) else ""


def other_model(match: PathMatch, named: str | None) -> str:
    """The body's model where the path names another one; else ""."""
    return named if named and match.model and named != match.model else ""


def sum_sizes(
    *texts: Raw, content: tuple[Raw, ...] = (), items: tuple[Raw, ...] = ()
) -> PromptSize:
    """The size of members together. ``content``: messages or their parts. ``items``:
    messages in a list that may also hold what no message has (Responses).
    """
    total = known = 0
    outside = False
    for raw in texts:
        if raw is not EMPTY:
            size, tokens, _ = text_size(raw)
            total += size
            known += tokens
    for place, raw in enumerate((*content, *items)):
        if raw is not EMPTY:
            size, tokens, more = content_size(raw, listed=place >= len(content))
            total += size
            known += tokens
            outside = outside or more
    return PromptSize(total, known, outside)


def cap_of(*values: int | None) -> int | None:
    """The largest cap given; None without one; 0 if one is 0 or less ("unlimited")."""
    given = [v for v in values if v is not None]
    if not given:
        return None
    return max(given) if min(given) > 0 else 0


__all__ = [
    "Dialect",
    "DialectError",
    "cap_of",
    "framing_of",
    "other_model",
    "sum_sizes",
]
