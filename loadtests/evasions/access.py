"""Cases: credentials and names that make another user, and limits near their edge."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from loadtests.evasions.bodies import CHAT, CHEAP, DEAR, MESSAGES, chat
from loadtests.evasions.stage import (
    ESTIMATE,
    OVERDRAFT,
    TIGHT,
    Attack,
    Case,
    Client,
    key_of,
)

JUNK = [
    "x-api-key: junk{}",
    "x-goog-api-key: junk{}",
    "api-key: junk{}",
    "Authorization: Bearer junk{}",
    "Authorization: Basic anVuaw=={}",
    "Cookie: key=junk{}",
    "X-Forwarded-For: 8.8.8.{}",
    "Forwarded: for=8.8.8.{}",
    "X-Real-IP: 8.8.8.{}",
    "X-User: junk{}",
    "X-Tenant: junk{}",
    "anthropic-version: {}",
    "OpenAI-Organization: org{}",
    "x-tidegate-verdict: {}",
    "True-Client-IP: 8.8.8.{}",
]


def users() -> Iterator[Case]:
    """More requests than a user has, by a new identity for each."""
    for line in JUNK:
        for place in ("before", "after"):
            if place == "before" and not line.startswith(("Auth", "x-api", "api")):
                continue

            async def attack(
                client: Client, line: str = line, place: str = place
            ) -> None:
                for number in range(6):
                    junk = line.format(number)
                    real = f"Authorization: Bearer {client.key}"
                    fields = [junk, real] if place == "before" else [real, junk]
                    await client.post(
                        CHAT, chat(max_tokens=20), fields, knobs="tokens=10", key=""
                    )

            name = f"{line.partition(':')[0]}: junk {place} the key"
            yield Case("identity", name, attack, policy="few", most=3)
    for name, spelled in {
        "bearer": "authorization: bearer {}",
        "tabs": "Authorization: Bearer\t{}",
        "spaces": "Authorization:   Bearer   {}  ",
        "x-api-key": "x-api-key: {}",
        "x-goog-api-key": "x-goog-api-key: {}",
        "api-key": "api-key: {}",
        "protocol": "Sec-WebSocket-Protocol: openai-insecure-api-key.{}",
        "quoted": 'Authorization: Bearer "{}"',
    }.items():

        async def spelling(client: Client, spelled: str = spelled) -> None:
            body = chat(max_tokens=20)
            for _ in range(3):
                await client.post(CHAT, body, knobs="tokens=10")
            for _ in range(2):
                fields = [spelled.format(client.key)]
                await client.post(CHAT, body, fields, knobs="tokens=10", key="")

        yield Case("identity", f"the key as {name}", spelling, policy="few", most=3)

    async def in_query(client: Client) -> None:
        for number in range(6):
            path = f"{CHAT}?key=junk{number}"
            await client.post(path, chat(max_tokens=20), knobs="tokens=10")

    yield Case("identity", "another key in the query", in_query, policy="few", most=3)


def names() -> Iterator[Case]:
    """Users that a body names."""
    fields: list[dict[str, Any]] = [
        {"user": "ops"},
        {"metadata": {"user_id": "ops"}},
        {"safety_identifier": "ops"},
        {"user": "user:ops"},
        {"user": " ops"},
    ]
    for policy in ("few", "named", "body"):
        for more in fields:

            async def attack(client: Client, more: Any = more) -> None:
                for _ in range(6):
                    body = chat("command-r", max_tokens=20, **more)
                    await client.post(CHAT, body, knobs="tokens=10")

            yield Case("body's user", str(more), attack, policy=policy, most=3)

    async def victim(client: Client) -> None:
        other = key_of("few", 249)
        for name in ("key_0000000000000000", "anonymous", other, "x" * 300):
            for _ in range(3):
                await client.post(
                    CHAT, chat(max_tokens=20, user=name), knobs="tokens=5"
                )
        reply = await client.post(
            CHAT, chat(max_tokens=20), knobs="tokens=5", key=other
        )
        client.expect(holds=reply.status == 200, trouble="another user was refused")

    yield Case("body's user", "another's id", victim, policy="few")


def parallel(
    body: dict[str, Any],
    number: int,
    knobs: str,
    *,
    training: int = 0,
    path: str = CHAT,
) -> Attack:
    """An attack of parallel calls after short ones."""

    async def attack(client: Client) -> None:
        for _ in range(training):
            await client.post(CHAT, chat(max_tokens=20), knobs="tokens=1")
        calls = [client.post(path, body, knobs=knobs) for _ in range(number)]
        await asyncio.gather(*calls, return_exceptions=True)

    return attack


def edges() -> Iterator[Case]:
    """Limits of tokens, overrun by what is open."""
    bound = int(TIGHT * (1 + OVERDRAFT))
    many = {
        "trained down, caps of 3,000": (
            parallel(chat(max_tokens=3000), 30, "tokens=3000", training=25),
            bound,
        ),
        "trained down, streams of 3,000": (
            parallel(
                chat(max_tokens=3000, stream=True), 30, "tokens=3000", training=25
            ),
            bound,
        ),
        "n = 8": (parallel(chat(max_tokens=500, n=8), 20, "tokens=500"), bound),
        "9 prompts": (
            parallel(
                {"model": CHEAP, "prompt": ["tide"] * 9, "max_tokens": 400},
                20,
                "tokens=400",
                path="/v1/completions",
            ),
            bound,
        ),
        "small cap beside a large one": (
            parallel(chat(max_tokens=5, max_completion_tokens=3000), 20, "tokens=3000"),
            bound,
        ),
        "a cap beyond the limit": (
            parallel(chat(max_tokens=10**6), 20, "tokens=4000"),
            bound + 4100,
        ),
        "no cap": (parallel(chat(), 20, "tokens=4000"), bound + 4100),
        "no cap, streams": (
            parallel(chat(stream=True), 20, "tokens=4000"),
            bound + 4100,
        ),
        "hidden reasoning within the cap": (
            parallel(
                chat("o3", max_completion_tokens=3000, stream=True),
                20,
                "tokens=10,reasoning=2990",
            ),
            bound,
        ),
        "a large prompt": (
            parallel(
                {
                    "model": CHEAP,
                    "max_tokens": 10,
                    "messages": [{"role": "user", "content": "tide " * 4000}],
                },
                20,
                "tokens=10",
            ),
            int(TIGHT * 1.35),
        ),
    }
    for name, (attack, most) in many.items():
        yield Case("limit", name, attack, policy="tight", most_tokens=most)
    yield Case(
        "limit",
        "one endless stream, cut",
        parallel(chat(stream=True), 1, "tokens=60000,pause=5"),
        policy="cut",
        # What was on its way when the stream was cut.
        most_tokens=bound + 4000,
        slack=ESTIMATE,
    )

    async def leaving(client: Client) -> None:
        body = chat("o3", stream=True, max_completion_tokens=3000)
        for _ in range(20):
            knobs = "tokens=100,reasoning=2900"
            await client.post(CHAT, body, knobs=knobs, leave=b"tide")

    yield Case(
        "limit",
        "streams that are left",
        leaving,
        policy="tight",
        most_tokens=bound,
        slack=ESTIMATE,
    )

    async def models(client: Client) -> None:
        async def one(model: str) -> None:
            await client.post(CHAT, chat(model, max_tokens=20), knobs="tokens=10")

        spelled = [DEAR, DEAR.upper(), f"openai/{DEAR}", f"{DEAR}-2025-10-06"]
        await asyncio.gather(*(one(model) for model in spelled * 3))

    yield Case(
        "limit", "parallel calls in many spellings", models, policy="rules", most=1
    )

    async def names_of_models(client: Client) -> None:
        for spelled in ("llama3", "LLAMA3", "meta/llama3", "Llama3:latest", "x/llama3"):
            body = {"model": spelled, "messages": MESSAGES, "max_tokens": 20}
            body["user"] = f"u{spelled}"
            await client.post(CHAT, body, knobs="tokens=10")

    yield Case(
        "limit",
        "counted per model, in many spellings",
        names_of_models,
        policy="body",
        most=3,
    )


def cases() -> Iterator[Case]:
    """All of this file."""
    for group in (users, names, edges):
        yield from group()
