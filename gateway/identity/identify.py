"""Step 1: peer and request head -> tenant, user, client_ip.

A tenant is found by, in this order: the hash of an API key, a JSON Web Token, a header
that a trusted peer set, the network of the client. Whoever matches none belongs to the
tenant without any rule, where there is one; else he is unknown, which is the anonymous
policy or a refusal. Every credential of the request is tried, in the order of
``credentials.find_credentials``; the first that names a tenant wins.

The user comes from the first source of ``policy.user_from`` that is there. A verified
token is the source "jwt", not "credential": tokens change every hour, people do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from gateway.core.lru import Lru
from gateway.core.model import JwtRule, Policy, Tenant
from gateway.identity.cidr import (
    Address,
    Networks,
    normal_client_ip,
    parse_address,
    parse_network,
)
from gateway.identity.credentials import (
    CredentialKind,
    Head,
    RequestCredential,
    credentials_elsewhere,
    find_credentials,
)
from gateway.identity.hops import (
    FORWARDED,
    XFF,
    RemoteAddress,
    client_ip,
    forwarded_address,
    peer_address,
)

__all__ = [
    "AllowList",
    "Head",
    "Identifier",
    "Identity",
    "Unauthorized",
    "VerifyJwt",
    "client_ip",
    "is_preflight",
    "readable_id",
    "split_allow_entry",
    "with_body_user",
]

ANONYMOUS: Final = "anonymous"
# Identities remembered; about 1 KB each.
DEFAULT_CAPACITY: Final = 10_000
# Longer ids end in a hash, so that different ones stay different.
MAX_ID_CHARS: Final = 128
_TAIL_HEX_DIGITS: Final = 16
# A body may name a user of megabytes; cleaning looks at this much.
_MAX_READ_CHARS: Final = 1024
# Heads with longer credentials or chains are identified anew each time: a stranger
# may not fill the memory with them. RS256 tokens are about 1 KB.
_MAX_CACHED_BYTES: Final = 4096
# A token that failed may be good a moment later (keys rotated, not valid yet).
_RETRY_JWT_S: Final = 5.0
_FOREVER: Final = float("inf")
_HEX_DIGITS: Final = frozenset("0123456789abcdefABCDEF")
# Kinds of allow-list entries, written ``kind:id``.
ALLOW_KINDS: Final = ("client_ip", "network", "user", "tenant")
_SCOPES: Final = frozenset({"scope", "scp"})

UserSource = Literal["credential", "jwt", "header", "body", "none"]
# (token, rule, now) -> the claims of a valid token, None for any other.
VerifyJwt: TypeAlias = Callable[[str, JwtRule, float], Mapping[str, object] | None]


def split_allow_entry(entry: str) -> tuple[str, str]:
    """Kind and id of an allow-list entry; a bare address or network gets its kind.

    Raises ValueError for an unknown kind, and for a bare entry that is no network. Of
    an entry with a kind, the id is not checked.
    """
    kind, colon, id_ = entry.partition(":")
    if colon and kind in ALLOW_KINDS:
        return kind, id_
    # The first group of an IPv6 address consists of hexadecimal digits.
    if colon and kind.isidentifier() and not _HEX_DIGITS.issuperset(kind):
        expected = ":, ".join(ALLOW_KINDS) + ":"
        raise ValueError(f"{kind!r} is not a kind of subject: expected {expected}")
    parse_network(entry)
    return "network" if "/" in entry else "client_ip", entry


class AllowList:
    """The subjects that a policy never limits, scores or blocks."""

    __slots__ = ("_ips", "_networks", "_tenants", "_users")

    def __init__(self, entries: Iterable[str]) -> None:
        """Read the entries. Raises ValueError for unknown kinds and bad networks."""
        ids: dict[str, set[str]] = {kind: set() for kind in ALLOW_KINDS}
        for entry in entries:
            kind, id_ = split_allow_entry(entry)
            ids[kind].add(id_)
        self._ips = {normal_client_ip(id_) for id_ in ids["client_ip"]}
        self._networks = Networks(ids["network"])
        self._users = ids["user"]
        self._tenants = ids["tenant"]

    def holds_address(self, remote: RemoteAddress, tenant: str) -> bool:
        """Whether all requests from this address or of this tenant are allowed."""
        return (
            remote.client_ip in self._ips
            or tenant in self._tenants
            or self._networks.contains(remote.address)
        )

    def holds_user(self, user: str) -> bool:
        """Whether all requests of this user are allowed, from any address."""
        return user in self._users

    def holds_subject(self, tenant: str, kind: str, id_: str) -> bool:
        """Whether this subject of a tenant, as detection names it, is on the list."""
        if tenant in self._tenants:
            return True
        if kind == "client_ip":
            if id_ in self._ips:
                return True
            # An IPv6 client is counted by its /64: look up the network's first address.
            address = parse_address(id_.partition("/")[0])
            return address is not None and self._networks.contains(address)
        return (kind == "user" and id_ in self._users) or (
            kind == "tenant" and id_ in self._tenants
        )


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Who sends a request. Shared between requests; contains no key.

    ``credential_kind`` and ``credential_index`` say which credential named the tenant
    (or was the first of an unknown client), so that it can be replaced for the
    upstream; ``signed`` ones may not be. ``key`` is what plans are cached by.
    """

    tenant: Tenant
    policy: Policy
    user: str
    user_source: UserSource
    client_ip: str
    # The full address that client_ip was cut from; None: a peer on a Unix socket.
    address: Address | None
    key: tuple[str, str, str]
    allow_list: AllowList
    # On the policy's allow-list: never limited nor acted on.
    allowed: bool = False
    credential_kind: CredentialKind = ""
    credential_index: int = -1
    signed: bool = False
    # A user that the body names goes before the one found in the head.
    takes_body_user: bool = False
    # Epoch seconds after which this identity has to be established anew.
    expires_at: float = _FOREVER


class Unauthorized(msgspec.Struct, frozen=True, gc=False):
    """Nobody we know, and the configuration denies such: answer 401."""

    message: str
    client_ip: str
    address: Address | None


def is_preflight(head: Head) -> bool:
    """A browser asks whether it may: no key on it, counted for its client_ip only."""
    return head.method == "OPTIONS" and b"access-control-request-method" in head.fields


def readable_id(text: str) -> str:
    """An id as others wrote it, made safe to keep and to print.

    What is not printable (control characters, direction marks, lone surrogates) is
    cut out; over 128 characters the end gives way to a hash.
    """
    whole, text = text, text[:_MAX_READ_CHARS].strip()
    if not text.isprintable():
        text = "".join(char for char in text if char.isprintable()).strip()
    if len(text) <= MAX_ID_CHARS and len(whole) <= _MAX_READ_CHARS:
        return text
    written = whole.encode("utf-8", "surrogatepass")
    tail = hashlib.blake2b(written, digest_size=_TAIL_HEX_DIGITS // 2).hexdigest()
    return f"{text[: MAX_ID_CHARS - 1 - _TAIL_HEX_DIGITS]}~{tail}"


def with_body_user(identity: Identity, user: str | None) -> Identity:
    """The identity once the body is read: its user counts where the policy says so."""
    if user is None or not identity.takes_body_user:
        return identity
    user = readable_id(user)
    if not user:
        return identity
    return msgspec.structs.replace(
        identity,
        user=user,
        user_source="body",
        key=(identity.tenant.name, identity.client_ip, user),
        allowed=identity.allowed or identity.allow_list.holds_user(user),
    )


class _Match(msgspec.Struct, frozen=True, gc=False):
    """The tenant that a request belongs to, and by what."""

    tenant: Tenant
    credential: RequestCredential | None = None
    claims: Mapping[str, object] | None = None
    expires_at: float = _FOREVER


class Identifier:
    """Knows every tenant's rules; one look-up per request for clients seen lately.

    ``secret`` keys the HMAC behind ``key_…`` user ids. ``trusted`` are the proxies.
    ``unknown`` says what strangers get: the ``anonymous`` policy, or 401 ("deny").
    """

    def __init__(
        self,
        tenants: Sequence[Tenant],
        secret: bytes,
        *,
        verify_jwt: VerifyJwt | None = None,
        trusted: Networks | None = None,
        unknown: Literal["anonymous", "deny"] = "anonymous",
        anonymous: Policy | None = None,
        capacity: int = DEFAULT_CAPACITY,
    ) -> None:
        self._secret = secret
        self._verify_jwt = verify_jwt
        self._trusted = trusted or Networks()
        self._read_rules(tenants)
        stranger = Tenant(ANONYMOUS, anonymous or Policy(ANONYMOUS))
        open_to_all = (tenant for tenant in tenants if not _has_rule(tenant))
        self._fallback = next(open_to_all, None)
        if self._fallback is None and unknown == "anonymous":
            self._fallback = stranger
        # No one's tenant, no one's user: a preflight carries neither.
        self._preflight_tenant = _for_preflight(self._fallback or stranger)
        everyone = (*tenants, stranger, self._preflight_tenant)
        self._allow = {id(t.policy): AllowList(t.policy.allow) for t in everyone}
        # The ids above stay unique as long as their policies live.
        self._everyone = everyone
        self._peers: Lru[str, RemoteAddress] = Lru(capacity)
        self._chains: Lru[tuple[str, bytes, bytes], RemoteAddress] = Lru(capacity)
        self._known: Lru[object, Identity] = Lru(capacity)

    def _read_rules(self, tenants: Sequence[Tenant]) -> None:
        """Turn the tenants' rules into look-ups; the first of two equal ones wins."""
        # Comparing takes as long for any wrong key as for another: what is looked up
        # is a SHA-256, and nobody can steer a guess towards a given hash bit by bit.
        self._by_digest: dict[bytes, Tenant] = {}
        self._by_jwt: list[tuple[Tenant, JwtRule]] = []
        self._by_header: list[tuple[bytes, bytes, Tenant]] = []
        self._by_network: list[tuple[Networks, Tenant]] = []
        names: set[bytes] = set()
        for tenant in tenants:
            for api_key in tenant.api_keys:
                digest = bytes.fromhex(api_key.removeprefix("sha256:"))
                self._by_digest.setdefault(digest, tenant)
            if tenant.jwt is not None:
                self._by_jwt.append((tenant, tenant.jwt))
            if tenant.header is not None:
                name = _field_name(tenant.header.name)
                self._by_header.append((name, tenant.header.value.encode(), tenant))
                names |= {name, _field_name(tenant.header.user_header or "")}
            if tenant.cidrs:
                self._by_network.append((Networks(tenant.cidrs), tenant))
        self._vouched_names = tuple(sorted(names - {b""}))

    def forget(self) -> None:
        """Establish everyone anew, for example after the keys of tokens changed."""
        self._known.clear()

    def identify(self, peer_ip: str, head: Head, now: float) -> Identity | Unauthorized:
        """Who sends this request; ``now`` in epoch seconds."""
        peer = self._peers.get(peer_ip) or self._new_peer(peer_ip)
        source, vouched = peer, None
        if peer.trusted:
            source = self._behind(peer_ip, peer, head.fields)
            vouched = tuple(map(head.fields.get, self._vouched_names))
        # Sources are few and remembered, and hash far quicker than their addresses.
        key = (source, head.credentials, credentials_elsewhere(head), vouched)
        identity = self._known.get(key)
        if identity is not None and now < identity.expires_at:
            return identity
        found = self._establish(source, head, now, vouched=vouched is not None)
        if isinstance(found, Identity) and _size(key[1:]) <= _MAX_CACHED_BYTES:
            self._known.put(key, found)
        return found

    def identify_preflight(self, peer_ip: str, head: Head) -> Identity:
        """The sender of a preflight: an address, and limits per client_ip only."""
        peer = self._peers.get(peer_ip) or self._new_peer(peer_ip)
        source = self._behind(peer_ip, peer, head.fields) if peer.trusted else peer
        key = ("preflight", source)
        identity = self._known.get(key)
        if identity is None:
            match = _Match(self._preflight_tenant)
            identity = self._identity(source, match, None, ANONYMOUS, "none")
            self._known.put(key, identity)
        return identity

    def _new_peer(self, peer_ip: str) -> RemoteAddress:
        source = peer_address(peer_ip, self._trusted)
        self._peers.put(peer_ip, source)
        return source

    def _behind(
        self, peer_ip: str, peer: RemoteAddress, fields: Mapping[bytes, bytes]
    ) -> RemoteAddress:
        """The client that a trusted peer names, itself where it names none."""
        xff, forwarded = fields.get(XFF, b""), fields.get(FORWARDED, b"")
        if not xff and not forwarded:
            return peer
        key = (peer_ip, xff, forwarded)
        source = self._chains.get(key)
        if source is None:
            source = forwarded_address(peer, fields, self._trusted)
            if len(xff) + len(forwarded) <= _MAX_CACHED_BYTES:
                self._chains.put(key, source)
        return source

    def _establish(
        self, source: RemoteAddress, head: Head, now: float, *, vouched: bool
    ) -> Identity | Unauthorized:
        credentials = find_credentials(head)
        match = (
            self._match_key(credentials)
            or self._match_jwt(credentials, now)
            or (self._match_header(head) if vouched else None)
            or self._match_network(source)
            or self._match_anyone(credentials, now)
        )
        if match is None:
            message = (
                "Unknown credential." if credentials else "No credential was sent."
            )
            return Unauthorized(message, source.client_ip, source.address)
        credential = match.credential or next(iter(credentials), None)
        for user_source in match.tenant.policy.user_from:
            user = self._user(user_source, match, credential, head if vouched else None)
            if user:
                return self._identity(source, match, credential, user, user_source)
        return self._identity(source, match, credential, ANONYMOUS, "none")

    def _match_key(self, credentials: list[RequestCredential]) -> _Match | None:
        for credential in credentials if self._by_digest else ():
            tenant = self._by_digest.get(credential.digest())
            if tenant is not None:
                return _Match(tenant, credential)
        return None

    def _match_jwt(
        self, credentials: list[RequestCredential], now: float
    ) -> _Match | None:
        verify = self._verify_jwt
        if verify is None or not self._by_jwt:
            return None
        for credential in filter(RequestCredential.looks_like_jwt, credentials):
            token = credential.value.decode("latin-1")
            for tenant, rule in self._by_jwt:
                claims = verify(token, rule, now)
                if claims is not None and _claims_hold(claims, rule):
                    return _Match(tenant, credential, claims, _expiry(claims, now))
        return None

    def _match_header(self, head: Head) -> _Match | None:
        for name, value, tenant in self._by_header:
            if head.fields.get(name) == value:
                return _Match(tenant)
        return None

    def _match_network(self, source: RemoteAddress) -> _Match | None:
        for networks, tenant in self._by_network:
            if networks.contains(source.address):
                return _Match(tenant)
        return None

    def _match_anyone(
        self, credentials: list[RequestCredential], now: float
    ) -> _Match | None:
        if self._fallback is None:
            return None
        failed = self._by_jwt and any(
            map(RequestCredential.looks_like_jwt, credentials)
        )
        until = now + _RETRY_JWT_S if failed else _FOREVER
        return _Match(self._fallback, expires_at=until)

    def _user(
        self,
        user_source: UserSource,
        match: _Match,
        credential: RequestCredential | None,
        vouched_head: Head | None,
    ) -> str:
        """The user by one source, "" where it names none."""
        if user_source == "credential" and match.claims is None:
            return credential.user_id(self._secret) if credential is not None else ""
        if user_source == "jwt" and match.claims is not None and match.tenant.jwt:
            claim = match.claims.get(match.tenant.jwt.user_claim)
            named = isinstance(claim, str | int) and not isinstance(claim, bool)
            return readable_id(str(claim)) if named else ""
        rule = match.tenant.header
        if user_source == "header" and vouched_head is not None and rule is not None:
            value = vouched_head.fields.get(_field_name(rule.user_header or ""), b"")
            return readable_id(value.decode("utf-8", "replace"))
        return ""

    def _identity(
        self,
        source: RemoteAddress,
        match: _Match,
        credential: RequestCredential | None,
        user: str,
        user_source: UserSource,
    ) -> Identity:
        tenant = match.tenant
        allow = self._allow[id(tenant.policy)]
        # Plans of a preflight lack the limits of users, so they need a key of theirs.
        key_user = "" if tenant is self._preflight_tenant else user
        return Identity(
            tenant,
            tenant.policy,
            user,
            user_source,
            source.client_ip,
            source.address,
            (tenant.name, source.client_ip, key_user),
            allow,
            allow.holds_address(source, tenant.name) or allow.holds_user(user),
            credential.kind if credential is not None else "",
            credential.index if credential is not None else -1,
            credential is not None and credential.signed,
            _takes_body_user(tenant.policy, user_source),
            match.expires_at,
        )


def _has_rule(tenant: Tenant) -> bool:
    return bool(tenant.api_keys or tenant.jwt or tenant.header or tenant.cidrs)


def _for_preflight(tenant: Tenant) -> Tenant:
    policy = tenant.policy
    limits = tuple(limit for limit in policy.limits if limit.per == "client_ip")
    bare = msgspec.structs.replace(policy, limits=limits, user_from=())
    return msgspec.structs.replace(tenant, policy=bare)


def _field_name(name: str) -> bytes:
    return name.lower().encode()


def _size(carried: object) -> int:
    """Bytes of what a request carries to be known by, however it carries them."""
    if isinstance(carried, tuple):
        return sum(map(_size, carried))
    return len(carried) if isinstance(carried, bytes | str) else 0


def _claims_hold(claims: Mapping[str, object], rule: JwtRule) -> bool:
    return all(
        _claim_holds(name, claims.get(name), wanted)
        for name, wanted in rule.require.items()
    )


def _claim_holds(name: str, claim: object, wanted: str) -> bool:
    """Equal, or among several where a claim holds several (``groups``, ``scope``)."""
    if isinstance(claim, list):
        return wanted in claim
    if isinstance(claim, str):
        # RFC 8693 §4.2: scopes are one string, parted by spaces.
        return wanted in claim.split(" ") if name in _SCOPES else claim == wanted
    return isinstance(claim, bool | int) and str(claim).lower() == wanted.lower()


def _expiry(claims: Mapping[str, object], now: float) -> float:
    """A token counts until it expires; after that its verifier is asked each time."""
    exp = claims.get("exp")
    return float(exp) if isinstance(exp, int | float) else now + _RETRY_JWT_S


def _takes_body_user(policy: Policy, user_source: UserSource) -> bool:
    order: tuple[str, ...] = policy.user_from
    if "body" not in order:
        return False
    if user_source == "none":
        return True
    return order.index("body") < order.index(user_source)
