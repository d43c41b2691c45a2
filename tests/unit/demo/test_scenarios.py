"""The addresses and prompts of the demo's scenarios."""

from __future__ import annotations

from itertools import islice, pairwise
from random import Random

import pytest

from gateway.demo.clients import school_clients, shop_clients
from gateway.demo.scenarios import QUIET_SHARE, SCENARIOS, campaign, flood
from gateway.detect.fingerprint import prompt_fingerprint
from gateway.identity.cidr import Networks, parse_address


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
