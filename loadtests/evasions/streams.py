"""Cases: clients that leave, hidden usage, odd statements of usage, ends of streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from loadtests.evasions.bodies import CHAT, CHEAP, DEAR, MESSAGES, chat, sent
from loadtests.evasions.stage import ESTIMATE, Case, Client, Known

RESPONSES, ANTHROPIC = "/v1/responses", "/v1/messages"
GEMINI = "/v1beta/models/gemini-2.5-flash:{}"
HIDDEN = "tokens=20,reasoning=2000"
# Path, body, name: the same question in each protocol.
ASK: dict[str, tuple[str, dict[str, Any], str]] = {
    "chat": (CHAT, chat("o3", stream=True), "openai"),
    "responses": (
        RESPONSES,
        {"model": "o3", "input": "tide tide", "stream": True},
        "openai",
    ),
    "messages": (
        ANTHROPIC,
        {
            "model": "claude-sonnet-4-5",
            "max_tokens": 4000,
            "messages": MESSAGES,
            "stream": True,
        },
        "openai",
    ),
    "gemini": (
        GEMINI.format("streamGenerateContent") + "?alt=sse",
        {"contents": [{"parts": [{"text": "tide"}]}]},
        "openai",
    ),
    "ollama": ("/api/chat", {"model": "llama3", "messages": MESSAGES}, "ollama"),
}
MARKS: dict[str, list[bytes]] = {
    "chat": [b"HTTP/1.1", b"tide", b'"finish_reason": "stop"', b"[DONE]"],
    "responses": [b"HTTP/1.1", b"response.created", b"tide", b"response.completed"],
    "messages": [b"HTTP/1.1", b"message_start", b"tide", b"message_delta"],
    "gemini": [b"HTTP/1.1", b"tide", b"usageMetadata"],
    "ollama": [b"HTTP/1.1", b"tide", b'"done": true'],
}


def cuts() -> Iterator[Case]:
    """Streams and answers that their client leaves at various points."""
    for form, (path, body, server) in ASK.items():
        for mark in MARKS[form]:

            async def attack(
                client: Client,
                path: str = path,
                body: Any = body,
                mark: bytes = mark,
            ) -> None:
                await client.post(path, body, knobs=HIDDEN, leave=mark)

            name = f"{form}: left at {mark.decode()}"
            yield Case("cut", name, attack, server=server, slack=ESTIMATE)
        for wait in (0.02, 0.1):

            async def early(
                client: Client,
                path: str = path,
                body: Any = body,
                wait: float = wait,
            ) -> None:
                whole = {**body, "stream": False}
                if "contents" in body:
                    whole.pop("stream")
                target = path.replace("stream", "").replace("Generate", "generate")
                knobs = "tokens=500,reasoning=2000,wait=300"
                await client.post(target, whole, knobs=knobs, after_s=wait)

            name = f"{form}: whole answer, left after {wait} s"
            yield Case("cut", name, early, server=server, slack=ESTIMATE)

    async def half_closed(client: Client) -> None:
        body = json.dumps(ASK["chat"][1]).encode()
        _, writer = await client.open()
        fields = [f"x-mimic: {HIDDEN}"]
        writer.write(client.head("POST", CHAT, fields, length=len(body)) + body)
        writer.write_eof()
        await asyncio.sleep(0.3)
        writer.transport.abort()

    yield Case("cut", "half closed after the request", half_closed, slack=ESTIMATE)

    async def never_read(client: Client) -> None:
        body = json.dumps(ASK["chat"][1]).encode()
        _, writer = await client.open()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        fields = ["x-mimic: tokens=4000"]
        writer.write(client.head("POST", CHAT, fields, length=len(body)) + body)
        await asyncio.sleep(0.5)
        writer.transport.abort()

    yield Case("cut", "an answer that is never read", never_read, slack=ESTIMATE)


USAGES = ["none", "absurd", "negative", "huge", "string", "short", "zero", "null"]


def usages() -> Iterator[Case]:
    """Usage that is absent, absurd or contradicts itself."""
    for form, (path, body, server) in ASK.items():
        for usage in USAGES:
            for stream in (True, False):
                asked, target = dict(body), path
                if not stream:
                    asked["stream"] = False
                    target = path.replace("stream", "").replace("Gen", "gen")
                if "contents" in body:
                    asked.pop("stream", None)
                # The server itself states zero: nobody can know better.
                known = STATED if usage == "zero" else None
                yield sent(
                    "usage",
                    f"{form}: {usage}{', streamed' if stream else ''}",
                    asked,
                    path=target,
                    knobs=f"tokens=300,usage={usage}",
                    server=server,
                    slack=ESTIMATE,
                    known=known,
                )
    for stream in (True, False):
        yield sent(
            "usage",
            f"Gemini: thoughts{', streamed' if stream else ''}",
            ASK["gemini"][1],
            path=GEMINI.format(
                "streamGenerateContent?alt=sse" if stream else "generateContent"
            ),
            knobs=HIDDEN,
        )


STATED = Known("Upstreams**, for token counts")

OPTIONS: list[tuple[str, Any]] = [
    ("absent", None),
    ("false", {"include_usage": False}),
    ("empty", {}),
    ("null", None),
    ("null inside", {"include_usage": None}),
    ("text", {"include_usage": "false"}),
    ("zero", {"include_usage": 0}),
    ("more", {"include_obfuscation": False}),
]


def hiding() -> Iterator[Case]:
    """Usage that the client does not want to be stated."""
    for name, options in OPTIONS:
        body = chat("o3", stream=True)
        if options is not None or name == "null":
            body["stream_options"] = options
        yield sent("hidden usage", f"stream_options {name}", body, knobs=HIDDEN)
    credentials = {
        "AWS4": "Authorization: AWS4-HMAC-SHA256 Credential={}/20260101/us/x/aws4_request,"
        " SignedHeaders=host, Signature=0",
        "AWS4A": "Authorization: AWS4-ECDSA-P256-SHA256 Credential={}/20260101/x, "
        "SignedHeaders=host, Signature=0",
    }
    for name, line in credentials.items():

        async def dressed(client: Client, line: str = line) -> None:
            fields = [line.format(client.key)]
            body = chat("o3", stream=True)
            await client.post(CHAT, body, fields, knobs=HIDDEN, key="")
            await client.post(
                CHAT, body, [*fields, f"x-api-key: {client.key}"], knobs=HIDDEN, key=""
            )

        yield Case("hidden usage", f"key dressed as {name}", dressed)

    async def query(client: Client) -> None:
        path = f"{CHAT}?X-Amz-Credential={client.key}&X-Amz-Signature=0"
        await client.post(path, chat("o3", stream=True), knobs=HIDDEN)
        await client.post(path, chat("o3", stream=True), knobs=HIDDEN, key="")

    yield Case("hidden usage", "X-Amz-Credential in the query", query)
    field = "x-amz-content-sha256: 0"
    yield sent(
        "hidden usage",
        "AWS fields",
        chat("o3", stream=True),
        fields=[field, "x-amz-date: 20260101T000000Z"],
        knobs=HIDDEN,
    )
    yield sent(
        "hidden usage",
        "no stream_options here",
        chat("o3", stream=True),
        knobs=HIDDEN + ",oops=1",
    )
    yield sent(
        "hidden usage",
        "a compressed stream",
        chat("o3", stream=True),
        fields=["Accept-Encoding: br, zstd, gzip"],
        knobs=HIDDEN,
    )
    yield sent(
        "hidden usage",
        "a range of the answer",
        chat("o3"),
        fields=["Range: bytes=0-10", "If-None-Match: *"],
        knobs=HIDDEN,
    )
    yield sent(
        "hidden usage",
        "digests",
        chat("o3", stream=True),
        fields=["Content-MD5: x", "Digest: sha-256=x", "Content-Digest: sha-256=:x:"],
        knobs=HIDDEN,
    )


LISTS: dict[str, dict[str, Any]] = {
    "models": {"models": [DEAR]},
    "models and route": {"models": [CHEAP, DEAR], "route": "fallback"},
    "models alone": {"model": None, "models": [CHEAP, DEAR]},
    "the dear one first": {"model": None, "models": [DEAR, CHEAP]},
    "another spelling": {"models": [f"OpenAI/{DEAR.upper()}:online"]},
    "fallbacks": {"fallbacks": [DEAR]},
    "objects": {"fallbacks": [{"model": DEAR}]},
    "a map": {"context_window_fallbacks": [{CHEAP: [DEAR]}]},
    "nested options": {"providerOptions": {"gateway": {"models": [DEAR]}}},
    "one text": {"model": f"{CHEAP},{DEAR}"},
    "a preset behind the name": {"model": f"{DEAR}@preset/{CHEAP}"},
}


def ends() -> Iterator[Case]:
    """Ends of streams, errors within, answers of another model."""
    for form, (path, body, server) in ASK.items():
        for end in ("nodone", "linger", "cut"):
            yield sent(
                "end",
                f"{form}: {end}",
                body,
                path=path,
                knobs=f"tokens=100,reasoning=500,end={end}",
                server=server,
                slack=ESTIMATE,
            )
        yield sent(
            "end",
            f"{form}: error after 200 tokens",
            body,
            path=path,
            knobs="tokens=1000,error=200",
            server=server,
            slack=ESTIMATE,
        )
    for form, (path, body, server) in ASK.items():
        for stream in (True, False):
            asked, target = dict(body), path
            if not stream:
                asked["stream"] = False
                target = path.replace("stream", "").replace("Gen", "gen")
            if "contents" in body:
                asked.pop("stream", None)
            if form == "ollama":
                # A price of the policy holds for the model that was asked for.
                asked["model"] = CHEAP
            yield sent(
                "other model",
                f"{form}{', streamed' if stream else ''}",
                asked,
                path=target,
                server=server,
                knobs=f"tokens=300,served={DEAR}",
            )
    yield sent(
        "other model", "an alias", chat("openrouter/auto"), knobs=f"served={DEAR}"
    )
    yield sent(
        "other model",
        "a deployment",
        {"messages": MESSAGES},
        path="/openai/deployments/prod/chat/completions",
        knobs=f"served={DEAR}",
    )
    for name, members in LISTS.items():
        # One call for the model that may be used once; none where it is denied.
        for policy, most in (("rules", 1), ("named", 0)):
            yield sent(
                "other model",
                f"a list of fallbacks, {name}",
                chat(**members),
                times=3,
                knobs=f"served={DEAR},tokens=10",
                policy=policy,
                most=most,
            )
        yield sent(
            "other model",
            f"a dear fallback, {name}",
            chat(**members, max_tokens=2000),
            times=3,
            knobs=f"served={DEAR},tokens=2000",
        )
    yield sent(
        "other model",
        "left before its end",
        chat(stream=True),
        knobs=f"served={DEAR},tokens=3000,reasoning=500",
        slack=ESTIMATE,
    )


def cases() -> Iterator[Case]:
    """All of this file."""
    for group in (cuts, usages, hiding, ends):
        yield from group()
