"""What becomes part of a prompt without being text in the body: payloads of pictures,
sound and files, and references to content that the provider keeps, fetches or searches.

Messages are read by their structure: a payload is one only where an API takes it, so that
a text is a text whatever it begins with. What cannot be read counts as text.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Raw

from gateway.core.model import RequestFacts
from gateway.metering.dialects.requests import EMPTY

# A 1024 x 1024 picture in high detail (OpenAI: 765 tokens; Gemini 258, Anthropic 1,398).
IMAGE_TOKENS = 765
# What is charged for a prompt that is not in the body where nothing states its size.
OUTSIDE_TOKENS = 32_768
# Characters of base64 per token, rather too few: speech of 16 kbit/s (Gemini has 32
# tokens a second), video of 200 kbit/s (263 a second), a PDF with much text.
_CHARS = {"audio": 80, "video": 100, "file": 30}
# How files begin in base64: PNG, JPEG, GIF, WebP, BMP, TIFF, HEIC and AVIF; PDF.
_PICTURES = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0A", "AAAA")
_PDF = "JVBERi"
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_\r\n"
# So much is looked at of every so many characters of a payload.
_PROBE, _STRIDE = 512, 65536
_MIME_CHARS = 256
# More than any API nests.
_DEPTH = 24
_NOTHING = frozenset({b"", b"null", b'""', b"[]", b"{}", b"false"})
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# Words in the ``type`` of a part, and what its payload is.
_KINDS = (
    ("image", "image"),
    ("screenshot", "image"),
    ("audio", "audio"),
    ("video", "video"),
    ("document", "file"),
    ("file", "file"),
)
_MAJOR = frozenset({"image", "audio", "video"})
# Parts that stand for content that the provider keeps.
_REFERENCES = frozenset({"item_reference", "container_upload"})


class Part(msgspec.Struct, gc=False):
    """A message, a part of one or the source of a part, in the spellings of all APIs.

    What a model calls tools with (``input``, ``arguments``) is no member: it is text.
    """

    type: Any = None
    id: Any = None
    # Parts of a message, of a tool's result, of a document.
    content: _Nested = None
    parts: _Nested = None
    output: _Nested = None
    toolResult: _Nested = None  # noqa: N815
    functionResponse: _Nested = None  # noqa: N815
    function_response: _Nested = None
    # Where a part has its payload or reference.
    source: _Nested = None
    inlineData: _Nested = None  # noqa: N815
    inline_data: _Nested = None
    fileData: _Nested = None  # noqa: N815
    file_data: _Nested = None
    image: _Nested = None
    images: _Nested = None
    image_url: _Nested = None
    image_base64: _Nested = None
    audio: _Nested = None
    input_audio: _Nested = None
    audio_url: _Nested = None
    video: _Nested = None
    video_url: _Nested = None
    document: _Nested = None
    document_url: _Nested = None
    file: _Nested = None
    # The payload, and what it is.
    data: _Nested = None
    bytes: _Nested = None
    result: _Nested = None
    bytesBase64Encoded: _Nested = None  # noqa: N815
    media_type: Any = None
    mime_type: Any = None
    mimeType: Any = None  # noqa: N815
    # The reference.
    url: Any = None
    uri: Any = None
    file_id: Any = None
    file_url: Any = None
    fileUri: Any = None  # noqa: N815
    file_uri: Any = None
    gcsUri: Any = None  # noqa: N815
    s3Location: Any = None  # noqa: N815
    attachments: Any = None


_Item: TypeAlias = Part | list[Any] | str | int | float | bool | None
_Nested: TypeAlias = list[_Item] | Part | str | int | float | bool | None

_PLAIN = Part()
_CONTAINERS = (
    "output",
    "toolResult",
    "functionResponse",
    "function_response",
)
# Members with a payload or reference, and what it is; "": as the part or its type says.
_SOURCES = (
    ("source", ""),
    ("inlineData", ""),
    ("inline_data", ""),
    ("fileData", "file"),
    ("file_data", "file"),
    ("image", "image"),
    ("images", "image"),
    ("image_url", "image"),
    ("image_base64", "image"),
    ("audio", "audio"),
    ("input_audio", "audio"),
    ("audio_url", "audio"),
    ("video", "video"),
    ("video_url", "video"),
    ("document", "file"),
    ("document_url", "file"),
    ("file", "file"),
)
_PAYLOADS = ("data", "bytes", "result", "bytesBase64Encoded")
_LINKS = ("url", "uri")
_IDS = ("file_id", "file_url", "fileUri", "file_uri", "gcsUri", "s3Location")
_decode = msgspec.json.Decoder(_Nested).decode


class _Response(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    name: Raw = EMPTY
    id: Raw = EMPTY
    response: Raw = EMPTY


class _TextPart(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A part of a message that is text: no other members are read fast."""

    type: Literal[
        "text",
        "input_text",
        "output_text",
        "tool_use",
        "tool_result",
        "thinking",
        "redacted_thinking",
        "refusal",
    ] = "text"
    text: Raw = EMPTY
    cache_control: Raw = EMPTY
    id: Raw = EMPTY
    name: Raw = EMPTY
    input: Raw = EMPTY
    tool_use_id: Raw = EMPTY
    content: list[_TextPart] | str | None = None
    is_error: Raw = EMPTY
    thinking: Raw = EMPTY
    signature: Raw = EMPTY
    data: Raw = EMPTY
    citations: Raw = EMPTY
    annotations: Raw = EMPTY
    refusal: Raw = EMPTY
    thought: Raw = EMPTY
    thoughtSignature: Raw = EMPTY  # noqa: N815
    functionCall: Raw = EMPTY  # noqa: N815
    functionResponse: _Response | None = None  # noqa: N815
    toolUse: Raw = EMPTY  # noqa: N815


class _TextMessage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    role: Raw = EMPTY
    content: list[_TextPart] | str | None = None
    parts: list[_TextPart] | None = None
    name: Raw = EMPTY
    tool_calls: Raw = EMPTY
    tool_call_id: Raw = EMPTY
    reasoning_content: Raw = EMPTY
    refusal: Raw = EMPTY
    function_call: Raw = EMPTY
    type: (
        Literal["message", "function_call", "function_call_output", "reasoning"] | None
    ) = None
    call_id: Raw = EMPTY
    arguments: Raw = EMPTY
    output: str | None = None
    status: Raw = EMPTY
    summary: Raw = EMPTY
    encrypted_content: Raw = EMPTY


_decode_text = msgspec.json.Decoder(list[_TextMessage | str]).decode


def is_text(messages: bytes) -> bool:
    """Whether messages have none but well-known members of text."""
    try:
        _decode_text(messages)
    except _UNREADABLE:
        return False
    return True


class PromptReader:
    """Reads messages.

    ``payload``: bytes of payloads, which are no text. ``tokens``: those that pictures,
    sound and files are assumed to have. ``outside``: part of the prompt is elsewhere.
    """

    __slots__ = ("outside", "payload", "tokens")

    def __init__(self) -> None:
        self.payload = self.tokens = 0
        self.outside = False

    def read(self, text: bytes, kind: str = "") -> None:
        """Read a member of a body: messages, parts, or (``kind``) payloads."""
        try:
            nested = _decode(text)
        except _UNREADABLE:
            try:  # lone surrogates (truncated emoji) replaced
                repaired = text.replace(b"\\ud", b"\\u0").replace(b"\\uD", b"\\u0")
                nested = _decode(repaired)
            except _UNREADABLE:
                self.outside = True
                return
        self._nested(nested, kind, "", 0)

    def _nested(self, nested: _Nested, kind: str, mime: str, depth: int) -> None:
        if depth > _DEPTH:
            self.outside = True
        elif isinstance(nested, Part):
            self._part(nested, kind, mime, depth)
        elif isinstance(nested, list):
            for item in nested:
                if isinstance(item, Part):
                    self._part(item, kind, mime, depth)
                elif isinstance(item, list):
                    self.outside = self.outside or bool(kind)
                elif isinstance(item, str) and kind:
                    self._string(item, kind, mime)
        elif isinstance(nested, str) and kind:
            self._string(nested, kind, mime)

    def _part(self, part: Part, kind: str, mime: str, depth: int) -> None:
        type_, id_, content, parts = part.type, part.id, part.content, part.parts
        part.type = part.id = part.content = part.parts = None
        if content is not None and content.__class__ is not str:
            self._nested(content, "", "", depth + 1)
        if parts is not None:
            self._nested(parts, "", "", depth + 1)
        if part == _PLAIN:  # most parts: text
            if type_ is None:  # OpenAI's type of a reference may be left out
                self.outside = self.outside or (id_ is not None and content is None)
            elif type_.__class__ is not str or type_ in _REFERENCES:
                self.outside = True
            return
        kind = kind or _kind_of(type_)
        given = part.media_type or part.mime_type or part.mimeType
        mime = given.lower() if isinstance(given, str) else mime
        for name in _CONTAINERS:
            inner = getattr(part, name)
            if inner is not None and not isinstance(inner, str):
                self._nested(inner, "", "", depth + 1)
        for name, its in _SOURCES:
            inner = getattr(part, name)
            if inner is not None and (its or not isinstance(inner, str)):
                self._nested(inner, its or kind or "file", mime, depth + 1)
        self._leaves(part, type_, kind, mime)

    def _leaves(self, part: Part, type_: Any, kind: str, mime: str) -> None:
        if kind and type_ != "text":  # Anthropic's documents of plain text
            for name in _PAYLOADS:
                payload = getattr(part, name)
                if isinstance(payload, str):
                    self._string(payload, kind, mime)
        if kind:
            for name in _LINKS:
                link = getattr(part, name)
                if isinstance(link, str):
                    self._string(link, kind, mime)
        for name in _IDS:
            if getattr(part, name):
                self._refer(kind, mime)
        if part.attachments:
            self.outside = True

    def _string(self, text: str, kind: str, mime: str) -> None:
        """A payload in base64, alone or in a data URL; or a reference."""
        start = 0
        if text[:5].lower() == "data:":
            start = text.find(",", 0, _MIME_CHARS) + 1
            head = text[5:start].lower()
            if not head.endswith(";base64,"):
                return
            mime = head.partition(";")[0]
        elif "://" in text[:_MIME_CHARS]:
            self._refer(kind, mime)
            return
        major = mime.partition("/")[0]
        kind = major if major in _MAJOR else kind
        first = text[start : start + len(_PICTURES[0])]
        if not _is_base64(text, start):
            return
        length = len(text)
        if kind == "image":
            self.tokens += IMAGE_TOKENS
            if length > _PROBE and not first.startswith(_PICTURES):
                kind = "file"  # not a picture, whatever it is called
                self.tokens += length // _CHARS[kind]
        elif kind == "file" and not first.startswith(_PDF):
            # Text counts as such; archives (docx) hold more than their size.
            self.outside = self.outside or not mime.startswith("text/")
            return
        else:
            self.tokens += length // _CHARS[kind] + 1
        self.payload += length

    def _refer(self, kind: str, mime: str) -> None:
        if kind == "image" or mime.startswith("image/"):
            self.tokens += IMAGE_TOKENS
        else:
            self.outside = True


def _kind_of(type_: Any) -> str:
    if isinstance(type_, str):
        for word, kind in _KINDS:
            if word in type_:
                return kind
    return ""


def _is_base64(text: str, start: int) -> bool:
    for at in range(start, len(text), _STRIDE):
        probe = text[at : at + _PROBE]
        if not probe.isascii() or probe.encode().translate(None, _BASE64):
            return False
    return True


def add_outside(
    facts: RequestFacts, tools: Raw, *references: Raw, by_name: bool = False
) -> RequestFacts:
    """Note in ``facts`` that these members, or a tool of the provider, add to its prompt.
    ``by_name``: tools are named by a member, as Google's are.
    """
    for raw in references:
        if raw is not EMPTY and bytes(raw) not in _NOTHING:
            facts.outside = True
    if tools is not EMPTY:
        searches = hosted_by_name(tools) if by_name else hosted_searches(tools)
        if searches:
            facts.outside = True
            facts.searches = searches
    return facts


class _HostedTool(msgspec.Struct, gc=False):
    type: Any = None
    max_uses: Any = None


_tools = msgspec.json.Decoder(list[_HostedTool | None]).decode
_named_tools = msgspec.json.Decoder(list[dict[str, Raw]]).decode
# Tools that run at the client, by the beginning of their type.
_CLIENT_TOOLS = (
    "function",
    "custom",
    "bash_",
    "text_editor_",
    "memory_",
    "computer",
    "local_shell",
    "apply_patch",
)
# Google's tools of which nothing is added to the prompt.
_DECLARED = frozenset(
    {"functionDeclarations", "function_declarations", "computerUse", "computer_use"}
)
# Searches of a tool that states no most of its own, and the most that one may state.
SEARCHES, _SEARCHES_MOST = 20, 1_000


def hosted_searches(tools: Raw) -> int:
    """Searches that a request's tools may make at the provider; 0: none of them adds to
    the prompt.
    """
    if len(bytes(tools)) <= len("null"):
        return 0
    try:
        given = _tools(tools)
    except _UNREADABLE:
        return SEARCHES
    most = 0
    for tool in given:
        if tool is None or tool == _NO_TOOL:
            continue
        type_ = tool.type
        if isinstance(type_, str) and type_.startswith(_CLIENT_TOOLS):
            continue
        uses = tool.max_uses
        known = isinstance(uses, int) and 0 < uses <= _SEARCHES_MOST
        most += uses if known else SEARCHES
    return most


_NO_TOOL = _HostedTool()


def hosted_by_name(tools: Raw) -> int:
    """``hosted_searches`` of Google's tools, which are named by a member."""
    if len(bytes(tools)) <= len("null"):
        return 0
    try:
        given = _named_tools(tools)
    except _UNREADABLE:
        return SEARCHES
    return SEARCHES * sum(bool(tool.keys() - _DECLARED) for tool in given)
