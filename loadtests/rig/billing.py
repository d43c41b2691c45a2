"""Mock upstreams that read requests as known servers do, and bill what they generate.

``upstreams.py`` starts one server for each name in ``SERVERS``; all write to one ledger of
bills by request id. A request's ``x-mimic`` field (``tokens=500,reasoning=9000``) says
how much the model would write if nothing capped it, and how the server behaves.

openai: strict JSON with the last of equal names, strict paths, exact names.
ollama: Go's encoding/json: names in any case (also Kelvin and long s), the last of equal
names; any Content-Type; a cap below 1 is endless.
vllm: pydantic: unknown names ignored, numbers in strings accepted, the first of equal
names (so that both orders are tried).
nginx: decodes, merges slashes and resolves dots, has a location for internal use; passes
the rest to the openai server. tomcat: the same with any case and without ``;parameters``.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import posixpath
import re
import zlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import brotli
import msgspec

SERVERS = ("openai", "ollama", "vllm", "nginx", "tomcat")
# What a model writes when nothing caps it.
LONG = 5000
PER_EVENT = 50
WORD = " tide"
# usd per million tokens (input, output) as the providers state them; that of llama3 is
# in the gateway's configuration.
PRICES = {
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-5-pro": (15.0, 120.0),
    "o3": (2.0, 8.0),
    "claude-sonnet-4-5": (3.0, 15.0),
    "gemini-2.5-flash": (0.30, 2.50),
    "llama3": (1.0, 2.0),
    "gpt-realtime": (4.0, 16.0),
    "text-embedding-3-small": (0.02, 0.0),
    "command-r": (0.15, 0.60),
}
# usd each: images, characters, hours of audio, units of search, seconds of video.
UNIT_PRICES = {
    "dall-e-3": 0.04,
    "tts-1": 15e-6,
    "whisper-1": 0.36,
    "rerank-v3.5": 0.002,
    "sora-2": 0.1,
}


class RefusedError(Exception):
    """The server answers an error and bills nothing."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Bill(msgspec.Struct):
    """What one answer costs: tokens, and usd by the model that served it."""

    server: str
    path: str
    model: str = ""
    prompt: int = 0
    completion: int = 0
    usd: float = 0.0
    choices: int = 1
    account: bool = False  # no work but access to the provider's account


class Ledger:
    """Bills by request id, and the ids of all requests seen."""

    def __init__(self) -> None:
        self.bills: dict[str, list[Bill]] = defaultdict(list)
        self.seen: dict[str, list[Call]] = defaultdict(list)

    def add(self, call: Call, bill: Bill) -> None:
        """Add the price of the bill's tokens, and keep it."""
        price = PRICES.get(plain_model(bill.model))
        if price is not None:
            bill.usd += (bill.prompt * price[0] + bill.completion * price[1]) / 1e6
        self.bills[call.id].append(bill)

    def of(self, case: str) -> list[Bill]:
        """Bills of a case, whose request ids begin with its name and ``-``."""
        found = [b for i, b in self.bills.items() if i.startswith(case + "-")]
        return [bill for bills in found for bill in bills]

    def reached(self, case: str) -> list[Call]:
        """Requests of a case that reached an upstream."""
        found = [c for i, c in self.seen.items() if i.startswith(case + "-")]
        return [call for calls in found for call in calls]


def plain_model(name: str) -> str:
    """The model that a provider serves under this name."""
    name = name.strip().lower().rpartition("/")[2]
    return re.sub(r"-20\d\d-\d\d-\d\d$|-latest$|:[a-z]+$", "", name)


class Call:
    """One request as it came to an upstream."""

    def __init__(self, server: str, head: bytes) -> None:
        self.server = server
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = first.split(" ", 2)
        self.path, _, self.query = self.target.partition("?")
        self.fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            self.fields[name.lower()] = value.strip()
        self.body = b""
        pairs = (p.partition("=") for p in self.field("x-mimic").split(",") if p)
        self.knobs = {name.strip(): value for name, _, value in pairs}
        self.json: dict[str, Any] = {}

    def field(self, name: str) -> str:
        return self.fields.get(name, "")

    @property
    def id(self) -> str:
        return self.field("x-request-id")

    def number(self, name: str, default: int = 0) -> int:
        """A number of ``x-mimic``."""
        return int(self.knobs.get(name, default))


def go_fold(name: str) -> str:
    """A name as Go compares it."""
    return name.replace("\u212a", "k").replace("\u017f", "s").lower()


def read_json(server: str, call: Call) -> dict[str, Any]:
    """The body as this server reads it. Raises RefusedError."""
    body = decoded(call)
    kind = call.field("content-type").lower()
    if "form-data" in kind and server != "ollama":
        return read_form(body, kind)
    if server == "openai" and "json" not in kind:
        raise RefusedError(415)

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if server == "ollama":
            return {go_fold(name): value for name, value in found}
        return dict(reversed(found)) if server == "vllm" else dict(found)

    try:
        text = body.decode("utf-8-sig" if server == "vllm" else "utf-8")
        read = json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        raise RefusedError(400) from None
    if not isinstance(read, dict):
        raise RefusedError(400)
    return read


def decoded(call: Call) -> bytes:
    """The body without its content codings."""
    body = call.body
    decoders: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.decompress,
        "x-gzip": gzip.decompress,
        "deflate": zlib.decompress,
        "br": brotli.decompress,
        "identity": bytes,
        "": bytes,
    }
    for coding in reversed(call.field("content-encoding").lower().split(",")):
        decode = decoders.get(coding.strip())
        if decode is None:
            raise RefusedError(415)
        try:
            body = decode(body)
        except Exception:  # noqa: BLE001 - each library has its own
            raise RefusedError(400) from None
    return body


def read_form(body: bytes, kind: str) -> dict[str, Any]:
    """Fields of a form; a field with a file name is a file."""
    found = re.search(r'boundary="?([^";]+)', kind, re.IGNORECASE)
    if not found:
        raise RefusedError(400)
    fields: dict[str, Any] = {}
    for part in body.split(b"--" + found[1].encode())[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="?([^";\r\n]+)', head, re.IGNORECASE)
        if name:
            text = value.removesuffix(b"\r\n").decode("latin-1")
            fields[name[1].decode().strip()] = text if b"filename" not in head else ""
            if name[1] == b"file":
                fields["file"] = text
    return fields


def whole(server: str, value: Any, least: int = 1) -> int | None:
    """A cap as this server reads it; None: endless."""
    if value is None:
        return None
    if server == "ollama" and isinstance(value, int):
        return value if value > 0 else None
    if server == "vllm" and isinstance(value, str | float):
        try:
            value = int(float(value))
        except ValueError:
            raise RefusedError(400) from None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RefusedError(400)
    return value


CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")


def work(call: Call) -> Bill:
    """What this request makes the server generate. Raises RefusedError."""
    server, body = call.server, call.json
    options = body.get("options")
    config = body.get("generationConfig") or body.get("generation_config")
    places = [body, *(p for p in (options, config) if isinstance(p, dict))]
    names = [*CAPS, "maxOutputTokens", "maxoutputtokens"]
    caps = [
        whole(server, place[n])
        for place in places
        for n in names
        if place.get(n) is not None
    ]
    found = [cap for cap in caps if cap is not None]
    # Where several are given, the largest: servers differ in the one that they prefer.
    cap = max(found) if found and None not in caps else None
    wanted = call.number("tokens", LONG) + call.number("reasoning")
    completion = wanted if cap is None else min(cap, wanted)
    choices = whole(server, body.get("n")) or 1
    choices = max(choices, whole(server, body.get("best_of")) or 1)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        choices *= len(prompt)
    model = call.knobs.get("served") or str(body.get("model") or "")
    size = len(json.dumps([body.get(n) for n in ("messages", "input", "prompt")])) // 4
    return Bill(server, call.path, model, size, completion * choices, choices=choices)


def normal_path(path: str, *, fold: bool) -> str:
    """A path as nginx (or, with ``fold``, a lax server) understands it."""
    path = unquote(path)
    if fold:
        path = re.sub(r";[^/]*", "", path).lower()
    path = re.sub(r"//+", "/", path)
    path = posixpath.normpath(path.split("\0")[0])
    return path.rstrip("/ .") or "/"


async def read_call(server: str, reader: asyncio.StreamReader) -> Call | None:
    """The next request of a connection; None at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    call = Call(server, head[:-4])
    if "chunked" in call.field("transfer-encoding").lower():
        parts = []
        while size := int((await reader.readline()).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readline()
        while (await reader.readline()).strip():
            pass
        call.body = b"".join(parts)
    elif length := call.field("content-length"):
        call.body = await reader.readexactly(int(length))
    return call


def head(status: int, kind: str, length: int | None, more: str = "") -> bytes:
    """A response head; ``length`` None: chunked."""
    framing = (
        "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    )
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{framing}\r\n{more}\r\n"
    ).encode()
