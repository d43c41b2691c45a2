"""Addresses in all notations, and membership in networks."""

import pytest

from gateway.identity.cidr import (
    NetworkMap,
    Networks,
    normal_client_ip,
    parse_address,
    parse_network,
    site_of,
    subject_of,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        (" 203.0.113.9 ", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:0DB8::0001", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
    ],
)
def test_addresses_are_read_in_every_common_spelling(text, expected):
    """Addresses are parsed with ports, brackets, zones and in the mapped form."""
    assert str(parse_address(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unknown",
        "_hidden",
        "1.2.3",
        "1.2.3.4.5",
        "010.1.1.1",
        "[2001:db8::1",
        "[2001:db8::1]x",
        "1.2.3.4:123456789",
        "1:" * 60,
    ],
)
def test_invalid_text_is_no_address(text):
    """Text that is not an address gives None, never an exception."""
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_subject_is_the_address_or_its_64(text, expected):
    """IPv4 counts by address, IPv6 by /64, mapped IPv4 as IPv4."""
    address = parse_address(text)
    assert address is not None
    assert subject_of(address) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.9/32", "203.0.113.9"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::7/128", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("203.0.113.0/24", "203.0.113.0/24"),
        ("nobody", "nobody"),
        ("unix", "unix"),
    ],
)
def test_a_client_ip_may_be_written_in_any_notation(text, expected):
    """Every notation of one client gives the same id; other text stays unchanged."""
    assert normal_client_ip(text) == expected


@pytest.mark.parametrize(
    ("cidr", "address", "inside"),
    [
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.1.2.3/8", "10.9.9.9", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("::ffff:10.0.0.0/104", "10.1.1.1", True),
        ("::/0", "10.1.1.1", False),
        ("0.0.0.0/0", "2001:db8::1", False),
    ],
)
def test_membership_respects_prefix_and_version(cidr, address, inside):
    """An address is in a network of its own version with the same prefix."""
    assert Networks([cidr]).contains(parse_address(address)) is inside


def test_unix_is_a_network_of_its_own():
    """Only the word "unix" contains peers on a Unix socket, and no address."""
    assert Networks(["unix"]).contains(None)
    assert not Networks(["unix"]).contains(parse_address("0.0.0.0"))
    assert not Networks(["0.0.0.0/0", "::/0"]).contains(None)


def test_bad_network_is_an_error():
    """A network that cannot be parsed raises an error instead of matching no address."""
    with pytest.raises(ValueError, match="nonsense"):
        Networks(["nonsense"])


def test_map_returns_the_value_of_every_network_that_holds_an_address():
    """Overlapping networks are all found, removed ones are not."""
    named: NetworkMap[str] = NetworkMap()
    wide, narrow = parse_network("10.0.0.0/8"), parse_network("10.1.0.0/16")
    named.put(wide, "wide")
    named.put(narrow, "narrow")
    assert named.get(narrow) == "narrow"
    assert sorted(named.holding(parse_address("10.1.2.3"))) == ["narrow", "wide"]
    named.pop(narrow)
    named.pop(narrow)
    assert named.holding(parse_address("10.1.2.3")) == ["wide"]
    assert named


def test_map_pops_one_of_two_networks_of_equal_length():
    """Removing a network leaves others of its length; clearing removes all."""
    named: NetworkMap[str] = NetworkMap()
    left, right = parse_network("10.1.0.0/16"), parse_network("10.2.0.0/16")
    named.put(left, "left")
    named.put(right, "right")
    named.pop(left)
    assert named.holding(parse_address("10.2.0.1")) == ["right"]
    named.clear()
    assert not named


def test_clients_behind_nat64_are_told_apart():
    """The well-known prefix gives the IPv4 client; a local one a client per address."""
    assert normal_client_ip("64:ff9b::203.0.113.9") == "203.0.113.9"
    assert parse_network("64:ff9b::/96") == parse_network("0.0.0.0/0")
    one, other = (normal_client_ip(f"64:ff9b:1::192.0.2.{n}") for n in (1, 2))
    assert one != other
    assert normal_client_ip(one) == one == "64:ff9b:1::c000:201/128"


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("2001:db8:7:1::1", "2001:db8:7::/48"),
        ("2001:db8:7:ffff:1::", "2001:db8:7::/48"),
        ("203.0.113.9", ""),
        ("::ffff:203.0.113.9", ""),
        ("64:ff9b:1::1", ""),
        ("x", ""),
    ],
)
def test_site(text, site):
    """The /48 of an IPv6 address; none for IPv4, a translator's clients, Unix peers."""
    assert site_of(parse_address(text)) == site
