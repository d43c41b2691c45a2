"""From a URL to a store: which class, what it can do, and completed URLs."""

from __future__ import annotations

import pytest

from gateway.config.structs import StoreTable
from gateway.config.values import FilePath, Secret, StoreUrl
from gateway.store.backends import EmbeddedBackend, MemoryBackend, RedisBackend
from gateway.store.opening import (
    BACKENDS,
    STORE_FORMS,
    directory_in,
    is_shared,
    open_backend,
)
from gateway.store.url import StoreUrlError


@pytest.mark.parametrize(
    ("url", "kind", "shared", "persistent", "directory"),
    [
        ("memory:", MemoryBackend, False, False, None),
        ("embedded:./data", EmbeddedBackend, True, True, "./data"),
        ("embedded:///var/lib/x", EmbeddedBackend, True, True, "/var/lib/x"),
        ("redis://h", RedisBackend, True, True, None),
        ("valkeys://h", RedisBackend, True, True, None),
        ("unix:///s", RedisBackend, True, True, None),
        ("rediss+sentinel://a/main", RedisBackend, True, True, None),
    ],
)  # fmt: skip
def test_the_scheme_selects_the_class(url, kind, shared, persistent, directory):
    """Callers ask the class for what it can do, and never for its name."""
    backend = open_backend(url)
    assert type(backend) is kind
    assert (backend.is_shared, is_shared(url)) == (shared, shared)
    assert backend.is_persistent is persistent
    assert directory_in(url) == directory
    assert (backend.engine("") is not None) is (kind is EmbeddedBackend)
    assert (backend.open_client() is None) is (kind is MemoryBackend)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("data", "use one of"),
        ("http://h", "use one of"),
        ("embedded:", "embedded:./data"),
        ("memory:x", "write memory:"),
    ],
)
def test_errors_name_the_fix(url, advice):
    """An error says what is wrong and what to write instead."""
    with pytest.raises(StoreUrlError, match=advice):
        open_backend(url)
    assert is_shared(url) is (url != "memory:x")


def test_every_class_is_named_in_the_forms():
    """The list of forms in messages grows with ``BACKENDS``."""
    assert all(backend.forms in STORE_FORMS for backend in BACKENDS)


@pytest.mark.parametrize(
    ("table", "url"),
    [
        ({"url": "redis://h:1/2"}, "redis://h:1/2"),
        ({"url": "redis://h", "password": "p@:/"}, "redis://:p%40%3A%2F@h"),
        ({"url": "redis://a:b@h", "password": "c"}, "redis://a:c@h"),
        ({"url": "redis://h", "username": "u"}, "redis://u@h"),
        ({"url": "unix:///s?db=1", "password": "p"}, "unix://:p@/s?db=1"),
        ({"url": "rediss://h", "tls_verify": False},
         "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=false"),
        ({"url": "rediss://h?db=3", "ca_file": "/ca"},
         "rediss://h?db=3&ssl_ca_certs=%2Fca"),
        ({"url": "redis+sentinel://:x@a:1,b:2/m/3", "username": "u"},
         "redis+sentinel://u:x@a:1,b:2/m/3"),
        ({"url": "unix:///s?db=1"}, "unix:///s?db=1"),
        ({"url": "memory:", "password": "p"}, "memory:"),
        ({"url": "embedded:/d"}, "embedded:/d"),
    ],
)  # fmt: skip
def test_the_url_is_completed_from_the_table(table, url):
    """Credentials and TLS settings of ``[store]`` go into the URL for the children."""
    given = dict(table, url=StoreUrl(table["url"]))
    if "password" in given:
        given["password"] = Secret(given["password"])
    if "ca_file" in given:
        given["ca_file"] = FilePath(given["ca_file"])
    assert StoreTable(**given).connection_url() == url
