"""Entries of the allow list, and the subjects that it holds."""

import pytest

from gateway.identity.allow import AllowList, split_allow_entry


@pytest.mark.parametrize("entry", ["colour:blue", "cient_ip:203.0.113.9"])
def test_allow_list_refuses_other_kinds(entry):
    """An entry of an unknown kind is an error that names the known kinds."""
    with pytest.raises(ValueError, match="expected client_ip:"):
        AllowList([entry])


@pytest.mark.parametrize("entry", ["network:nonsense", "nonsense", "fe80:nonsense"])
def test_allow_list_refuses_what_is_not_a_network(entry):
    """An entry without a kind has to be an address or a network."""
    with pytest.raises(ValueError, match="nonsense"):
        AllowList([entry])


@pytest.mark.parametrize(
    ("entry", "split"),
    [
        ("user:a:b", ("user", "a:b")),
        ("10.0.0.0/8", ("network", "10.0.0.0/8")),
        ("192.0.2.1", ("client_ip", "192.0.2.1")),
        ("fe80::1", ("client_ip", "fe80::1")),
        ("2001:db8::/32", ("network", "2001:db8::/32")),
    ],
)
def test_allow_list_entries_get_their_kind(entry, split):
    """A bare address is a client_ip, a bare network a network."""
    assert split_allow_entry(entry) == split


ALLOWED = ("network:10.0.0.0/8", "user:batch", "client_ip:2001:db8::7", "tenant:inner")


@pytest.mark.parametrize(
    ("tenant", "kind", "id_", "held"),
    [
        ("acme", "client_ip", "10.9.8.7", True),
        ("acme", "client_ip", "11.9.8.7", False),
        ("acme", "client_ip", "2001:db8::/64", True),
        ("acme", "client_ip", "not an address", False),
        ("acme", "user", "batch", True),
        ("acme", "user", "10.9.8.7", False),
        ("acme", "tenant", "inner", True),
        ("acme", "tenant", "acme", False),
        ("acme", "user+model", "batch", False),
        ("inner", "user", "anybody", True),
    ],
)
def test_allow_list_holds_the_subjects_of_detection(tenant, kind, id_, held):
    """Subjects are found by name, by network (IPv6 by its /64) or by their tenant."""
    assert AllowList(ALLOWED).holds_subject(tenant, kind, id_) is held


def test_empty_allow_list_holds_no_subject():
    """Without entries no subject is allowed."""
    assert not AllowList(()).holds_subject("acme", "client_ip", "10.9.8.7")
