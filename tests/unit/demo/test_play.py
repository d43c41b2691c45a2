"""The parts of the demo that can be looked at without a gateway."""

from __future__ import annotations

import json
import os
from itertools import islice, pairwise
from random import Random

import aiohttp
import pytest

from gateway.config import load
from gateway.demo.acts import ACTS, CALM_SHARE, campaigning, flooding
from gateway.demo.house import House
from gateway.demo.llm import MadeUpModel
from gateway.demo.past import SPAN_S, past_requests
from gateway.demo.people import customers, pupils, tide
from gateway.detect.event_mapping import event_from_record
from gateway.detect.fingerprint import prompt_fingerprint
from gateway.identity.cidr import Networks, parse_address

NOW = 1_800_000_000.0


def test_the_past_ends_now_and_can_be_learned():
    """Every line is an event of the last hours, of somebody who lives here."""
    known = {(one.name, one.address) for one in customers() + pupils()}
    for line in islice(past_requests(NOW, Random(1)), 500):
        event = event_from_record(json.loads(line))
        assert NOW - SPAN_S <= event.ts <= NOW
        assert (event.user, event.client_ip) in known


def test_the_same_seed_has_the_same_past():
    """Chance is the argument, not the machine's."""
    one = list(islice(past_requests(NOW, Random(7)), 50))
    assert one == list(islice(past_requests(NOW, Random(7)), 50))


def test_a_day_has_an_ebb_and_a_flood():
    """The tide is lowest when the day begins and highest in its middle."""
    assert tide(0.0, 60.0) == pytest.approx(0.3)
    assert tide(30.0, 60.0) == pytest.approx(1.0)


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)
def test_nobody_real_is_named(act):
    """Who acts has an address of documentation or benchmarks, never a customer's,
    unless the act is about that customer.
    """
    made_up = Networks(
        ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15"]
    )
    everyday = {one.address for one in customers() + pupils()}
    people = {shot[0] for shot in islice(act.shots(Random(1)), 300)}
    assert all(made_up.contains(parse_address(one.address)) for one in people)
    if act.name != "spender":
        assert not everyday & {person.address for person in people}


def test_the_botnet_is_alike_and_the_visitors_are_not():
    """What tells a flood from a campaign is in the prompts."""

    def spread(shots):
        prints = [prompt_fingerprint(shot[1]) for shot in islice(shots, 40)]
        return max((one ^ two).bit_count() for one, two in pairwise(prints))

    assert spread(flooding(Random(1))) <= 10
    assert spread(campaigning(Random(1))) > 20


def test_there_is_calm_before_the_first_act():
    """The shares of the acts leave time to look at ordinary traffic."""
    assert 0.1 < CALM_SHARE < 0.5


def test_the_configuration_is_valid():
    """The gateway's file passes the gateway's own check, without a warning."""
    house = House()
    try:
        house.write_config("http://127.0.0.1:9")
        loaded = load(f"{house.folder}/tidegate.toml")
        assert [tenant.name for tenant in loaded.config.tenants] == ["shop", "school"]
        assert loaded.warnings == ()
    finally:
        house.close()
    assert not os.path.exists(house.folder)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_model_states_what_was_asked_for(stream):
    """The answer's usage has as many tokens as the request wanted."""
    model = MadeUpModel()
    await model.start()
    asked = {
        "model": "m",
        "max_tokens": 6000,
        "stream": stream,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "x" * 400}],
    }
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{model.url}/v1/chat/completions", json=asked) as answer,
        ):
            text = await answer.text()
    finally:
        await model.close()
    assert '"completion_tokens": 6000' in text
    assert '"prompt_tokens": 100' in text
    assert model.tokens == 6100
