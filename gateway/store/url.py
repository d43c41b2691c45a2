"""URLs of Redis and Valkey servers; completing and masking any store URL.

Which schemes there are, and what else a URL means, is up to the classes listed in
``opening.py``.
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import (
    SplitResult,
    parse_qsl,
    quote,
    unquote,
    urlencode,
    urlsplit,
    urlunsplit,
)

import msgspec

# TLS options of a URL's query, named as redis-py names them.
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
_WITH_TLS = ("rediss", "valkeys", "rediss+sentinel")
_USERINFO = re.compile(r"(?<=://)[^/?#]*@")


class StoreUrlError(ValueError):
    """The URL cannot be used; the text says what to write instead."""


class RedisAddress(msgspec.Struct, frozen=True):
    """Where a server is and how to log in.

    ``path``: of a Unix socket. ``service`` and ``sentinels``: of ``sentinel``.
    ``options``: TLS settings, named as redis-py names them.
    """

    kind: Literal["tcp", "unix", "sentinel"]
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
        """Without the password, because addresses are logged."""
        where = self.path or self.service or f"{self.host}:{self.port}"
        return f"RedisAddress({self.kind} {where} db={self.db})"


def parse_redis_url(url: str) -> RedisAddress:
    """Parse ``redis:``, ``rediss:``, ``unix:`` and ``redis+sentinel:`` URLs.

    Raises StoreUrlError with what is wrong and what would be right.
    """
    scheme = url.partition(":")[0].lower()
    match scheme:
        case "unix":
            return _unix(urlsplit(url))
        case "redis" | "valkey":
            return _tcp(urlsplit(url), tls=False)
        case "rediss" | "valkeys":
            return _tcp(urlsplit(url), tls=True)
        case "redis+sentinel" | "rediss+sentinel":
            return _sentinel(url, tls=scheme.startswith("rediss"))
        case "redis+cluster" | "rediss+cluster":
            msg = (
                "redis+cluster:// is not supported yet, it comes with a later version; use "
                "a single server (redis://) or Sentinel (redis+sentinel://)"
            )
            raise StoreUrlError(msg)
        case _:
            msg = f"{scheme!r} is not a scheme of a Redis or Valkey server"
            raise StoreUrlError(msg)


def _unix(parts: SplitResult) -> RedisAddress:
    if not parts.path or parts.netloc.rpartition("@")[2]:
        msg = (
            "unix:// needs an absolute socket path, for example unix:///run/valkey.sock"
        )
        raise StoreUrlError(msg)
    options = dict(parse_qsl(parts.query))
    db = _db(options.pop("db", "0"))
    _refuse_unknown(options, frozenset())
    user, password = _credentials(parts.netloc)
    return RedisAddress(
        kind="unix", path=unquote(parts.path), db=db, username=user, password=password
    )


def _tcp(parts: SplitResult, *, tls: bool) -> RedisAddress:
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
    return RedisAddress(
        kind="tcp",
        host=host,
        port=port,
        db=db,
        username=user,
        password=password,
        tls=tls,
        options=options,
    )


def _sentinel(url: str, *, tls: bool) -> RedisAddress:
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
    return RedisAddress(
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


class StoreLogin(msgspec.Struct, frozen=True):
    """Credentials and TLS settings that the configuration gives beside the URL."""

    username: str | None = None
    password: str | None = None
    ca_file: str | None = None
    tls_verify: bool = True

    def __repr__(self) -> str:
        """Without the password."""
        return f"StoreLogin({self.username})"


def complete_redis_url(url: str, login: StoreLogin) -> str:
    """Put credentials and TLS settings into a server's URL: a secret then."""
    parts = urlsplit(url)
    netloc = parts.netloc  # never empty below: urlunsplit would drop its slashes
    if login.username is not None or login.password is not None:
        given, _, hosts = netloc.rpartition("@")
        user, _, password = given.partition(":")
        if login.username is not None:
            user = quote(login.username, safe="")
        if login.password is not None:
            password = quote(login.password, safe="")
        netloc = f"{user}:{password}@{hosts}" if password else f"{user}@{hosts}"
    query = [parts.query] if parts.query else []
    if parts.scheme in _WITH_TLS:
        query += _tls_options(login)
    if not netloc:
        return url
    return urlunsplit(parts._replace(netloc=netloc, query="&".join(query)))


def _tls_options(login: StoreLogin) -> list[str]:
    options = {}
    if login.ca_file is not None:
        options["ssl_ca_certs"] = login.ca_file
    if not login.tls_verify:
        options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": "false"}
    return [urlencode(options)] if options else []


def masked_url(url: str) -> str:
    """For logs and the status page: without user, password and query."""
    return _USERINFO.sub("", url).partition("?")[0]
