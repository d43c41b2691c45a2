"""The traffic that the demo's gateway learns."""

from __future__ import annotations

import json
from itertools import islice
from random import Random

from gateway.demo.clients import school_clients, shop_clients
from gateway.demo.history import SPAN_S, history_requests
from gateway.detect.event_mapping import event_from_record

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
