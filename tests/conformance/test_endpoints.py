"""``docs/endpoints.md``: every row is a request that a gateway forwards and meters as the
row says.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from gateway.core.model import UNITS, Policy, RequestRecord, Usage
from gateway.metering.dialects import find_endpoint, session_match
from gateway.metering.frames import TEXT, server_frame
from gateway.metering.realtime import RealtimeMeter
from gateway.proxy import settle
from gateway.proxy.access import check_endpoint
from tests.corpus.endpoints import CALLS, Call
from tests.inprocess import (
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    until,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PAGE = Path(__file__).resolve().parents[2] / "docs/endpoints.md"
PROVIDERS = sorted({call.provider for call in CALLS})
# Names of providers in the price table.
PRICED_AS = {
    "OpenAI": "openai",
    "Azure": "azure",
    "Anthropic": "anthropic",
    "Gemini": "google",
    "Vertex": "google",
    "Cohere": "cohere",
    "Bedrock": "aws",
    "Groq": "groq",
    "DeepSeek": "deepseek",
    "OpenRouter": "openrouter",
    "Mistral": "mistral",
    "Perplexity": "perplexity",
    "xAI": "x-ai",
}
_ROW = re.compile(r"^\| `((?:GET|POST|DELETE) [^`]+)` \|(.+)\|$", re.MULTILINE)


class Row(NamedTuple):
    """What the page says about a call, or what a gateway did."""

    endpoint: str
    metered: str
    billed: str
    price: str
    default: str


def page_rows() -> dict[tuple[str, str], Row]:
    """The rows of all tables, by provider and call."""
    rows = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        provider = section.partition("\n")[0]
        for call, rest in _ROW.findall(section):
            cells = [cell.strip().replace("`", "") for cell in rest.split("|")]
            assert (provider, call) not in rows
            rows[provider, call] = Row(*cells[:5])
    return rows


def configured(provider: str) -> str:
    """Two tenants of one account: the first with default endpoints, the second with all."""
    tenants = "".join(
        f'[[tenant]]\nname = "{name}"\npolicy = "{policy}"\n'
        f'api_keys = ["sha256:{hashlib.sha256(name.encode()).hexdigest()}"]\n'
        for name, policy in (("narrow", "default"), ("wide", "wide"))
    )
    return f'[policy.wide]\ninherit = "default"\nendpoints = ["*"]\n{tenants}'


async def run(gateway: InProcess, call: Call, key: bytes) -> RequestRecord:
    """Send one call; the record of it."""
    method, _, path = call.call.partition(" ")
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: {call.kind}\r\n{call.fields}"
        f"Content-Length: {len(call.answer)}\r\n\r\n"
    )
    gateway.upstream.scripts.clear()
    gateway.upstream.scripts.append((head.encode() + call.answer,))
    fields = b"Connection: close\r\nAuthorization: Bearer %b\r\n" % key
    fields += b"Content-Type: %b\r\n" % call.content_type.encode()
    body = call.body if method == "POST" else b""
    await gateway.talk(request(method.encode(), path.encode(), fields, body))
    await until(lambda: gateway.records)
    return gateway.records.pop()


def observed(call: Call, record: RequestRecord, usage: Usage, default: str) -> Row:
    """What the gateway did."""
    method, _, path = call.call.partition(" ")
    match = find_endpoint(method, path.partition("?")[0])
    if match.polled and not match.metered:
        metered = "end"
    elif method != "POST":
        metered = "nothing"
    elif record.metering == "pending":
        metered = "later"
    elif usage.source == "upstream":
        metered = "stated"
    elif usage.batch:
        metered = "assumed"
    elif usage.source != "none":
        metered = "counted" if usage.total else "asked"
    else:
        metered = record.metering or ("free" if not match.billable else "nothing")
    assert {unit.partition(":")[0] for unit, _ in usage.units} <= UNITS
    billed = ["tokens"] if usage.total else []
    billed += [unit.partition(":")[0] for unit, _ in usage.units]
    price: str = record.price_source
    if record.metering == "unpriced" or (
        record.metering == "part_priced" and not record.usd
    ):
        price = "own"
    elif record.metering == "part_priced":
        price = "in part"
    assert (price in ("table", "in part", "answer")) == (record.usd > 0), (
        call.call,
        record.usd,
        usage,
    )
    return Row(
        record.endpoint, metered, ", ".join(billed) or "none", price or "none", default
    )


async def rows_of(provider: str, upstream, monkeypatch) -> dict[tuple[str, str], Row]:
    """The rows of a provider, as a gateway executes its calls."""
    kept: list[Usage] = []
    written = settle.record

    def keep(flow, shared, usage, *rest, **more):
        kept.append(usage)
        written(flow, shared, usage, *rest, **more)

    monkeypatch.setattr(settle, "record", keep)
    route = 'api_key = "PROVIDER"\n'
    if provider in PRICED_AS:
        route += f'provider = "{PRICED_AS[provider]}"\n'
    rows = {}
    more = configured(provider)
    async with InProcess(upstream, route=route, more=more) as gateway:
        for call in CALLS:
            if call.provider != provider:
                continue
            narrow = await run(gateway, call, b"narrow")
            wide = await run(gateway, call, b"wide")
            assert wide.status == 200, (call.call, wide)
            default = "closed" if narrow.status == 403 else "open"
            row = observed(call, wide, kept[-1], default)
            assert (provider, call.call) not in rows
            rows[provider, call.call] = row
            if row.metered == "stated" and "tokens" in row.billed:
                assert kept[-1].total in (9, 12)
    return rows


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_rows(provider, upstream, monkeypatch):
    """Endpoint, metering, units, price and access are as the page says."""
    said = {key: row for key, row in page_rows().items() if key[0] == provider}
    assert said == await rows_of(provider, upstream, monkeypatch)


SESSIONS = re.compile(r"^\| `(/[^`]+)` \|(.+)\|$", re.MULTILINE)
_REALTIME = {
    "type": "response.done",
    "response": {
        "usage": {
            "total_tokens": 120,
            "input_tokens": 100,
            "output_tokens": 20,
            "input_token_details": {
                "audio_tokens": 60,
                "cached_tokens": 50,
                "cached_tokens_details": {"audio_tokens": 30},
            },
            "output_token_details": {"audio_tokens": 15},
        }
    },
}
_TRANSCRIBED = {
    "type": "conversation.item.input_audio_transcription.completed",
    "usage": {"type": "duration", "seconds": 3},
}
_COMPLETED = {
    "type": "response.completed",
    "response": {
        "output": [{"type": "web_search_call", "action": {"type": "search"}}],
        "usage": {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12},
    },
}
_LIVE = {
    "usageMetadata": {
        "promptTokenCount": 9,
        "responseTokenCount": 3,
        "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 3}],
    }
}


def answered(path: str) -> dict[str, object]:
    """The event of an upstream that ends an answer of this session."""
    if "transcription" in path:
        return _TRANSCRIBED
    if "responses" in path:
        return _COMPLETED
    return _LIVE if "Bidi" in path else _REALTIME


@pytest.mark.parametrize(
    ("path", "rest"), SESSIONS.findall(PAGE.read_text()), ids=lambda text: text[:40]
)
def test_sessions(path, rest):
    """Sessions are found, metered and open as the page says."""
    endpoint, metered, billed, default = (
        cell.strip().replace("`", "") for cell in rest.split("|")
    )
    match = session_match(path.partition("?")[0])
    assert match.endpoint == endpoint
    head = SimpleNamespace(method="GET", path=path.partition("?")[0])
    refusal = check_endpoint(
        Policy("x"), head, match, session=True, shared_account=True
    )
    assert (refusal is None) == (default == "open")
    if not metered.startswith("stated"):
        assert endpoint == "other"
        return
    meter = RealtimeMeter()
    (usage,) = meter.feed_upstream(
        server_frame(TEXT, json.dumps(answered(path)).encode())
    )
    units = ["tokens"] if usage.total else []
    units += [unit for unit, _ in usage.units]
    assert set(units) == set(billed.split(", "))


def test_every_provider_has_a_section():
    """The page has no section that nothing executes."""
    assert {provider for provider, _ in page_rows()} == set(PROVIDERS)
