"""What the servers of ``billing.py`` answer, and when each amount is billed."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

from loadtests.rig.billing import (
    LONG,
    PER_EVENT,
    UNIT_PRICES,
    WORD,
    Bill,
    Call,
    Ledger,
    RefusedError,
    go_fold,
    head,
    plain_model,
    read_json,
    work,
)

_JSON = "application/json"
_SSE = "text/event-stream"
# Bills of work that is paid later, by its id.
_LATER: dict[str, list[Bill]] = {}
# The provider's account, which no client may reach.
_ACCOUNT = re.compile(
    r"^/(internal.*|v1/files.*|v1/organization.*|v1/realtime/client_secrets"
    r"|v1/models/.*delete|v1/api_keys.*)$"
)


async def answer(
    ledger: Ledger, call: Call, reader: asyncio.StreamReader, out: asyncio.StreamWriter
) -> None:
    """Answer one request. Raises RefusedError."""
    if call.field("upgrade"):
        await session(ledger, call, reader, out)
        return
    path = call.path if call.server != "openai" else call.path.rstrip("/")
    method = call.field("x-http-method-override") or call.method
    account = _ACCOUNT.match(path) or re.match(r"^/v1/chat/completions/\w+$", path)
    if account or (path == "/v1/chat/completions" and method in ("GET", "DELETE")):
        ledger.add(call, Bill(call.server, path, account=True))
        respond(out, {"data": []})
        return
    if method == "GET" or path.endswith("/cancel"):
        fetch(call, path, out)
        return
    if method not in ("POST", "PUT", "PATCH"):
        raise RefusedError(405)
    if "/models/" not in path and call.server == "ollama":
        path = path.replace("/v1beta/openai", "/v1")
    call.json = read_json(call.server, call)
    await post(ledger, call, path, reader, out)


async def post(
    ledger: Ledger,
    call: Call,
    path: str,
    reader: asyncio.StreamReader,
    out: asyncio.StreamWriter,
) -> None:
    """Answer a POST."""
    google = re.search(r"/models/([^/:]+):(\w+)$", path)
    if google:
        call.json.setdefault("model", google[1])
    deployed = re.search(r"/deployments/([^/]+)/", path)
    if deployed:
        call.json.setdefault("model", deployed[1])
    if later(ledger, call, path, google[2] if google else "", out):
        return
    if units(ledger, call, path, out):
        return
    bill = work(call)
    if google and google[2] in ("generateContent", "streamGenerateContent"):
        form = "gemini"
        stream = google[2] == "streamGenerateContent"
    else:
        form = next((f for end, f in FORMS.items() if path.endswith(end)), "")
        stream = call.json.get("stream", form == "ollama") is True
    if not form:
        raise RefusedError(404)
    if form == "embeddings":
        bill.completion = 0
    if "oops" in call.knobs and "stream_options" in call.json:
        raise RefusedError(400)
    if not stream:
        wait = call.number("wait")
        ledger.add(call, bill)
        if wait:
            await asyncio.sleep(wait / 1000)
        text = WORD * (bill.completion - call.number("reasoning") * bill.choices)
        answered = ANSWERS[form](bill, text, stated(call, bill, form))
        respond(out, answered, coded=call.knobs.get("coding", ""))
        return
    await flow(ledger, call, bill, form, reader, out)


FORMS = {
    "/v1/chat/completions": "chat",
    "/chat/completions": "chat",
    "/v1/completions": "chat",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/embeddings": "embeddings",
    "/api/chat": "ollama",
    "/api/generate": "ollama",
}


def stated(call: Call, bill: Bill, form: str) -> dict[str, Any] | None:
    """The usage that the answer states, in the names of its API."""
    how = call.knobs.get("usage", "")
    reasoning = call.number("reasoning")
    prompt: Any = bill.prompt
    completion: Any = bill.completion
    if how in ("none", "null"):
        return None
    values = {
        "absurd": 2**63,
        "negative": -completion,
        "huge": 1e308,
        "string": str(completion),
        "zero": 0,
    }
    completion = values.get(how, completion)
    prompt = -prompt if how == "negative" else prompt
    names = {
        "chat": ("prompt_tokens", "completion_tokens", "total_tokens"),
        "embeddings": ("prompt_tokens", "completion_tokens", "total_tokens"),
        "responses": ("input_tokens", "output_tokens", "total_tokens"),
        "messages": ("input_tokens", "output_tokens", ""),
        "gemini": ("promptTokenCount", "candidatesTokenCount", "totalTokenCount"),
        "ollama": ("prompt_eval_count", "eval_count", ""),
    }[form]
    total = 1 if how == "short" else bill.prompt + bill.completion
    usage = dict(zip(names, (prompt, completion, total), strict=True))
    usage.pop("", None)
    if form == "gemini" and reasoning:
        usage["candidatesTokenCount"] = completion - reasoning
        usage["thoughtsTokenCount"] = reasoning
    if how == "early":
        usage[names[1]] = 1
    return usage


def _chat(bill: Bill, text: str, usage: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "text": text}
    return {"id": "c", "model": bill.model, "choices": [choice], "usage": usage}


def _responses(bill: Bill, text: str, usage: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text}]
    output = [{"type": "message", "role": "assistant", "content": content}]
    answer = {"id": "resp_1", "object": "response", "status": "completed"}
    return answer | {"model": bill.model, "output": output, "usage": usage}


def _messages(bill: Bill, text: str, usage: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": text}]
    answer = {"id": "m", "type": "message", "role": "assistant", "content": content}
    return answer | {"model": bill.model, "stop_reason": "end_turn", "usage": usage}


def _gemini(bill: Bill, text: str, usage: Any) -> dict[str, Any]:
    candidate = {"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}
    answer = {"candidates": [candidate], "modelVersion": bill.model}
    return answer | ({"usageMetadata": usage} if usage else {})


def _ollama(bill: Bill, text: str, usage: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    answer = {"model": bill.model, "message": message, "response": text, "done": True}
    return answer | (usage or {})


def _embeddings(bill: Bill, _text: str, usage: Any) -> dict[str, Any]:
    return {"model": bill.model, "data": [{"embedding": [0.1]}], "usage": usage}


ANSWERS = {
    "chat": _chat,
    "responses": _responses,
    "messages": _messages,
    "gemini": _gemini,
    "ollama": _ollama,
    "embeddings": _embeddings,
}


def respond(out: asyncio.StreamWriter, value: Any, coded: str = "") -> None:
    """Write a JSON answer."""
    body = json.dumps(value).encode()
    more = ""
    if coded == "gzip":
        body, more = gzip.compress(body), "Content-Encoding: gzip\r\n"
    out.write(head(200, _JSON, len(body), more) + body)


# -- streams ------------------------------------------------------------------------


def pieces(call: Call, bill: Bill, form: str) -> tuple[list[Any], list[Any]]:
    """Events before and after the text of a stream."""
    usage = stated(call, bill, form)
    if form == "chat":
        asked = call.json.get("stream_options")
        wants = isinstance(asked, dict) and asked.get("include_usage") is True
        finish = {"index": 0, "delta": {}, "finish_reason": "stop"}
        end: list[Any] = [{"model": bill.model, "choices": [finish]}]
        if wants and usage:
            end.append({"model": bill.model, "choices": [], "usage": usage})
        return [], [*end, "[DONE]"]
    if form == "responses":
        done = _responses(bill, "", usage)
        return [
            {"type": "response.created", "response": {"id": "r", "model": bill.model}}
        ], [{"type": "response.completed", "response": done}]
    if form == "messages":
        names = {"input_tokens": bill.prompt, "output_tokens": 1}
        start = {"id": "m", "model": bill.model, "usage": names}
        delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
        return [{"type": "message_start", "message": start}], [
            delta | ({"usage": usage} if usage else {}),
            {"type": "message_stop"},
        ]
    return [], [ANSWERS[form](bill, "", usage)]


def text_event(form: str, model: str, text: str) -> Any:
    """An event with text."""
    if form == "chat":
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        return {"model": model, "choices": [choice | {"text": text}]}
    if form == "responses":
        return {"type": "response.output_text.delta", "delta": text}
    if form == "messages":
        delta = {"type": "text_delta", "text": text}
        return {"type": "content_block_delta", "index": 0, "delta": delta}
    if form == "gemini":
        return {"candidates": [{"content": {"parts": [{"text": text}]}}]}
    message = {"role": "assistant", "content": text}
    return {"model": model, "message": message, "response": text, "done": False}


def framed(form: str, event: Any) -> bytes:
    """An event on the wire, in a chunk of its own."""
    text = event if isinstance(event, str) else json.dumps(event)
    if form == "ollama":
        line = text + "\n"
    elif form in ("responses", "messages"):
        line = f"event: {event['type']}\ndata: {text}\n\n"
    else:
        line = f"data: {text}\n\n"
    return b"%x\r\n%s\r\n" % (len(line.encode()), line.encode())


async def flow(  # noqa: PLR0917 - what one exchange has
    ledger: Ledger,
    call: Call,
    bill: Bill,
    form: str,
    reader: asyncio.StreamReader,
    out: asyncio.StreamWriter,
) -> None:
    """A stream, billed by what was generated when it ended."""
    hidden = call.number("reasoning") * bill.choices
    visible = bill.completion - hidden
    kind = "application/x-ndjson" if form == "ollama" else _SSE
    before, after = pieces(call, bill, form)
    made = Bill(bill.server, bill.path, bill.model, bill.prompt, hidden)
    made.choices = bill.choices
    pause, end = call.number("pause", 2) / 1000, call.knobs.get("end", "")
    error_at = call.number("error", -1)
    try:
        out.write(head(200, kind, None))
        for event in before:
            out.write(framed(form, event))
        async for size in sizes(visible, pause):
            if reader.at_eof() or out.is_closing():
                return
            if 0 <= error_at <= made.completion - hidden:
                error = {"error": {"message": "overloaded", "code": 503}}
                out.write(framed("chat", error) + b"0\r\n\r\n")
                return
            made.completion += size
            out.write(framed(form, text_event(form, bill.model, WORD * size)))
            await out.drain()
        for event in after:
            if end == "nodone" and event == "[DONE]":
                break
            out.write(framed(form, event))
        if end == "linger":
            await asyncio.sleep(0.5)
        if end != "cut":
            out.write(b"0\r\n\r\n")
        await out.drain()
    finally:
        ledger.add(call, made)
    if end == "cut":
        out.transport.abort()


async def sizes(total: int, pause: float) -> AsyncIterator[int]:
    """Sizes of the text events, paced."""
    while total > 0:
        size = min(PER_EVENT, total)
        yield size
        total -= size
        await asyncio.sleep(pause)


# -- paid later, and other units ------------------------------------------------------


def later(
    ledger: Ledger, call: Call, path: str, action: str, out: asyncio.StreamWriter
) -> bool:
    """Work that is billed although its answer does not state it; whether it is that."""
    body, model = call.json, str(call.json.get("model") or "")
    if path.endswith("/v1/responses") and body.get("background") is True:
        bill = work(call)
        ledger.add(call, bill)
        _LATER[call.id] = [bill]
        respond(out, _responses(bill, "", None) | {"id": call.id, "status": "queued"})
        return True
    items: list[Any] | None = None
    accepted: dict[str, Any] = {"id": call.id, "status": "queued", "usage": None}
    if path.endswith("/v1/messages/batches"):
        items = [item["params"] for item in body["requests"]]
        accepted |= {"type": "message_batch", "processing_status": "in_progress"}
    elif action == "batchGenerateContent":
        config = body["batch"].get("inputConfig") or body["batch"]["input_config"]
        items = [item["request"] for item in config["requests"]["requests"]]
    elif path.endswith("/v1/batches"):
        items = [{"model": "gpt-5-pro", "max_tokens": LONG}] * 10
    elif path.endswith("/runs"):
        items = [{"model": model or "gpt-5-pro", "max_tokens": LONG}]
        accepted["object"] = "thread.run"
    elif action == "predictLongRunning" or path.endswith("/v1/videos"):
        bill = Bill(call.server, path, model, usd=8 * UNIT_PRICES["sora-2"])
        ledger.add(call, bill)
        respond(out, {"id": "v", "model": model, "status": "queued", "seconds": "8"})
        return True
    if items is None:
        return False
    for item in items:
        one = Call.__new__(Call)
        one.__dict__.update(call.__dict__)
        one.json = {"model": model} | item
        if call.server == "ollama":
            one.json = {go_fold(n): v for n, v in one.json.items()}
        bill = work(one)
        ledger.add(call, bill)
        _LATER.setdefault(call.id, []).append(bill)
        if path.endswith("batches") or action:
            bill.usd /= 2
    respond(out, accepted)
    return True


def fetch(call: Call, path: str, out: asyncio.StreamWriter) -> None:
    """The end of work that is paid later; lists of models."""
    shown = re.sub(r"/(cancel|results)$", "", path)
    name = shown.rpartition("/")[2]
    bills = _LATER.get(name)
    if bills is None:
        if not path.endswith(("/v1/models", "/api/tags")):
            raise RefusedError(404)
        respond(out, {"data": []})
    elif path.endswith("/results"):
        lines = [
            {"result": {"type": "succeeded", "message": _messages(bill, WORD, usage)}}
            for bill in bills
            if (usage := stated(call, bill, "messages"))
        ]
        body = "".join(json.dumps(line) + "\n" for line in lines).encode()
        out.write(head(200, "application/x-jsonl", len(body)) + body)
    elif "/runs/" in path:
        usage = stated(call, bills[0], "chat")
        run = {"id": name, "object": "thread.run", "status": "completed"}
        respond(out, run | {"model": bills[0].model, "usage": usage})
    else:
        usage = stated(call, bills[0], "responses")
        respond(out, _responses(bills[0], WORD * 20, usage) | {"id": name})


def units(ledger: Ledger, call: Call, path: str, out: asyncio.StreamWriter) -> bool:
    """Answers billed in other units than tokens; whether it is one."""
    body = call.json
    model = call.knobs.get("served") or str(body.get("model") or "")
    bill = Bill(call.server, path, model)
    each = UNIT_PRICES.get(plain_model(model), 0.0)
    if path.endswith(("/v1/images/generations", "/v1/images/edits")):
        # Forms hold their numbers as text.
        number = int(body.get("n") or 1)
        bill.usd, bill.choices = each * number, number
        answered: Any = {"data": [{"url": "http://x/1"}] * number}
    elif path.endswith("/v1/audio/speech"):
        bill.usd = each * len(str(body.get("input", "")))
        answered = {"audio": "x"}
    elif path.endswith("/v1/audio/transcriptions"):
        bill.usd = each * 600 / 3600
        answered = {"text": "tide", "duration": 600.0, "usage": {"seconds": 600}}
        answered["usage"]["type"] = "duration"
    elif path.endswith("/rerank"):
        searches = -(-len(body.get("documents", [])) // 100)
        bill.usd = each * searches
        answered = {"results": [], "meta": {"billed_units": {"search_units": searches}}}
    else:
        return False
    ledger.add(call, bill)
    respond(out, answered)
    return True


# -- sessions -------------------------------------------------------------------------


def frame(event: Any) -> bytes:
    """An event as an unmasked text message."""
    payload = json.dumps(event).encode()
    return b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload


async def message(reader: asyncio.StreamReader) -> bytes | None:
    """The next message of the client, of one or more frames; None at the end."""
    whole_message = b""
    while True:
        first, second = await reader.readexactly(2)
        size = second & 127
        if size > 125:
            length = await reader.readexactly(2 if size == 126 else 8)
            size = int.from_bytes(length, "big")
        mask = await reader.readexactly(4) if second & 128 else b"\0" * 4
        data = await reader.readexactly(size)
        if first & 15 == 8:
            return None
        if first & 15 in (0, 1, 2):
            whole_message += bytes(b ^ mask[i & 3] for i, b in enumerate(data))
            if first & 128:
                return whole_message


async def session(
    ledger: Ledger, call: Call, reader: asyncio.StreamReader, out: asyncio.StreamWriter
) -> None:
    """A session in which each ``response.create`` (or turn) is one billed answer."""
    key = call.field("sec-websocket-key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    fields = (
        f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}"
    )
    out.write(f"HTTP/1.1 101 Switching\r\n{fields}\r\n\r\n".encode())
    model = re.search(r"(?:model|deployment)=([^&]+)", call.query)
    name = model[1] if model else "gpt-realtime"
    gemini = "BidiGenerateContent" in call.path
    if "created" not in call.knobs.get("hide", ""):
        out.write(frame({"type": "session.created", "session": {"model": name}}))
    while (data := await message(reader)) is not None:
        event = json.loads(data)
        kind = event.get("type", "")
        if kind == "session.update":
            name = event.get("session", {}).get("model", name)
        if "setup" in event:
            name = event["setup"]["model"]
            out.write(frame({"setupComplete": {}}))
        if kind == "junk":
            out.write(frame({"type": "error", "error": {"message": "unknown"}}))
        if kind != "response.create" and not (gemini and "setup" not in event):
            continue
        given = event.get("response") or event
        name = given.get("model", name) if isinstance(given, dict) else name
        tokens = call.number("tokens", 100)
        bill = Bill(call.server, call.path, name, 50, tokens)
        ledger.add(call, bill)
        if not gemini:
            out.write(frame({"type": "response.created", "response": {"model": name}}))
        await out.drain()
        if call.number("wait"):
            await asyncio.sleep(call.number("wait") / 1000)
        if gemini:
            usage: Any = {"promptTokenCount": 50, "responseTokenCount": tokens}
            usage["totalTokenCount"] = 50 + tokens
            out.write(
                frame({"serverContent": {"turnComplete": True}, "usageMetadata": usage})
            )
        else:
            usage = {"input_tokens": 50, "output_tokens": tokens}
            usage["total_tokens"] = 50 + tokens
            done = {"model": name, "status": "completed", "usage": usage}
            ended = "completed" if "responses" in call.path else "done"
            out.write(frame({"type": f"response.{ended}", "response": done}))
