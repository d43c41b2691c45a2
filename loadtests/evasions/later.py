"""Cases: work that is paid later, other units than tokens, WebSocket sessions."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

from loadtests.evasions.bodies import MESSAGES, chat, sent
from loadtests.evasions.stage import (
    CAP,
    ESTIMATE,
    TIGHT,
    Attack,
    Case,
    Client,
    Known,
)

# What the documentation says of work that its clients never fetch, or that has no tokens.
UNFETCHED = Known("Work that nobody fetches stays charged as reserved.")
UNMETERED = Known("Its record stays `unmetered` or `unpriced`")


def work(
    path: str,
    body: Any,
    polls: list[str],
    *,
    times: int = 3,
    knobs: str = "tokens=2000,reasoning=3000",
) -> Attack:
    """An attack that has work accepted and then makes these calls by its id."""

    async def attack(client: Client) -> None:
        found = []
        for _ in range(times):
            reply = await client.post(path, body, knobs=knobs)
            with contextlib.suppress(ValueError, KeyError):
                found.append(json.loads(reply.body)["id"])
        for name in found:
            for poll in polls:
                method, _, target = poll.format(name).partition(" ")
                await client.post(target, method=method, knobs=knobs, kind="")

    return attack


ONE = "GET /v1/responses/{}"
POLLS: dict[str, list[str]] = {
    "never fetched": [],
    "fetched once": [ONE],
    "fetched three times": [ONE] * 3,
    "fetched as a stream": [ONE + "?stream=true"],
    "fetched in part": [ONE + "?include=x&fields=id"],
    "cancelled": ["POST /v1/responses/{}/cancel"],
    "fetched in another spelling": ["GET //v1//responses/{}/", "GET /v1/Responses/{}"],
    "fetched with a foreign key first": [ONE + "?key=x", ONE],
}


def paid_later() -> Iterator[Case]:
    """Background responses, runs, batches, videos."""
    asked: dict[str, Any] = {"model": "o3", "input": "t", "background": True}
    for policy in ("open", "wide"):
        for name, polls in POLLS.items():
            known = None if polls else UNFETCHED
            attack = work("/v1/responses", asked, polls)
            yield Case(
                "background", name, attack, policy=policy, known=known, held=True
            )
    streamed = work("/v1/responses", asked | {"stream": True}, [ONE])
    yield Case("background", "streamed", streamed)
    text = work("/v1/responses", asked | {"background": "true"}, [ONE])
    yield Case("background", "asked for in text", text, server="vllm")
    yield Case(
        "background",
        "against a limit",
        work("/v1/responses", asked | {"max_output_tokens": 5000}, [ONE], times=9),
        policy="tight",
        most_tokens=int(TIGHT * 1.1),
    )
    yield Case(
        "background",
        "against caps",
        work("/v1/responses", asked, [ONE], times=1),
        policy="capped",
    )
    for policy in ("open", "wide"):
        run = {"assistant_id": "a", "model": "gpt-4o-mini"}
        attack = work("/v1/threads/t/runs", run, ["GET /v1/threads/t/runs/{}"])
        yield Case("background", "a run of an assistant", attack, policy=policy)
        yield sent(
            "video",
            "OpenAI's",
            {"model": "sora-2", "prompt": "tide", "seconds": "8"},
            path="/v1/videos",
            policy=policy,
        )
        yield sent(
            "video",
            "Gemini's",
            {"instances": [{"prompt": "tide"}], "parameters": {"durationSeconds": 8}},
            path="/v1beta/models/sora-2:predictLongRunning",
            policy=policy,
        )


def batches() -> Iterator[Case]:
    """Batches in bodies and files."""
    params = {"model": "claude-sonnet-4-5", "max_tokens": 3000, "messages": MESSAGES}
    batch = {"requests": [{"custom_id": str(i), "params": params} for i in range(20)]}
    one = {"contents": [{"parts": [{"text": "tide"}]}]}
    items = {"requests": {"requests": [{"request": one}] * 20}}
    google = "/v1beta/models/gemini-2.5-flash:batchGenerateContent"
    results = "/v1/messages/batches/{}/results"
    for policy in ("wide", "capped", "tight"):
        # None fits a limit of 20,000.
        most = 0 if policy == "tight" else None
        for polls in ([f"GET {results}"], [f"GET {results}"] * 2, []):
            yield Case(
                "batch",
                f"Anthropic's, fetched {len(polls)} times",
                work("/v1/messages/batches", batch, polls, times=1, knobs="tokens=900"),
                policy=policy,
                most_tokens=most,
                known=None if polls else UNFETCHED,
                held=policy == "wide",
            )
        for name in ("inputConfig", "input_config"):
            yield sent(
                "batch",
                f"Gemini's, {name}",
                {"batch": {name: items}},
                path=google,
                policy=policy,
                most_tokens=most,
                knobs=f"tokens={CAP}",
            )
    yield sent(
        "batch",
        "two models",
        {"requests": [{"params": params}, {"params": params | {"model": "o3"}}]},
        path="/v1/messages/batches",
        policy="wide",
    )
    yield sent(
        "batch",
        "a denied model within",
        {"requests": [{"params": params | {"model": "OpenAI/GPT-5-pro"}}]},
        path="/v1/messages/batches",
        policy="named",
        most=0,
    )
    for policy in ("open", "wide", "rules"):
        yield sent(
            "batch",
            "of a file",
            {"input_file_id": "f", "endpoint": "/v1/chat/completions"},
            path="/v1/batches",
            policy=policy,
            known=UNMETERED if policy == "wide" else None,
        )


def other_units() -> Iterator[Case]:
    """Images, characters, audio, searches."""
    for number in (1, 10, "10"):
        yield sent(
            "units",
            f"images, n = {number!r}",
            {"model": "dall-e-3", "prompt": "tide", "n": number},
            path="/v1/images/generations",
            server="vllm",
        )
    yield sent(
        "units",
        "images against the cap of n",
        {"model": "dall-e-3", "prompt": "tide", "n": 10},
        path="/v1/images/generations",
        policy="capped",
    )
    yield sent(
        "units",
        "characters",
        {"model": "tts-1", "input": "tide " * 800, "voice": "x"},
        path="/v1/audio/speech",
    )
    yield sent(
        "units",
        "characters of four bytes",
        {"model": "tts-1", "input": "\U0001f30a" * 800, "voice": "x"},
        path="/v1/audio/speech",
    )
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        yield sent(
            "units",
            f"searches at {path}",
            {"model": "rerank-v3.5", "query": "t", "documents": ["tide"] * 250},
            path=path,
        )
    yield sent(
        "units",
        "embeddings",
        {"model": "text-embedding-3-small", "input": ["tide " * 50] * 40},
        path="/v1/embeddings",
    )
    yield sent(
        "units",
        "embeddings of token ids",
        {"model": "text-embedding-3-small", "input": [[1, 2, 3] * 50] * 9},
        path="/v1/embeddings",
        knobs="usage=none",
        slack=ESTIMATE,
    )


def masked(event: Any, *, parts: int = 1) -> bytes:
    """An event as a client sends it, in so many frames."""
    data = json.dumps(event).encode()
    step = -(-len(data) // parts)
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    wire = b""
    for index, piece in enumerate(pieces):
        first = (0x80 if index == len(pieces) - 1 else 0) | (0 if index else 1)
        wire += bytes([first, 0x80 | 126]) + len(piece).to_bytes(2, "big")
        wire += b"\1\2\3\4" + bytes(b ^ b"\1\2\3\4"[i & 3] for i, b in enumerate(piece))
    return wire


CREATE = {"type": "response.create"}


def session(
    path: str,
    events: list[Any],
    *,
    fields: list[str] | None = None,
    knobs: str = "",
    stay_s: float = 0.6,
    parts: int = 1,
    sessions: int = 1,
) -> Attack:
    """An attack of sessions that send these events and read what comes."""

    async def attack(client: Client) -> None:
        for _ in range(sessions):
            lines = ["Upgrade: websocket", "Connection: Upgrade"]
            lines += ["Sec-WebSocket-Version: 13", *(fields or ())]
            lines += [
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                f"x-mimic: {knobs}",
            ]
            head = client.head("GET", path, lines, length=None, kind="", close=False)
            wire = b"".join(masked(event, parts=parts) for event in events)
            reader, writer = await client.open()
            writer.write(head)
            seen = b""
            try:
                async with asyncio.timeout(stay_s):
                    seen = await reader.readuntil(b"\r\n\r\n")
                    if seen.startswith(b"HTTP/1.1 101"):
                        writer.write(wire)
                    while data := await reader.read(65536):
                        seen += data
            except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
                pass
            writer.transport.abort()
            client.reply(seen)

    return attack


LIVE = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
SETUP = {"setup": {"model": "models/gemini-2.5-flash"}}
TURN = {"client_content": {"turns": [], "turn_complete": True}}
SESSION_PATHS = [
    "/v1/realtime?model=gpt-realtime",
    "/v1/realtime?model=GPT-Realtime",
    "/v1/realtim%65?model=gpt-realtime",
    "/v1/Realtime?model=gpt-realtime",
    "/v1/realtime;a?model=gpt-realtime",
    "/v1/realtime/?model=gpt-realtime",
    "/v1/realtime/.?model=gpt-realtime",
    "//v1//realtime?model=gpt-realtime",
    "/v1/realtime?MODEL=x&model=gpt-realtime",
    "/v1/realtime?model=x&model=gpt-realtime",
    "/openai/realtime?deployment=gpt-realtime",
    "/v1/realtime",
    "/v1/responses",
    "/v1/unknown/stream",
    "/v1/chat/completions",
]


def sessions() -> Iterator[Case]:
    """Sessions in other spellings, left early, against limits."""
    for path in SESSION_PATHS:
        events = [CREATE | {"model": "gpt-realtime", "input": "t"}] * 4
        yield Case("session", path, session(path, events))
    more: list[tuple[str, Attack]] = [
        ("frames in parts", session(SESSION_PATHS[0], [CREATE] * 3, parts=3)),
        (
            "left at once",
            session(
                SESSION_PATHS[0], [CREATE], stay_s=0.1, knobs="wait=300,tokens=1000"
            ),
        ),
        (
            "without a stated model",
            session(SESSION_PATHS[11], [CREATE] * 3, knobs="hide=created"),
        ),
        (
            "another model on the way",
            session(
                SESSION_PATHS[0],
                [{"type": "session.update", "session": {"model": "gpt-5-pro"}}, CREATE],
            ),
        ),
        (
            "compressed frames asked for",
            session(
                SESSION_PATHS[0],
                [CREATE] * 3,
                fields=["Sec-WebSocket-Extensions: permessage-deflate"],
            ),
        ),
        ("Gemini Live", session(LIVE, [SETUP, TURN, TURN])),
        (
            "Gemini Live, camel case",
            session(LIVE, [SETUP, {"clientContent": {"turnComplete": True}}]),
        ),
        ("Gemini Live, one more slash", session("/" + LIVE, [SETUP, TURN])),
        (
            "errors between requests",
            session(SESSION_PATHS[0], [CREATE, {"type": "junk"}] * 6),
        ),
        ("many messages in one packet", session(SESSION_PATHS[0], [CREATE] * 40)),
    ]
    for name, attack in more:
        yield Case("session", name, attack)
    yield Case(
        "session",
        "against a limit of tokens",
        session(SESSION_PATHS[0], [CREATE] * 20, knobs="tokens=3000"),
        policy="tight",
        most_tokens=int(TIGHT * 1.1) + 3050,
    )
    yield Case(
        "session",
        "errors between requests, against a limit",
        session(
            SESSION_PATHS[0],
            [CREATE, {"type": "junk"}] * 20,
            knobs="tokens=3000,wait=20",
        ),
        policy="tight",
        most_tokens=int(TIGHT * 1.1) + 3050,
    )
    yield Case(
        "session",
        "Gemini Live against a limit",
        session(LIVE, [SETUP, *[TURN] * 20], knobs="tokens=3000"),
        policy="tight",
        most_tokens=int(TIGHT * 1.1) + 3050,
    )
    yield Case(
        "session",
        "many sessions against a limit",
        session(SESSION_PATHS[0], [CREATE] * 3, knobs="tokens=3000", sessions=5),
        policy="tight",
        most_tokens=int(TIGHT * 1.1) + 3050,
    )
    yield Case(
        "session",
        "a denied model",
        session("/v1/realtime?model=GPT-5-PRO", [CREATE]),
        policy="named",
        most=0,
    )
    yield Case(
        "session",
        "a denied model in a message",
        session("/v1/responses", [CREATE | {"model": "gpt-5-pro"}]),
        policy="named",
        most=0,
    )
    yield Case(
        "session",
        "client secrets",
        chat_like("/v1/realtime/client_secrets"),
        most=0,
    )


def chat_like(path: str) -> Attack:
    """An attack of one POST."""

    async def attack(client: Client) -> None:
        await client.post(path, chat())

    return attack


def cases() -> Iterator[Case]:
    """All of this file."""
    for group in (paid_later, batches, other_units, sessions):
        yield from group()
