"""The mock LLM API of the demo."""

from __future__ import annotations

import aiohttp
import pytest

from gateway.demo.llm import MockModel


@pytest.mark.parametrize("stream", [False, True])
async def test_the_model_states_what_was_asked_for(stream):
    """The usage of an answer has the completion tokens that the request asked for."""
    model = MockModel()
    await model.start()
    count = {
        "model": "m",
        "max_tokens": 6000,
        "stream": stream,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "x" * 400}],
    }
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{model.url}/v1/chat/completions", json=count) as answer,
        ):
            text = await answer.text()
    finally:
        await model.close()
    assert '"completion_tokens": 6000' in text
    assert '"prompt_tokens": 100' in text
    assert model.tokens == 6100
