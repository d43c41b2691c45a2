"""Cases: paths, methods, content codings, framing, header fields."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from itertools import product

import brotli

from loadtests.evasions.bodies import CHAT, chat, sent
from loadtests.evasions.stage import Attack, Case, Client

PATHS = [
    "/v1/chat/completions/x/..",
    "/v1/chat/completions/.",
    "/v1/chat/completions/%2e",
    "/v1/x/%2e%2e/chat/completions",
    "/v1/chat/%63ompletions",
    "/v1/chat%2fcompletions",
    "//v1//chat//completions",
    "/v1/chat/completions//",
    "/v1/chat/completions;x=1",
    "/v1;a/chat;b/completions;c",
    "/V1/Chat/Completions",
    "/v1/chat/completions%00",
    "/v1/chat/completions%20",
    "/v1/chat/completions%0a",
    "/v1/chat/completions.",
    "/v1/chat/completions/%2e%2e/%2e%2e/chat/completions",
    "/v1/chat/completions?a=/../x",
    "/v1/chat/completions%3fx",
    "/v1/chat/completions%23x",
    "/v1/chat%5ccompletions",
    "/v1\\chat\\completions",
    "/v1/chat/completions#x",
    "/v1/models/../chat/completions",
    "/v1/models/x/..%2f..%2fchat/completions",
    "/v1/chat/comp%6cetions%2f",
    "/v1/%2563hat/completions",
]
ACCOUNT = [
    "/../internal/x",
    "/%2e%2e/internal/x",
    "/v1/../internal/x",
    "/v1/models/..%2f..%2finternal/x",
    "/v1/chat/completions/../../internal/keys",
    "/internal/x",
    "/v1/files",
    "/v1//files",
    "/v1/models/../files",
    "/v1/FILES",
    "/v1/files;x",
    "/v1/%66iles",
    "/v1/organization/admin_api_keys",
    "/v1/chat/completions",
]
METHODS = ["PUT", "PATCH", "post", "Post", "QUERY", "GET", "HEAD", "OPTIONS", "DELETE"]


def paths() -> Iterator[Case]:
    """The metered path in other spellings, and paths that nobody may reach."""
    body = chat(max_tokens=99999)
    for path in PATHS:
        for server in ("nginx", "tomcat"):
            yield sent("path", path, body, path=path, server=server, policy="capped")
            yield sent(
                "path",
                path,
                chat("o3", stream=True),
                path=path,
                server=server,
                policy="wide",
                knobs="tokens=10,reasoning=500",
            )
    for path in ACCOUNT:
        server = "tomcat" if path in ("/v1/FILES", "/v1/files;x") else "nginx"
        yield sent("account", path, None, path=path, method="GET", server=server)

    async def absolute(client: Client) -> None:
        data = json.dumps(body).encode()
        wire = client.head("POST", CHAT, [], length=len(data))
        target = f"POST http://127.0.0.1:{client.port}/nginx/".encode()
        await client.raw(wire.replace(b"POST /nginx/", target, 1) + data)

    yield Case("path", "absolute form", absolute, server="nginx", policy="capped")

    async def elsewhere(client: Client) -> None:
        data = json.dumps(body).encode()
        wire = client.head("POST", CHAT, [], length=len(data))
        wire = wire.replace(b"POST /", b"POST http://other.example/", 1)
        await client.raw(wire + data)

    yield Case("path", "absolute form, other host", elsewhere, policy="capped")


def methods() -> Iterator[Case]:
    """Other methods, and fields that override them."""
    for method in METHODS:
        for policy in ("capped", "wide"):
            yield sent(
                "method", method, chat(max_tokens=99999), method=method, policy=policy
            )
    for field in (
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "_method",
    ):
        for method, policy in product(("GET", "PUT", "OPTIONS"), ("capped", "wide")):
            yield sent(
                "method",
                f"{method}, {field}: POST",
                chat(max_tokens=99999),
                method=method,
                fields=[f"{field}: POST"],
                policy=policy,
            )
    yield sent(
        "account",
        "POST, overridden: DELETE",
        chat(),
        fields=["X-HTTP-Method-Override: DELETE"],
    )

    async def preflight(client: Client) -> None:
        for _ in range(3):
            fields = ["Access-Control-Request-Method: POST", "Origin: http://x"]
            fields.append("X-HTTP-Method-Override: POST")
            await client.post(CHAT, chat(), fields, method="OPTIONS", key="")

    yield Case("method", "preflight with a body", preflight, most=0)

    async def upgrade(client: Client) -> None:
        fields = ["Access-Control-Request-Method: POST", "Upgrade: websocket"]
        fields.append("Connection: upgrade")
        await client.post(CHAT, None, fields, method="OPTIONS", key="", close=False)

    yield Case("method", "preflight with an upgrade", upgrade, most=0)


def codings() -> Iterator[Case]:
    """Compressed bodies."""
    plain = json.dumps(chat(max_tokens=99999)).encode()
    made = {
        "gzip": gzip.compress(plain),
        "x-gzip": gzip.compress(plain),
        "GZIP": gzip.compress(plain),
        "deflate": zlib.compress(plain),
        "br": brotli.compress(plain),
        "gzip, gzip": gzip.compress(gzip.compress(plain)),
        "gzip, br": brotli.compress(gzip.compress(plain)),
        "identity, gzip": gzip.compress(plain),
        "zstd": plain,
        "exotic": plain,
        "identity": plain,
        ",gzip": gzip.compress(plain),
        "gzip;q=1": gzip.compress(plain),
    }
    for coding, body in made.items():
        yield sent(
            "coding",
            coding,
            body,
            fields=[f"Content-Encoding: {coding}"],
            policy="capped",
        )
    hidden = chat(max_tokens=99999, pad="x" * 30_000_000)
    yield sent(
        "coding",
        "a bomb",
        gzip.compress(json.dumps(hidden).encode()),
        fields=["Content-Encoding: gzip"],
        policy="capped",
    )
    two = gzip.compress(json.dumps(chat(max_tokens=5)).encode()[:-1])
    two += gzip.compress(b',"max_tokens":99999}')
    yield sent(
        "coding",
        "two members",
        two,
        fields=["Content-Encoding: gzip"],
        policy="capped",
    )
    yield sent(
        "coding",
        "junk after the member",
        gzip.compress(plain) + b"junk",
        fields=["Content-Encoding: gzip"],
        policy="capped",
    )
    yield sent(
        "coding",
        "a coding twice",
        gzip.compress(plain),
        fields=["Content-Encoding: identity", "Content-Encoding: gzip"],
        policy="capped",
    )
    yield sent(
        "coding",
        "called gzip, but plain",
        plain,
        policy="capped",
        fields=["Content-Encoding: gzip"],
        server="vllm",
    )
    yield sent(
        "coding",
        "hidden reasoning, compressed",
        gzip.compress(json.dumps(chat("o3", stream=True)).encode()),
        fields=["Content-Encoding: gzip"],
        knobs="tokens=10,reasoning=3000",
    )
    yield sent(
        "coding",
        "a compressed answer",
        chat(),
        fields=["Accept-Encoding: gzip"],
        knobs="tokens=300,coding=gzip",
    )


def framing() -> Iterator[Case]:
    """Chunks, trailers, Expect, pipelines."""
    body = json.dumps(chat(max_tokens=99999)).encode()

    async def chunked(client: Client, ending: bytes = b"0\r\n\r\n") -> None:
        fields = ["Transfer-Encoding: chunked", "Trailer: X-A"]
        wire = client.head("POST", CHAT, fields, length=None)
        for at in range(0, len(body), 7):
            part = body[at : at + 7]
            wire += b"%x;ext=1\r\n%s\r\n" % (len(part), part)
        await client.raw(wire + ending)

    yield Case("framing", "small chunks", chunked, policy="capped")

    async def trailers(client: Client) -> None:
        fields = b"Authorization: Bearer x\r\nX-Request-Id: y\r\n"
        await chunked(client, b"0\r\n" + fields + b"Content-Encoding: gzip\r\n\r\n")

    yield Case("framing", "trailers", trailers, policy="capped")

    async def expect(client: Client) -> None:
        head = client.head("POST", CHAT, ["Expect: 100-continue"], length=len(body))
        await client.raw(head + body)

    yield Case("framing", "Expect: 100-continue", expect, policy="capped")

    async def slow(client: Client) -> None:
        reader, writer = await client.open()
        writer.write(client.head("POST", CHAT, [], length=len(body)))
        for at in range(0, len(body), 20):
            writer.write(body[at : at + 20])
            await asyncio.sleep(0.01)
        await reader.read(100)
        writer.transport.abort()

    yield Case("framing", "a body in small parts", slow, policy="capped")

    async def both(client: Client) -> None:
        fields = ["Transfer-Encoding: chunked"]
        head = client.head("POST", CHAT, fields, length=5)
        await client.raw(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    yield Case("framing", "two lengths", both, policy="capped")

    async def pipeline(client: Client) -> None:
        wire = b""
        for last in (False, False, True):
            data = json.dumps(chat(max_tokens=20)).encode()
            wire += client.head("POST", CHAT, [], length=len(data), close=last) + data
        await client.raw(wire)

    yield Case("framing", "a pipeline", pipeline)
    yield Case(
        "framing", "a pipeline against a limit", pipeline_of(6), policy="few", most=3
    )

    async def hidden(client: Client) -> None:
        inner = client.head("POST", CHAT, [], length=len(body)) + body
        outer = client.head("GET", "/v1/models", [], length=len(inner), kind="")
        await client.raw(outer + inner)

    yield Case("framing", "a request in a GET's body", hidden, policy="capped")

    async def half(client: Client) -> None:
        head = client.head("POST", CHAT, [], length=len(body) + 10)
        await client.raw(head + body, after_s=0.3)

    yield Case("framing", "a body without its end", half, policy="capped")


def pipeline_of(number: int) -> Attack:
    """An attack of so many requests on one connection."""

    async def attack(client: Client) -> None:
        wire = b""
        for index in range(number):
            data = json.dumps(chat(max_tokens=20)).encode()
            last = index == number - 1
            wire += client.head("POST", CHAT, [], length=len(data), close=last) + data
        await client.raw(wire)

    return attack


def cases() -> Iterator[Case]:
    """All of this file."""
    for group in (paths, methods, codings, framing):
        yield from group()
