"""The client's address behind trusted and untrusted proxies."""

import pytest

from gateway.identity.cidr import Networks
from gateway.identity.hops import (
    MAX_HOPS,
    client_ip,
    forwarded_address,
    peer_address,
)

TRUSTED = Networks(["10.0.0.0/8", "fd00::/8", "unix"])


def xff(value: str) -> dict[bytes, bytes]:
    return {b"x-forwarded-for": value.encode()}


def forwarded(value: str) -> dict[bytes, bytes]:
    return {b"forwarded": value.encode()}


def test_fields_of_untrusted_peers_are_ignored():
    """A peer outside of the trusted networks cannot choose its address."""
    assert client_ip("203.0.113.9", xff("1.2.3.4"), TRUSTED) == "203.0.113.9"


def test_without_fields_the_peer_is_the_client():
    """Without the fields, a trusted peer is the client itself."""
    assert client_ip("10.0.0.1", {}, TRUSTED) == "10.0.0.1"


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9, 10.0.0.7", "203.0.113.9"),
        ("10.0.0.9, 10.0.0.7", "10.0.0.9"),
        ("203.0.113.9, junk, 10.0.0.7", "10.0.0.7"),
        ("203.0.113.9, junk", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("[2001:db8::1]:555,fd00::1", "2001:db8::/64"),
        ("203.0.113.9:1234", "203.0.113.9"),
    ],
)
def test_rightmost_untrusted_hop_is_the_client(chain, expected):
    """The walk goes from right to left and ends at the first untrusted hop."""
    assert client_ip("10.0.0.1", xff(chain), TRUSTED) == expected


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ("for=203.0.113.9;proto=https;by=10.0.0.1", "203.0.113.9"),
        ('for=1.1.1.1, FOR="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::/64"),
        ('proto=http; for="203.0.113.9:80"', "203.0.113.9"),
        ("for=203.0.113.9, for=10.0.0.5", "203.0.113.9"),
        ("for=203.0.113.9, for=unknown", "10.0.0.1"),
        ("for=203.0.113.9, for=_SEVKISEK, for=10.0.0.5", "10.0.0.5"),
        ("for=203.0.113.9, proto=https", "10.0.0.1"),
        ('for="1.2.3.4, for=203.0.113.9', "203.0.113.9"),
        ('for="', "10.0.0.1"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_writes_it(elements, expected):
    """Quoted nodes, ports and other pairs are parsed; an unreadable hop ends the walk."""
    assert client_ip("10.0.0.1", forwarded(elements), TRUSTED) == expected


def test_two_fields_that_differ_are_disputed():
    """Neither field decides when they lead to different clients; one may be named."""
    fields = xff("8.8.8.8") | forwarded("for=203.0.113.10")
    peer = peer_address("10.0.0.1", TRUSTED)
    found = forwarded_address(peer, fields, TRUSTED)
    assert (found.disputed, found.trusted, found.client_ip) == (
        *(True, False),
        "10.0.0.1",
    )
    for header, expected in (
        (b"x-forwarded-for", "8.8.8.8"),
        (b"forwarded", "203.0.113.10"),
    ):
        named = forwarded_address(peer, fields, TRUSTED, header)
        assert (named.disputed, named.client_ip) == (False, expected)


def test_two_fields_may_agree():
    """Both fields count when they lead to the same client, whatever stands before it."""
    fields = xff("1.2.3.4, 203.0.113.9") | forwarded("for=203.0.113.9;proto=https")
    assert client_ip("10.0.0.1", fields, TRUSTED) == "203.0.113.9"


def test_unix_peer_is_trusted_when_listed():
    """A peer on a Unix socket may name the client only if "unix" is trusted."""
    assert client_ip("", xff("203.0.113.9"), TRUSTED) == "203.0.113.9"
    assert client_ip("", xff("203.0.113.9"), Networks()) == "unix"


def test_long_chains_cost_a_bounded_walk():
    """Hops beyond the bound are not read."""
    chain = "203.0.113.9," + ",".join(["10.0.0.2"] * (MAX_HOPS + 5))
    assert client_ip("10.0.0.1", xff(chain), TRUSTED) == "10.0.0.2"
