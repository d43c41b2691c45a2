"""Work that is paid later: its id and its state, in the answers that show it.

An answer that accepts such work (a background response, a run, a batch) states no usage.
A later call does: one that polls the work, cancels it, or goes on with it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

import msgspec
from msgspec import Raw

from gateway.metering.dialects.base import SSE
from gateway.metering.dialects.texts import sse_payload

# States: not ended; ended with a usage; failed, which costs what is stated; ended early.
PENDING, DONE, FAILED_WORK, STOPPED = "pending", "done", "failed", "stopped"
_STATES = {
    PENDING: "queued in_progress requires_action cancelling canceling validating"
    " finalizing pending running processing cancellation_requested",
    DONE: "completed succeeded success ended",
    FAILED_WORK: "failed",
    STOPPED: "cancelled canceled expired incomplete timeout_exceeded budget_exceeded",
}
_STATE_OF = {word: state for state, words in _STATES.items() for word in words.split()}
_PREFIXES = re.compile(r"(?:batch|job)_state_")
# Endpoints whose work may be paid later, and the kind of its id.
WORK_OF = {
    "responses": "response",
    "threads.runs": "run",
    "interactions": "interaction",
    "batches": "batch",
    "messages.batches": "message_batch",
    "batch_generate_content": "google_batch",
    "batch_embed_content": "google_batch",
}
# Google's servers answer with a part of an object where this is asked for.
_PART_NAMES = frozenset({"fields", "$fields"})
# Such names, and those that send header fields or change the form of the answer.
_SHAPE_NAMES = _PART_NAMES | {"callback", "$callback", "$httpheaders", "$httpmethod"}
_FORM_NAMES = frozenset({"alt", "$alt"})
# Forms of an answer that are read.
_READ_FORMS = frozenset({"", "json", "sse"})
# A larger answer is not read for its state.
BODY_BYTES = 1024 * 1024
_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")
# Paths of polls, most specific first: (path, endpoint, kind). ``id`` names the work.
_POLLS = tuple(
    (re.compile(path + r"/?$", re.IGNORECASE), endpoint, kind)
    for path, endpoint, kind in (
        (r"/responses/(?P<id>[^/]+)", "responses.retrieve", "response"),
        (r"/threads/[^/]+/runs/(?P<id>[^/]+)", "threads.runs.retrieve", "run"),
        (r"/interactions/(?P<id>[^/]+)", "interactions.retrieve", "interaction"),
        (
            r"/messages/batches/(?P<id>[^/]+)/results",
            "messages.batches.results",
            "message_batch",
        ),
        (
            r"/messages/batches/(?P<id>[^/]+)",
            "messages.batches.retrieve",
            "message_batch",
        ),
        (
            r"/v1(?:alpha|beta)\d*/(?P<id>batches/[^/:]+)",
            "batches.retrieve",
            "google_batch",
        ),
        (r"/batch(?:es|/jobs)/(?P<id>[^/:]+)", "batches.retrieve", "batch"),
    )
)
_CANCEL = re.compile(r"[/:]cancel/?$", re.IGNORECASE)
_CONTINUED = re.compile(r"/runs/(?P<id>[^/]+)/submit_tool_outputs/?$", re.IGNORECASE)

_members = msgspec.json.Decoder(dict[str, Raw]).decode
_text = msgspec.json.Decoder(str).decode
_counts = msgspec.json.Decoder(dict[str, Any]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Poll(NamedTuple):
    """A call that shows the state of work: endpoint, kind of work, id by the path."""

    endpoint: str
    kind: str
    id: str


class WorkState(NamedTuple):
    """What an answer says about work; ``answers``: how many of its requests succeeded."""

    id: str
    state: str
    answers: int = 1


def find_poll(method: str, path: str) -> Poll | None:
    """The poll of a path: GET, or POST that cancels."""
    if method == "POST":
        cancel = _CANCEL.search(path)
        if cancel is None:
            return None
        path = path[: cancel.start()]
    elif method != "GET":
        return None
    for pattern, endpoint, kind in _POLLS:
        found = pattern.search(path)
        if found is not None:
            name, _, _ = endpoint.rpartition(".")
            named = endpoint if method == "GET" else name + ".cancel"
            return Poll(named, kind, unquote(found["id"]))
    return None


def continued_work(path: str) -> str:
    """The id of the run that a call goes on with; "" for any other call."""
    found = _CONTINUED.search(path)
    return "" if found is None else unquote(found["id"])


def asks_for_part(kind: str, query: str) -> bool:
    """Whether the answer may be without the members that state usage."""
    if kind not in ("interaction", "google_batch"):
        return False
    return any(name in _PART_NAMES for name, _ in _parameters(query))


def shaped_answer(query: str) -> str:
    """The parameter by which a request of a Google API has its answer without usage, or
    in a form that is not read; "" without one.

    System parameters: https://cloud.google.com/apis/docs/system-parameters.
    """
    for name, value in _parameters(query):
        form = name in _FORM_NAMES and value.casefold() not in _READ_FORMS
        if form or name in _SHAPE_NAMES:
            return name
    return ""


def _parameters(query: str) -> list[tuple[str, str]]:
    """Names in lower case, and values; as many as fit into a head."""
    pairs = parse_qsl(query, keep_blank_values=True)
    return [(name.casefold(), value) for name, value in pairs]


class WorkReader:
    """Reads the state of work from an answer while its bytes pass."""

    __slots__ = ("_from", "_kind", "_pieces", "_rest", "_size", "_state", "events")

    def __init__(self, kind: str, framing: str) -> None:
        self._kind = kind
        self.events = framing == SSE
        self._state: WorkState | None = None
        # Of a body, until it is too large; of a stream, the event that has not ended.
        self._pieces: list[bytes] = []
        self._size = 0
        self._rest = bytearray()
        self._from = 0

    def feed(self, data: bytes) -> None:
        """Keep a body, or read the events that name a state."""
        if self.events:
            self._read_events(data)
            return
        self._size += len(data)
        if self._size <= BODY_BYTES:
            self._pieces.append(data)
        else:
            self._pieces.clear()

    def _read_events(self, data: bytes) -> None:
        rest, end = self._rest, 0
        rest += data
        for found in _BLANK_LINE.finditer(rest, self._from):
            self._read_event(bytes(rest[end : found.start()]))
            end = found.end()
        del rest[:end]
        if len(rest) > BODY_BYTES:
            del rest[:]
        # A line end may be split over two reads.
        self._from = max(0, len(rest) - 3)

    def _read_event(self, event: bytes) -> None:
        if b'"status"' in event:
            self._state = _state_of_event(self._kind, event) or self._state

    def state(self) -> WorkState | None:
        """The last state that the answer named; None: it named none."""
        if self.events:
            self._read_event(bytes(self._rest))
        elif self._pieces:
            self._state = _state_of(self._kind, b"".join(self._pieces))
        return self._state


def _state_of_event(kind: str, event: bytes) -> WorkState | None:
    try:
        members = _members(sse_payload(event))
        holder = members.get(kind)
        if holder is None:  # runs: the event's data is the run itself
            return _state_in(kind, members) if kind == "run" else None
        return _state_in(kind, _members(holder))
    except _UNREADABLE:
        return None


def _state_of(kind: str, body: bytes) -> WorkState | None:
    try:
        return _state_in(kind, _members(body))
    except _UNREADABLE:
        return None


def _state_in(kind: str, members: dict[str, Raw]) -> WorkState | None:
    """Raises what msgspec does for members of another type."""
    if kind == "run" and _string(members.get("object")) != "thread.run":
        return None  # a step or a message, which have a status of their own
    if kind == "google_batch":
        return _state_of_google(members)
    id_ = _string(members.get("id"))
    word = _string(members.get("processing_status") or members.get("status"))
    state = _STATE_OF.get(word.lower())
    if not id_ or state is None:
        return None
    if state != PENDING and kind.endswith("batch"):
        return _state_of_batch(kind, WorkState(id_, state), members)
    if word == "requires_action" and kind == "interaction":
        state = DONE  # the next one goes on with it, and this one states its usage
    return WorkState(id_, state)


def _state_of_batch(kind: str, found: WorkState, members: dict[str, Raw]) -> WorkState:
    """Only requests that succeeded are billed."""
    raw = members.get("request_counts")
    counts = {} if raw is None else _counts(raw)
    done = counts.get("succeeded", counts.get("completed"))
    if done == 0:
        return found._replace(state=FAILED_WORK)
    if kind == "message_batch":
        # Anthropic states what they used only with their results.
        return found._replace(state=PENDING)
    return found._replace(answers=done) if isinstance(done, int) else found


def _state_of_google(members: dict[str, Raw]) -> WorkState | None:
    raw = members.get("metadata")
    metadata = {} if raw is None else _members(raw)
    id_ = _string(members.get("name"))
    word = _string(metadata.get("state") or members.get("state"))
    state = _STATE_OF.get(_PREFIXES.sub("", word.lower()))
    if state is None and bytes(members.get("done", b"")) == b"true":
        state = FAILED_WORK if "error" in members else DONE
    return WorkState(id_, state) if id_ and state is not None else None


def _string(raw: Raw | None) -> str:
    return "" if raw is None or not bytes(raw).startswith(b'"') else _text(raw)
