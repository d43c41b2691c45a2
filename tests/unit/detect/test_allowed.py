"""Whom a policy lets do anything."""

from __future__ import annotations

import pytest

from gateway.detect.allowed import Allowed

ENTRIES = ("network:10.0.0.0/8", "user:batch", "client_ip:2001:db8::7", "tenant:inner")


@pytest.mark.parametrize(
    ("tenant", "kind", "id_", "held"),
    [
        ("acme", "client_ip", "10.9.8.7", True),
        ("acme", "client_ip", "11.9.8.7", False),
        ("acme", "client_ip", "2001:db8::/64", True),
        ("acme", "client_ip", "not an address", False),
        ("acme", "user", "batch", True),
        ("acme", "user", "10.9.8.7", False),
        ("inner", "user", "anybody", True),
    ],
)
def test_subjects_networks_and_tenants(tenant, kind, id_, held):
    """By name, by network (IPv6 by its /64), or the whole tenant."""
    assert Allowed(ENTRIES).holds(tenant, kind, id_) is held


def test_nobody_is_allowed_without_entries():
    """The empty list costs nothing and allows nothing."""
    assert not Allowed(()).holds("acme", "client_ip", "10.9.8.7")


def test_what_is_no_network_is_refused():
    """As the configuration's own check would."""
    with pytest.raises(ValueError, match="nonsense"):
        Allowed(["network:nonsense"])
