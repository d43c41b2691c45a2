"""Durations, sizes, addresses, secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.values import (
    Duration,
    Secret,
    Size,
    Url,
    format_duration,
    format_size,
    is_loopback,
    parse_address,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("5m", 300), ("1d", 86_400), ("1h30m", 5_400), ("1.5s", 1.5)],
)
def test_durations(text, seconds):
    """Units from microseconds to days, alone or one after another."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5s", "5mm", "1w", "5s x"])
def test_not_durations(text):
    """A number without a unit is not a duration."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**15))
def test_durations_survive_printing(micros):
    """A printed duration parses to the same duration."""
    seconds = Duration(micros / 1_000_000)
    assert parse_duration(format_duration(seconds)).us == seconds.us


@given(st.integers(min_value=0, max_value=1 << 50))
def test_sizes_survive_printing(size):
    """A printed size parses to the same size."""
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [("1KiB", 1024), ("1kb", 1000), ("1.5 MiB", 1_572_864), ("7", 7), (7, 7)],
)
def test_sizes(text, size):
    """Binary and decimal units in any case; a bare number is bytes."""
    assert parse_size(text) == size


def test_values_print_as_they_are_written():
    """Durations and sizes print as they are written in the file."""
    assert f"{Duration(90)} {Size(64 << 10)}" == "90s 64KiB"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        (":80", ("0.0.0.0", 80)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses(text, address):
    """Host and port, IPv6 in brackets, an empty host for every address."""
    assert parse_address(text) == address


def test_loopback():
    """Loopback addresses are reachable from this machine only."""
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "10.0.0.1", "::"]))


@pytest.mark.parametrize(
    "name",
    ["127.0.0.1.example.com", "127.example.com", "localhost.example.com", "127.1"],
)
def test_a_name_that_looks_like_loopback_is_a_name(name):
    """Names that start with 127.0.0.1 are not loopback: DNS decides where they point."""
    assert not is_loopback(name)


def test_secrets_compare_by_value_and_do_not_show_it():
    """Two reads of one secret are equal; repr shows only the source."""
    assert Secret("a", "env A") == Secret("a")
    assert len({Secret("a"), Secret("a")}) == 1
    assert repr(Secret("a", "env A")) == "Secret(env A)"


def test_urls_hide_their_user():
    """repr of a URL shows neither user nor password."""
    assert repr(Url("redis://u:p@h/0")) == "'redis://***@h/0'"
