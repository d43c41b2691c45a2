"""The size of a prompt without parsing it: bytes of text, known tokens, images."""

from __future__ import annotations

import re

from msgspec import Raw

_ARRAY, _OBJECT = b"[{"
_NOTHING_BYTES = 4
_NOTHING = frozenset({b"", b"null", b'""', b"[]", b"{}"})
# Smaller members contain no payload worth excluding.
PAYLOAD_BODY_BYTES = 8 * 1024
# Payloads are probed for every so many bytes; shorter ones count as text.
_STRIDE = 4096
_LONG_STRIDE = 65536
HEAD_BYTES = 1024 * 1024
_PROBE = 512
# A 1024 x 1024 picture in high detail (OpenAI: 765 tokens; Gemini 258, Anthropic 1,398).
IMAGE_TOKENS = 765
_IMAGE = re.compile(
    rb'"type"\s*+:\s*+"(?:image_url|input_image|image)"|"mime_?[tT]ype"\s*+:\s*+"image/'
    rb'|"image"\s*+:\s*+\{'
)
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_"
# Text before the opening quote of a payload: its member name, perhaps with the bracket
# of an array (Ollama's images). Data URLs need no member name.
_PAYLOAD_NAME = re.compile(
    rb'"(?:data|bytes|file_data|b64_json|image|images|audio|body)"\s*+:\s*+\[?\s*+$'
)


def text_size(raw: Raw) -> tuple[int, int]:
    """(bytes of text, known tokens) of a member that becomes part of the prompt."""
    view = memoryview(raw)
    length = len(view)
    # Of a member of megabytes only the head is searched, and probes of the rest.
    text = bytes(view) if length <= HEAD_BYTES else bytes(view[:HEAD_BYTES])
    if length <= _NOTHING_BYTES and text in _NOTHING:
        return 0, 0
    first = text[0]
    if first == _ARRAY and text[1] != _OBJECT:
        tokens = _token_array(text)
        if tokens:
            return 0, tokens * length // len(text)
    known = 0
    # A second bracket: some content is a list of parts, which may include images.
    if (text.find(b"[", 1) > 0 or first == _OBJECT) and b"image" in text[:65536]:
        known = IMAGE_TOKENS * len(_IMAGE.findall(text))
    if length > PAYLOAD_BODY_BYTES:
        length -= payload_bytes(text if length == len(text) else view)
    return length, known


def _token_array(text: bytes) -> int:
    """The number of integers in an array (or an array of arrays) of tokens, else 0."""
    head = text[:64].translate(None, b"[ \t\r\n")
    if not head[:1].isdigit():
        return 0
    return text.count(b",") + 1


def payload_bytes(text: bytes | memoryview) -> int:
    """Bytes of base64 payloads (images, audio, files) inside a JSON text.

    Probes the text at a fixed stride and follows only probes that are all base64 to
    their quotes, so that plain text costs one search for a space per 4 KiB.
    """
    found = 0
    size = len(text)
    stride = _STRIDE if size <= HEAD_BYTES else _LONG_STRIDE
    at = stride
    while at < size:
        probe = bytes(text[at : at + _PROBE])
        if b" " in probe or probe.translate(None, _BASE64):
            at += stride
            continue
        start, end = _quotes_around(text, at)
        if _is_payload(bytes(text[max(0, start - 64) : start + 8]), min(start, 64)):
            found += end - start
        at = end + stride
    return found


def _quotes_around(text: bytes | memoryview, at: int) -> tuple[int, int]:
    """Start and end of the string around ``at``, searched for in steps."""
    low = at
    while low > 0:
        back = max(0, low - _LONG_STRIDE)
        quote = bytes(text[back:low]).rfind(b'"')
        if quote >= 0:
            low = back + quote + 1
            break
        low = back
    high = at
    while high < len(text):
        quote = bytes(text[high : high + _LONG_STRIDE]).find(b'"')
        if quote >= 0:
            return low, high + quote
        high += _LONG_STRIDE
    return low, len(text)


def _is_payload(around: bytes, start: int) -> bool:
    """Whether the string that begins at ``start`` in ``around`` is a payload.

    ``around`` has up to 64 bytes before the string.
    """
    if around.startswith(b"data:", start):
        return True
    before = around[: max(0, start - 1)]
    return _PAYLOAD_NAME.search(before) is not None or before.endswith((b'",', b'", '))
