"""The parts of the demo that need no running gateway."""

from __future__ import annotations

import json
import os
from itertools import islice, pairwise
from random import Random

import aiohttp
import pytest

from gateway.config import load
from gateway.demo.clients import load_level, school_clients, shop_clients
from gateway.demo.gateway import DemoGateway
from gateway.demo.history import SPAN_S, history_requests
from gateway.demo.llm import MadeUpModel
from gateway.demo.scenarios import QUIET_SHARE, SCENARIOS, campaign, flood
from gateway.detect.event_mapping import event_from_record
from gateway.detect.fingerprint import prompt_fingerprint
from gateway.identity.cidr import Networks, parse_address

NOW = 1_800_000_000.0


def test_the_past_ends_now_and_can_be_learned():
    """Every line is an event of the last 27 hours, of an ordinary client."""
    known = {(one.name, one.address) for one in shop_clients() + school_clients()}
    for line in islice(history_requests(NOW, Random(1)), 500):
        event = event_from_record(json.loads(line))
        assert NOW - SPAN_S <= event.ts <= NOW
        assert (event.user, event.client_ip) in known


def test_the_same_seed_has_the_same_past():
    """The same seed gives the same history."""
    one = list(islice(history_requests(NOW, Random(7)), 50))
    assert one == list(islice(history_requests(NOW, Random(7)), 50))


def test_the_load_changes_over_a_day():
    """The load is lowest at the begin of a day and highest in its middle."""
    assert load_level(0.0, 60.0) == pytest.approx(0.3)
    assert load_level(30.0, 60.0) == pytest.approx(1.0)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_addresses_are_reserved_ones(scenario):
    """Scenarios use addresses reserved for documentation and benchmarks, and those of
    ordinary clients only where the scenario is about that client.
    """
    made_up = Networks(
        ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15"]
    )
    background = {one.address for one in shop_clients() + school_clients()}
    clients = {shot[0] for shot in islice(scenario.requests(Random(1)), 300)}
    assert all(made_up.contains(parse_address(one.address)) for one in clients)
    if scenario.name != "spender":
        assert not background & {client.address for client in clients}


def test_the_botnet_is_alike_and_the_visitors_are_not():
    """Prompts of the botnet are alike, prompts of the campaign are not."""

    def spread(requests):
        prints = [prompt_fingerprint(shot[1]) for shot in islice(requests, 40)]
        return max((one ^ two).bit_count() for one, two in pairwise(prints))

    assert spread(flood(Random(1))) <= 10
    assert spread(campaign(Random(1))) > 20


def test_ordinary_traffic_precedes_the_first_scenario():
    """The shares of the scenarios leave time for ordinary traffic alone."""
    assert 0.1 < QUIET_SHARE < 0.5


def test_the_configuration_is_valid():
    """The configuration of the demo passes ``tidegate check`` without a warning."""
    gateway_ = DemoGateway()
    try:
        gateway_.write_config("http://127.0.0.1:9")
        loaded = load(f"{gateway_.folder}/tidegate.toml")
        assert [tenant.name for tenant in loaded.config.tenants] == ["shop", "school"]
        assert loaded.warnings == ()
    finally:
        gateway_.close()
    assert not os.path.exists(gateway_.folder)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_model_states_what_was_asked_for(stream):
    """The usage of an answer has the completion tokens that the request asked for."""
    model = MadeUpModel()
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
