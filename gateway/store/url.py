"""Store addresses: what ``store.url`` may say, and what is wrong with what it says."""

from __future__ import annotations

from typing import Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

StoreKind = Literal["embedded", "memory", "tcp", "unix", "sentinel"]

_SCHEMES = "embedded:DIR, memory:, redis://, rediss://, unix://, redis+sentinel://"
_OPTIONS = frozenset(
    {
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_cert_reqs",
        "ssl_check_hostname",
    }
)
_PORT = 6379
_SENTINEL_PORT = 26379


class StoreUrlError(ValueError):
    """The address cannot be used; the text says what to write instead."""


class StoreUrl(msgspec.Struct, frozen=True):
    """An address, taken apart.

    ``path`` is the socket of ``unix`` or the directory of ``embedded``. ``options``
    are the TLS settings of the query, named as redis-py names them.
    """

    kind: StoreKind
    host: str = ""
    port: int = _PORT
    path: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    tls: bool = False
    service: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()
    options: dict[str, str] = {}

    def __repr__(self) -> str:
        """Without the password: addresses end up in logs."""
        where = self.path or self.service or f"{self.host}:{self.port}"
        return f"StoreUrl({self.kind} {where} db={self.db})"


def parse_store_url(url: str) -> StoreUrl:
    """Take a store address apart.

    Raises StoreUrlError with what is wrong and what would be right.
    """
    scheme, colon, rest = url.partition(":")
    if not colon:
        msg = f"store url {url!r} has no scheme; use one of: {_SCHEMES}"
        raise StoreUrlError(msg)
    match scheme.lower():
        case "memory":
            return StoreUrl(kind="memory")
        case "embedded":
            return _embedded(rest)
        case "unix":
            return _unix(urlsplit(url))
        case "redis" | "valkey":
            return _tcp(urlsplit(url), tls=False)
        case "rediss" | "valkeys":
            return _tcp(urlsplit(url), tls=True)
        case "redis+sentinel" | "rediss+sentinel":
            return _sentinel(url, tls=scheme.lower().startswith("rediss"))
        case "redis+cluster" | "rediss+cluster":
            msg = (
                "redis+cluster:// is not supported yet in this version; use a single "
                "server (redis://) or Sentinel (redis+sentinel://)"
            )
            raise StoreUrlError(msg)
        case _:
            msg = f"store url scheme {scheme!r} is unknown; use one of: {_SCHEMES}"
            raise StoreUrlError(msg)


def _embedded(rest: str) -> StoreUrl:
    path = rest.removeprefix("//") if rest.startswith("///") else rest
    if not path:
        msg = "embedded: needs a directory, for example embedded:./data"
        raise StoreUrlError(msg)
    return StoreUrl(kind="embedded", path=path)


def _unix(parts: SplitResult) -> StoreUrl:
    if not parts.path or parts.netloc.rpartition("@")[2]:
        msg = (
            "unix:// needs an absolute socket path, for example unix:///run/valkey.sock"
        )
        raise StoreUrlError(msg)
    options = dict(parse_qsl(parts.query))
    db = _db(options.pop("db", "0"))
    _refuse_unknown(options, frozenset())
    user, password = _credentials(parts.netloc)
    return StoreUrl(
        kind="unix", path=unquote(parts.path), db=db, username=user, password=password
    )


def _tcp(parts: SplitResult, *, tls: bool) -> StoreUrl:
    try:
        host, port = parts.hostname or "", parts.port or _PORT
    except ValueError:
        msg = f"the port in the store url is not a number from 1 to 65535: {parts.scheme}://…"
        raise StoreUrlError(msg) from None
    if not host:
        msg = f"{parts.scheme}:// needs a host, for example {parts.scheme}://127.0.0.1:6379/0"
        raise StoreUrlError(msg)
    options = dict(parse_qsl(parts.query))
    db = _db(options.pop("db", parts.path.strip("/") or "0"))
    _refuse_unknown(options, _OPTIONS if tls else frozenset())
    user, password = _credentials(parts.netloc)
    return StoreUrl(
        kind="tcp",
        host=host,
        port=port,
        db=db,
        username=user,
        password=password,
        tls=tls,
        options=options,
    )


def _sentinel(url: str, *, tls: bool) -> StoreUrl:
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    service, _, db = parts.path.strip("/").partition("/")
    if not hosts or not service:
        msg = (
            "redis+sentinel:// needs sentinels and the name of the master, for example "
            "redis+sentinel://10.0.0.1:26379,10.0.0.2:26379/mymaster"
        )
        raise StoreUrlError(msg)
    options = dict(parse_qsl(parts.query))
    database = _db(options.pop("db", db or "0"))
    _refuse_unknown(options, _OPTIONS if tls else frozenset())
    user, password = _credentials(parts.netloc)
    return StoreUrl(
        kind="sentinel",
        db=database,
        username=user,
        password=password,
        tls=tls,
        service=unquote(service),
        sentinels=tuple(_host_port(item) for item in hosts.split(",")),
        options=options,
    )


def _host_port(item: str) -> tuple[str, int]:
    parts = urlsplit(f"//{item}")
    try:
        host, port = parts.hostname, parts.port or _SENTINEL_PORT
    except ValueError:
        host, port = None, 0
    if not host:
        msg = f"sentinel {item!r} is not host:port"
        raise StoreUrlError(msg)
    return host, port


def _credentials(netloc: str) -> tuple[str, str]:
    userinfo, at, _ = netloc.rpartition("@")
    if not at:
        return "", ""
    user, _, password = userinfo.partition(":")
    return unquote(user), unquote(password)


def _db(text: str) -> int:
    if not text.isdecimal():
        msg = f"the database in the store url must be a number, not {text!r}"
        raise StoreUrlError(msg)
    return int(text)


def _refuse_unknown(options: dict[str, str], known: frozenset[str]) -> None:
    for name in options:
        if name not in known:
            allowed = ", ".join(sorted(known | {"db"}))
            msg = f"store url option {name!r} is unknown here; known: {allowed}"
            raise StoreUrlError(msg)


def check_eviction(policy: str, maxmemory: int) -> str | None:
    """What to warn of where the store may throw counters away; None: it may not.

    ``maxmemory`` in bytes, 0: no bound.
    """
    if policy in ("", "noeviction") or maxmemory == 0:
        return None
    return (
        f"the store may evict keys (maxmemory-policy {policy}): limits would forget "
        "what was used; set maxmemory-policy noeviction"
    )
