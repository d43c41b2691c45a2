"""Cases: spellings of models, readers that differ, content types, forms, caps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from loadtests.evasions.stage import Case, Client

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "tide tide tide"}]
CHEAP, DEAR = "gpt-4o-mini", "gpt-5-pro"


def chat(model: str = CHEAP, **more: Any) -> dict[str, Any]:
    """A request body of chat."""
    return {"model": model, "messages": MESSAGES} | more


def sent(
    kind: str,
    name: str,
    body: Any,
    *,
    path: str = CHAT,
    fields: list[str] | None = None,
    times: int = 1,
    knobs: str = "",
    form: str = "application/json",
    method: str = "POST",
    **case: Any,
) -> Case:
    """A case of one request, sent ``times`` times."""

    async def attack(client: Client) -> None:
        for _ in range(times):
            await client.post(path, body, fields, knobs=knobs, kind=form, method=method)

    return Case(kind, name, attack, **case)


def raw_chat(inner: str) -> bytes:
    """A chat body with these members, as written, before the messages."""
    return f'{{{inner},"messages":{json.dumps(MESSAGES)}}}'.encode()


SPELLINGS = [
    "GPT-5-PRO",
    "Gpt-5-Pro",
    "openai/gpt-5-pro",
    "OpenAI/GPT-5-pro",
    "models/gpt-5-pro",
    "azure/gpt-5-pro",
    "gpt-5-pro-2025-10-06",
    "gpt-5-pro-latest",
    "openrouter/openai/gpt-5-pro:online",
    " gpt-5-pro",
    "gpt-5-pro ",
    "gpt-5-pro\t",
    "gpt-5-pro\n",
]


def models() -> Iterator[Case]:
    """The dear model, which may be asked once an hour, spelled otherwise."""
    for spelling in SPELLINGS:

        async def attack(client: Client, spelling: str = spelling) -> None:
            await client.post(CHAT, chat(DEAR), knobs="tokens=10")
            for _ in range(2):
                await client.post(CHAT, chat(spelling), knobs="tokens=10")

        yield Case("model", repr(spelling), attack, policy="rules", most=1)
    yield sent(
        "model",
        "escaped letters",
        raw_chat(r'"model":"gpt-5-\u0070ro"'),
        times=2,
        policy="rules",
        most=1,
    )
    yield sent(
        "model",
        "escaped name",
        raw_chat(r'"mod\u0065l":"gpt-5-pro"'),
        times=2,
        policy="rules",
        most=1,
    )
    yield sent(
        "model",
        "null",
        chat() | {"model": None},
        policy="rules",
        knobs="served=gpt-5-pro",
    )
    yield sent("model", "a list", chat() | {"model": [DEAR]}, policy="rules", most=0)
    yield sent("model", "absent", {"messages": MESSAGES}, policy="rules", most=0)
    yield sent(
        "model", "denied, in capitals", chat("OPENAI/GPT-5-PRO"), policy="named", most=0
    )


def readers() -> Iterator[Case]:
    """Bodies that servers read differently."""
    go = {"server": "ollama", "policy": "capped"}
    yield sent(
        "reader",
        "names in capitals",
        raw_chat('"MODEL":"gpt-4o-mini","Max_Tokens":99999,"N":9'),
        **go,
    )
    yield sent(
        "reader",
        "Kelvin sign in max_tokens",
        raw_chat('"model":"gpt-4o-mini","max_tokens":5,"max_to\u212aens":99999'),
        **go,
    )
    yield sent(
        "reader",
        "long s in max_tokens",
        raw_chat('"model":"gpt-4o-mini","max_token\u017f":99999'),
        **go,
    )
    yield sent(
        "reader",
        "escaped Kelvin sign",
        raw_chat('"model":"gpt-4o-mini","max_tokens":5,"max_to\\u212aens":99999'),
        **go,
    )
    yield sent(
        "reader",
        "native API, options in capitals",
        raw_chat('"model":"llama3","OPTIONS":{"NUM_PREDICT":99999}'),
        path="/api/chat",
        **go,
    )
    yield sent(
        "reader",
        "native API, options twice",
        raw_chat(
            '"model":"llama3","options":{"num_predict":5},"Options":{"num_predict":99999}'
        ),
        path="/api/chat",
        **go,
    )
    for server in ("openai", "ollama", "vllm"):
        both = {"server": server, "policy": "capped"}
        yield sent(
            "reader",
            "cap twice, large last",
            raw_chat('"model":"gpt-4o-mini","max_tokens":5,"max_tokens":99999'),
            **both,
        )
        yield sent(
            "reader",
            "cap twice, large first",
            raw_chat('"model":"gpt-4o-mini","max_tokens":99999,"max_tokens":5'),
            **both,
        )
        yield sent(
            "reader",
            "cap twice, one escaped",
            raw_chat(r'"model":"gpt-4o-mini","max_tokens":5,"max_\u0074okens":99999'),
            **both,
        )
        yield sent(
            "reader",
            "model twice",
            raw_chat('"model":"gpt-4o-mini","model":"gpt-5-pro"'),
            times=2,
            server=server,
            policy="rules",
            most=1,
        )
        yield sent(
            "reader",
            "stream twice, hidden reasoning",
            raw_chat('"model":"o3","stream":false,"stream":true'),
            knobs="tokens=10,reasoning=3000",
            server=server,
        )
    yield sent(
        "reader",
        "byte order mark",
        b"\xef\xbb\xbf" + raw_chat('"model":"gpt-4o-mini","max_tokens":99999'),
        server="vllm",
        policy="capped",
    )
    yield sent(
        "reader",
        "UTF-16",
        json.dumps(chat(max_tokens=99999)).encode("utf-16"),
        server="vllm",
        policy="capped",
    )
    yield sent(
        "reader",
        "bytes that are no UTF-8",
        raw_chat('"model":"gpt-4o-mini","max_tokens":99999,"user":"@"').replace(
            b"@", b"\xff"
        ),
        server="ollama",
        policy="capped",
    )
    yield sent(
        "reader",
        "26,000 brackets",
        raw_chat('"model":"o3","stream":true,"pad":[' + "[]," * 26000 + "[]]"),
        knobs="tokens=10,reasoning=3000",
    )
    yield sent(
        "reader",
        "depth of 5,000",
        raw_chat('"model":"gpt-4o-mini","pad":' + "[" * 5000 + "]" * 5000),
        policy="capped",
    )
    yield sent("reader", "two values", json.dumps(chat()).encode() + b"{}", most=0)
    yield sent("reader", "a list around it", [chat()], server="ollama")
    yield sent(
        "reader",
        "NaN and a large number",
        raw_chat('"model":"gpt-4o-mini","seed":NaN,"top":1e999,"max_tokens":99999'),
        server="vllm",
        policy="capped",
    )
    yield sent("reader", "stream as text", chat(stream="true"), knobs="tokens=50")


TYPES = [
    "multipart/form-data; boundary=zz",
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/octet-stream",
    "",
    "application/json, multipart/form-data; boundary=x",
    "APPLICATION/JSON;charset=utf-16",
    "image/png",
]


def types() -> Iterator[Case]:
    """A JSON body called something else."""
    for form in TYPES:
        for server in ("ollama", "vllm"):
            yield sent(
                "content type",
                form or "none",
                chat(max_tokens=99999, n=9),
                form=form,
                server=server,
                policy="capped",
            )
    yield sent(
        "content type",
        "hidden reasoning in a form",
        chat("o3", stream=True),
        form=TYPES[0],
        server="ollama",
        knobs="tokens=10,reasoning=3000",
    )


def multipart(*parts: str) -> bytes:
    """A form of these parts (head and body), and a file."""
    file = 'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF'
    return "".join(f"--zz\r\n{part}\r\n" for part in (*parts, file)).encode() + (
        b"--zz--\r\n"
    )


MODEL_PARTS = {
    "plain": 'Content-Disposition: form-data; name="model"\r\n\r\nwhisper-1',
    "unquoted": "Content-Disposition: form-data; name=model\r\n\r\nwhisper-1",
    "type before": "Content-Type: text/plain\r\n"
    "Content-Disposition: form-data; name=model\r\n\r\nwhisper-1",
    "type after": 'Content-Disposition: form-data; name="model"\r\n'
    "Content-Type: text/plain; charset=utf-8\r\n\r\nwhisper-1",
    "a length": 'Content-Disposition: form-data; name="model"\r\n'
    "Content-Length: 9\r\n\r\nwhisper-1",
    "another parameter": 'Content-Disposition: form-data; name="model"; x=y\r\n\r\n'
    "whisper-1",
    "lower case": 'content-disposition: form-data;name="model"\r\n\r\nwhisper-1',
    "capitals": 'CONTENT-DISPOSITION: FORM-DATA; NAME="model"\r\n\r\nwhisper-1',
    "transfer encoding": 'Content-Disposition: form-data; name="model"\r\n'
    "Content-Transfer-Encoding: 8bit\r\n\r\nwhisper-1",
}


def forms() -> Iterator[Case]:
    """Forms whose fields are hidden."""
    kind = "multipart/form-data; boundary=zz"
    for name, part in MODEL_PARTS.items():
        yield sent(
            "form",
            f"model: {name}",
            multipart(part),
            path="/v1/audio/transcriptions",
            form=kind,
        )
    number = 'Content-Disposition: form-data; name="n"\r\n{}\r\n50'
    model = MODEL_PARTS["plain"].replace("whisper-1", "dall-e-3")
    for name, more in (("plain", ""), ("with a type", "Content-Type: text/plain\r\n")):
        yield sent(
            "form",
            f"n: {name}",
            multipart(number.format(more), model),
            path="/v1/images/edits",
            form=kind,
            policy="capped",
        )
    pad = (
        'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        + "x" * 200_000
    )
    yield sent(
        "form",
        "n between two files",
        multipart(pad, number.format(""), model, pad.replace("image", "mask")),
        path="/v1/images/edits",
        form=kind,
        policy="capped",
    )
    yield sent(
        "form",
        "n twice",
        multipart(number.format("").replace("50", "1"), number.format(""), model),
        path="/v1/images/edits",
        form=kind,
        policy="capped",
    )
    yield sent(
        "form",
        "n as a file",
        multipart(number.format("").replace('"n"', '"n"; filename="n"'), model),
        path="/v1/images/edits",
        form=kind,
        policy="capped",
    )
    yield sent(
        "form",
        "boundary in capitals",
        multipart(number.format(""), model).replace(b"--zz", b"--ZZ"),
        path="/v1/images/edits",
        form="multipart/form-data; BOUNDARY=ZZ",
        policy="capped",
    )
    yield sent(
        "form",
        "two boundaries",
        multipart(number.format(""), model),
        path="/v1/images/edits",
        form="multipart/form-data; boundary=aa; boundary=zz",
        policy="capped",
    )


CAPS: list[tuple[str, dict[str, Any], str]] = [
    ("none", {}, "openai"),
    ("-1", {"max_tokens": -1}, "ollama"),
    ("0", {"max_tokens": 0}, "ollama"),
    (
        "-1 beside a large one",
        {"max_tokens": -1, "max_completion_tokens": 99999},
        "vllm",
    ),
    ("a small one beside", {"max_tokens": 5, "max_completion_tokens": 99999}, "openai"),
    ("null", {"max_tokens": None}, "openai"),
    (
        "null beside a large",
        {"max_tokens": None, "max_completion_tokens": 9999},
        "vllm",
    ),
    ("text", {"max_tokens": "99999"}, "vllm"),
    ("a fraction", {"max_tokens": 99999.0}, "vllm"),
    ("2^64", {"max_tokens": 2**64}, "ollama"),
    ("n = 9", {"max_tokens": 100, "n": 9}, "openai"),
    ("n as text", {"max_tokens": 100, "n": "9"}, "vllm"),
    ("n as a fraction", {"max_tokens": 100, "n": 9.0}, "vllm"),
    ("best_of = 9", {"max_tokens": 100, "best_of": 9}, "vllm"),
    ("a foreign name", {"max_output_tokens": 99999, "max_tokens": 5}, "ollama"),
    ("num_predict", {"options": {"num_predict": 99999}}, "ollama"),
    ("num_predict = -2", {"options": {"num_predict": -2}}, "ollama"),
]


def caps() -> Iterator[Case]:
    """Answers longer, or more of them, than the policy's caps."""
    for name, members, server in CAPS:
        native = "options" in members
        for policy in ("capped", "clamped"):
            yield sent(
                "caps",
                name,
                chat("llama3" if native else CHEAP, **members),
                path="/api/chat" if native else CHAT,
                server=server,
                policy=policy,
            )
    for policy in ("capped", "clamped"):
        yield sent(
            "caps",
            "9 prompts",
            {"model": CHEAP, "prompt": ["tide"] * 9, "max_tokens": 100},
            path="/v1/completions",
            policy=policy,
        )
        yield sent(
            "caps",
            "3 prompts, n = 2",
            {"model": CHEAP, "prompt": ["tide"] * 3, "n": 2, "max_tokens": 100},
            path="/v1/completions",
            policy=policy,
        )
        yield sent(
            "caps",
            "Responses without one",
            {"model": CHEAP, "input": "tide"},
            path="/v1/responses",
            policy=policy,
        )
        yield sent(
            "caps",
            "Gemini, snake case",
            {
                "contents": [{"parts": [{"text": "tide"}]}],
                "generation_config": {"max_output_tokens": 99999},
            },
            path="/v1beta/models/gemini-2.5-flash:generateContent",
            policy=policy,
        )
        yield sent(
            "caps",
            "Gemini, both spellings",
            {
                "contents": [{"parts": [{"text": "tide"}]}],
                "generationConfig": {"maxOutputTokens": 5},
                "generation_config": {"maxOutputTokens": 99999},
            },
            path="/v1beta/models/gemini-2.5-flash:generateContent",
            policy=policy,
        )


def cases() -> Iterator[Case]:
    """All of this file."""
    for group in (models, readers, types, forms, caps):
        yield from group()
