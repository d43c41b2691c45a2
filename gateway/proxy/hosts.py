"""Requests that a page of another site makes a browser send to this machine.

A port on loopback is reachable from every page that a browser on this machine opens: by
a request across sites, or by a name of the page's own that resolves to 127.0.0.1 (DNS
rebinding). Both are visible in the head: browsers set ``Origin``, ``Sec-Fetch-Site`` and
``Host``, and pages cannot change them.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.config.values import is_loopback
from gateway.core.refusal import Refusal
from gateway.identity.cidr import UNIX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.http.head import RequestHead

ANY = "*"
# Names that public DNS never resolves, so that no page can have one: RFC 6761, RFC 8375,
# and ICANN's reservation of ``.internal``. Names without a dot are not delegated either.
_LOCAL = (".localhost", ".test")
_PRIVATE = (*_LOCAL, ".internal", ".home.arpa")


class HostCheck:
    """Refuses names and pages that are not this gateway's own.

    ``names``: of ``server.hosts``, beside loopback names and the listen address; they may
    hold ``*`` as a pattern.
    """

    __slots__ = ("_names", "_patterns")

    def __init__(self, names: Sequence[str], listen_host: str) -> None:
        lower = [_plain(name) for name in (*names, listen_host) if name]
        self._names = frozenset(lower)
        self._patterns = tuple(name for name in lower if ANY in name)

    def refuse(
        self, head: RequestHead, peer_ip: str, trusts: Callable[[str], bool]
    ) -> Refusal | None:
        """The refusal of a foreign request. Peers on a Unix socket and trusted proxies,
        which forward names of their own, are not checked.
        """
        fields = head.fields
        # Clients without a browser send a Host that is right, and no Origin.
        host = head.host.decode("latin-1")
        named = not host or self._may_be(host)
        origin = fields.get(b"origin")
        site = fields.get(b"sec-fetch-site", b"")
        if named and origin is None and site != b"cross-site":
            return None
        if peer_ip == UNIX or trusts(peer_ip):
            return None
        if not named:
            text = f"{host[:100]!r} is not a name of this gateway (`[server] hosts`)."
            return Refusal(403, "bad_host", text)
        if origin is not None and self._is_own(origin, host):
            return None
        return Refusal(
            403,
            "cross_site",
            "The request was sent by a page of another site (`[server] hosts`).",
        )

    def _may_be(self, authority: str) -> bool:
        """Whether ``host:port`` names this gateway, or is no name of a web page."""
        name = _name(authority)
        private = name.endswith(_PRIVATE) or not ("." in name or ":" in name)
        return (bool(name) and private) or self._holds(name)

    def _holds(self, name: str) -> bool:
        if name in self._names or is_loopback(name):
            return True
        return any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def _is_own(self, origin: bytes, host: str) -> bool:
        _, mark, authority = origin.decode("latin-1").partition("://")
        same = authority.lower() == host.lower() and bool(host)
        name = _name(authority)
        return bool(mark) and (same or name.endswith(_LOCAL) or self._holds(name))


def _name(authority: str) -> str:
    """The host of ``host:port``; "" if it cannot be read."""
    try:
        return _plain(urlsplit(f"//{authority}").hostname or "")
    except ValueError:
        return ""


def _plain(name: str) -> str:
    return name.strip("[]").rstrip(".").lower()


def host_check(names: Sequence[str], listen_host: str) -> HostCheck | None:
    """The check of a listener; None: any name. Without ``names`` only a listener on
    loopback is checked: others are addressed by names that nobody has stated.
    """
    if ANY in names or not (names or is_loopback(listen_host)):
        return None
    return HostCheck(names, listen_host)
