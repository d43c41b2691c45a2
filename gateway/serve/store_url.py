"""The store's URL with credentials and TLS settings."""

from __future__ import annotations

import re
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from gateway.config.structs import StoreTable

_USERINFO = re.compile(r"(?<=://)[^/?#]*@")
_SERVERS = ("redis", "rediss", "valkey", "valkeys", "unix", "redis+sentinel")
_WITH_TLS = ("rediss", "valkeys", "rediss+sentinel")


def complete_url(table: StoreTable) -> str:
    """``store.url`` with the table's credentials and TLS settings.

    It may contain a secret: only the supervisor and its children use it.
    """
    parts = urlsplit(str(table.url))
    if parts.scheme not in (*_SERVERS, *_WITH_TLS):
        return str(table.url)
    netloc = parts.netloc  # never empty below: urlunsplit would drop its slashes
    if table.username is not None or table.password is not None:
        given, _, hosts = netloc.rpartition("@")
        user, _, password = given.partition(":")
        if table.username is not None:
            user = quote(table.username, safe="")
        if table.password is not None:
            password = quote(table.password.reveal(), safe="")
        netloc = f"{user}:{password}@{hosts}" if password else f"{user}@{hosts}"
    query = [parts.query] if parts.query else []
    if parts.scheme in _WITH_TLS:
        query += _tls_options(table)
    if not netloc:
        return str(table.url)
    return urlunsplit(parts._replace(netloc=netloc, query="&".join(query)))


def _tls_options(table: StoreTable) -> list[str]:
    options = {}
    if table.ca_file is not None:
        options["ssl_ca_certs"] = str(table.ca_file)
    if not table.tls_verify:
        options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": "false"}
    return [urlencode(options)] if options else []


def masked_url(url: str) -> str:
    """The URL without user, password and query, for logs and the status page."""
    return _USERINFO.sub("", url).partition("?")[0]
