"""Step 1: from peer address and request head to tenant, user and client_ip.

A tenant is found by, in this order: the hash of an API key, a JSON Web Token, a header
that a trusted peer set, the network of the client. A client that matches none belongs
to the tenant without any rule, if there is one; otherwise it gets the anonymous policy
or a 401 (``server.unknown_clients``). All credentials of the request are tried, in the
order of ``credentials.find_credentials``; the first that matches a tenant decides.

The user comes from the first source of ``policy.user_from`` that is present. A verified
token is the source "jwt", not "credential": tokens change every hour, users do not.

Ids never cross from one source to another: those of keys begin with ``key_``, and no
other source can state such an id (``_own_id``, ``body_user_id``). Only verified ids are
compared with the allow list. A credential that matches no tenant is a user only if the
upstream checks it; where the gateway sends its own key, such a client is anonymous, and
counted by its address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Final, Literal, TypeAlias

import msgspec

from gateway.core.lru import Lru
from gateway.core.model import JwtRule, Limit, Policy, Tenant
from gateway.identity.allow import AllowList, split_allow_entry
from gateway.identity.cidr import Address, Networks
from gateway.identity.claims import RETRY_JWT_S, claims_hold, expires_at
from gateway.identity.credentials import (
    CredentialKind,
    CredentialReading,
    Head,
    RequestCredential,
    choose_credential,
    credentials_elsewhere,
    find_credentials,
    forwarded_credentials,
    is_preflight,
    reading_of,
    sender_id,
    size_of,
)
from gateway.identity.hops import (
    FORWARDED,
    XFF,
    RemoteAddress,
    client_ip,
    forwarded_address,
    peer_address,
)
from gateway.identity.ids import readable_id, shorten_id
from gateway.identity.keys import HeldKey, hold_keys

__all__ = [
    "AllowList",
    "Head",
    "Identifier",
    "Identity",
    "Unauthorized",
    "VerifyJwt",
    "client_ip",
    "is_preflight",
    "split_allow_entry",
    "with_body_user",
]

ANONYMOUS: Final = "anonymous"
# Identities cached; about 1 KB each.
DEFAULT_CAPACITY: Final = 10_000
# Identities of longer credentials or proxy chains are not cached, so that unknown
# clients cannot fill the memory. RS256 tokens have about 1 KB.
_MAX_CACHED_BYTES: Final = 4096
_FOREVER: Final = float("inf")
# Tokens of one request that are verified, for each tenant: clients send one.
_TOKENS_MAX: Final = 4
# Ids with these beginnings belong to one source; other sources get a prefix.
_RESERVED: Final = ("key_", "aws_", "body:", "jwt:", "header:", "anonymous")
_BODY: Final = "body:"
# Preflights need no credential, so that they are limited by address in any policy.
_PREFLIGHT_LIMIT: Final = Limit("client_ip", "requests", 600, 60_000_000)
_ANY: Final = reading_of()

UserSource = Literal["credential", "jwt", "header", "body", "none"]
# (token, rule, now) -> the claims of a valid token, None for any other.
VerifyJwt: TypeAlias = Callable[[str, JwtRule, float], Mapping[str, object] | None]


class Identity(msgspec.Struct, frozen=True, gc=False):
    """The sender of a request. Shared between requests; contains no API key.

    ``credential_kind`` and ``credential_index`` identify the credential that matched the
    tenant (or the first one of an unknown client), so that it can be replaced for the
    upstream, unless it is ``signed``. ``key`` is the cache key of plans.
    """

    tenant: Tenant
    policy: Policy
    user: str
    user_source: UserSource
    client_ip: str
    # The full address behind client_ip; None: a peer on a Unix socket.
    address: Address | None
    key: tuple[str, str, str]
    allow_list: AllowList
    # On the policy's allow list: never limited, scored or blocked.
    allowed: bool = False
    credential_kind: CredentialKind = ""
    credential_index: int = -1
    signed: bool = False
    # A user named by the body takes precedence over the one found in the head.
    takes_body_user: bool = False
    # ``user`` comes from a key, token or header that the gateway has checked.
    verified: bool = False
    # Ids of users that the body names: ``body_prefix + NAME + body_suffix``.
    body_prefix: str = ""
    body_suffix: str = ""
    # Several credentials differ and match no tenant: which one counts is not known.
    ambiguous: bool = False
    # Indices of the credential fields to forward; None: all.
    forwarded: frozenset[int] | None = None
    # Epoch seconds after which the request has to be identified again.
    expires_at: float = _FOREVER
    # Of the client's key, if it has a name.
    key_name: str = ""
    tags: tuple[str, ...] = ()
    # Id of the credential (of the address without one) that only the upstream can check.
    unchecked: str = ""


class Unauthorized(msgspec.Struct, frozen=True, gc=False):
    """An unknown client where the configuration denies these: answer 401. ``disputed``:
    the message names two clients; answer 400. ``code``: why a known key is refused.
    """

    message: str
    client_ip: str
    address: Address | None
    disputed: bool = False
    code: str = ""


def with_body_user(identity: Identity, user: str | None) -> Identity:
    """The identity with the user that the body names, if the policy takes it."""
    if user is None or not identity.takes_body_user:
        return identity
    user = body_user_id(identity, user)
    if not user:
        return identity
    # ``allowed`` stays as it is: a body can name anyone.
    return msgspec.structs.replace(
        identity,
        user=user,
        user_source="body",
        key=(identity.key[0], identity.client_ip, user),
    )


def body_user_id(identity: Identity, name: str) -> str:
    """The id of a user that a body names; "" if the name is not readable.

    Within a tenant that is found by its key, the key's holder names its own users. All
    others get a prefix, and without a verified sender the address or key as a suffix:
    two strangers who state the same name are two users.
    """
    name = readable_id(name)
    if not name:
        return ""
    prefix = identity.body_prefix
    if not prefix and name.startswith(_RESERVED):
        prefix = _BODY
    return shorten_id(f"{prefix}{name}{identity.body_suffix}") if prefix else name


class _Match(msgspec.Struct, frozen=True, gc=False):
    """The tenant of a request, and the credential or claims that matched it."""

    tenant: Tenant
    credential: RequestCredential | None = None
    claims: Mapping[str, object] | None = None
    expires_at: float = _FOREVER
    by_header: bool = False
    held: HeldKey | None = None

    @property
    def scope(self) -> str:
        """Distinguishes plans of the same client."""
        return self.tenant.name if self.held is None else self.held.scope

    @property
    def verified(self) -> bool:
        """Whether a key, a token or a trusted header was checked, not only a key id."""
        found = self.credential
        return self.by_header or (found is not None and not found.signed)


class _Sender(msgspec.Struct, frozen=True, gc=False):
    """The credential that stands for the sender, and how far it can be trusted."""

    credential: RequestCredential | None = None
    ambiguous: bool = False
    forwarded: frozenset[int] | None = None


class Identifier:
    """Identifies senders by the rules of all tenants; recent ones by one look-up.

    ``secret`` keys the HMAC behind ``key_…`` user ids. ``trusted``: the proxies.
    ``unknown``: clients without a tenant get the ``anonymous`` policy, or 401 ("deny").
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
        client_ip_header: bytes | None = None,
        capacity: int = DEFAULT_CAPACITY,
    ) -> None:
        self._secret = secret
        self._verify_jwt = verify_jwt
        self._trusted = trusted or Networks()
        self._client_ip_header = client_ip_header
        self._read_rules(tenants)
        anonymous_tenant = Tenant(ANONYMOUS, anonymous or Policy(ANONYMOUS))
        open_to_all = (tenant for tenant in tenants if not _has_rule(tenant))
        self._fallback = next(open_to_all, None)
        if self._fallback is None and unknown == "anonymous":
            self._fallback = anonymous_tenant
        # A preflight carries no credential, hence neither tenant nor user.
        self._preflight_tenant = _for_preflight(self._fallback or anonymous_tenant)
        all_tenants = (*tenants, anonymous_tenant, self._preflight_tenant)
        all_tenants += tuple(held.tenant for held in self._by_digest.values())
        self._allow = {id(t.policy): AllowList(t.policy.allow) for t in all_tenants}
        # Keeps the policies alive, so that the ids above stay unique.
        self._all_tenants = all_tenants
        self._peers: Lru[str, RemoteAddress] = Lru(capacity)
        self._chains: Lru[tuple[str, bytes, bytes], RemoteAddress] = Lru(capacity)
        self._known: Lru[object, Identity] = Lru(capacity)

    def _read_rules(self, tenants: Sequence[Tenant]) -> None:
        """Turn the tenants' rules into look-ups; of two equal rules the first counts."""
        # A dict look-up is safe against timing attacks here: the key is a SHA-256, and
        # an attacker cannot approach a given hash byte by byte.
        self._by_digest = hold_keys(tenants)
        self._by_jwt: list[tuple[Tenant, JwtRule]] = []
        self._by_header: list[tuple[bytes, bytes, Tenant]] = []
        self._by_network: list[tuple[Networks, Tenant]] = []
        names: set[bytes] = set()
        for tenant in tenants:
            if tenant.jwt is not None:
                self._by_jwt.append((tenant, tenant.jwt))
            if tenant.header is not None:
                name = _field_name(tenant.header.name)
                self._by_header.append((name, tenant.header.value.encode(), tenant))
                names |= {name, _field_name(tenant.header.user_header or "")}
            if tenant.cidrs:
                self._by_network.append((Networks(tenant.cidrs), tenant))
        self._trusted_names = tuple(sorted(names - {b""}))

    def forget(self) -> None:
        """Empty the cache of identities, for example after the JWT keys changed."""
        self._known.clear()

    def identify(
        self,
        peer_ip: str,
        head: Head,
        now: float,
        reading: CredentialReading = _ANY,
    ) -> Identity | Unauthorized:
        """The sender of a request; ``now`` in epoch seconds. ``reading``: which
        credentials the upstream of this request reads.
        """
        peer = self._peers.get(peer_ip) or self._new_peer(peer_ip)
        remote, trusted_fields = peer, None
        if peer.trusted:
            remote = self._forwarded(peer_ip, peer, head.fields)
            trusted_fields = tuple(map(head.fields.get, self._trusted_names))
            if remote.disputed:
                return _disputed(remote)
        # Remote addresses are cached objects, which hash faster than their text.
        elsewhere = credentials_elsewhere(head)
        key = (remote, head.credentials, elsewhere, trusted_fields, reading)
        identity = self._known.get(key)
        if identity is not None and now < identity.expires_at:
            return identity
        found = self._identify_new(
            remote, head, now, reading, trusted_fields=trusted_fields is not None
        )
        if isinstance(found, Identity) and size_of(key[1:4]) <= _MAX_CACHED_BYTES:
            self._known.put(key, found)
        return found

    def identify_preflight(self, peer_ip: str, head: Head) -> Identity | Unauthorized:
        """The sender of a CORS preflight: the fallback tenant without a user, with only
        its limits per client_ip.
        """
        peer = self._peers.get(peer_ip) or self._new_peer(peer_ip)
        remote = self._forwarded(peer_ip, peer, head.fields) if peer.trusted else peer
        if remote.disputed:
            return _disputed(remote)
        key = ("preflight", remote)
        identity = self._known.get(key)
        if identity is None:
            match = _Match(self._preflight_tenant)
            identity = self._identity(remote, match, _Sender(), ANONYMOUS, "none")
            self._known.put(key, identity)
        return identity

    def _new_peer(self, peer_ip: str) -> RemoteAddress:
        remote = peer_address(peer_ip, self._trusted)
        self._peers.put(peer_ip, remote)
        return remote

    def _forwarded(
        self, peer_ip: str, peer: RemoteAddress, fields: Mapping[bytes, bytes]
    ) -> RemoteAddress:
        """The client that a trusted peer names; the peer where it names none."""
        xff, forwarded = fields.get(XFF, b""), fields.get(FORWARDED, b"")
        if not xff and not forwarded:
            return peer
        key = (peer_ip, xff, forwarded)
        remote = self._chains.get(key)
        if remote is None:
            remote = forwarded_address(
                peer, fields, self._trusted, self._client_ip_header
            )
            if len(xff) + len(forwarded) <= _MAX_CACHED_BYTES:
                self._chains.put(key, remote)
        return remote

    def _identify_new(
        self,
        remote: RemoteAddress,
        head: Head,
        now: float,
        reading: CredentialReading,
        *,
        trusted_fields: bool,
    ) -> Identity | Unauthorized:
        credentials = find_credentials(head)
        match = (
            self._match_key(credentials, reading)
            or self._match_jwt(credentials, now)
            or (self._match_header(head) if trusted_fields else None)
            or self._match_network(remote)
            or self._match_fallback(credentials, now)
        )
        if match is None:
            message = (
                "Unknown credential." if credentials else "No credential was sent."
            )
            return Unauthorized(message, remote.client_ip, remote.address)
        if match.held is not None:
            code, message = match.held.fault(remote, now)
            if code:
                where = remote.client_ip, remote.address
                return Unauthorized(message, *where, code=code)
        sender = _sender(match, credentials, reading)
        user, user_source = self._find_user(
            match, sender, remote, head if trusted_fields else None
        )
        return self._identity(
            remote, match, sender, user, user_source, replaced=reading.replaced
        )

    def _find_user(
        self,
        match: _Match,
        sender: _Sender,
        remote: RemoteAddress,
        trusted_head: Head | None,
    ) -> tuple[str, UserSource]:
        """The user by the first source that is present, and that source. A user named
        by a trusted header comes before a credential that nobody has checked.
        """
        order: Sequence[UserSource] = match.tenant.policy.user_from
        if match.credential is None and "header" in order:
            order = ("header", *order)
        for source in order:
            if source == "credential" and match.claims is None:
                found = sender.credential
                if found is not None:
                    return found.user_id(self._secret, remote.client_ip), source
            user = _own_id(source, _stated_user(source, match, trusted_head))
            if user:
                return user, source
        return ANONYMOUS, "none"

    def _match_key(
        self, credentials: list[RequestCredential], reading: CredentialReading
    ) -> _Match | None:
        for credential in credentials if self._by_digest else ():
            if credential.signed and reading.replaced:
                continue  # nobody would check the signature
            held = self._by_digest.get(credential.digest())
            if held is not None:
                return _Match(held.tenant, credential, None, held.expires, held=held)
        return None

    def _match_jwt(
        self, credentials: list[RequestCredential], now: float
    ) -> _Match | None:
        verify = self._verify_jwt
        if verify is None or not self._by_jwt:
            return None
        found = filter(RequestCredential.looks_like_jwt, credentials)
        for credential in islice(found, _TOKENS_MAX):
            token = credential.value.decode("latin-1")
            for tenant, rule in self._by_jwt:
                claims = verify(token, rule, now)
                if claims is not None and claims_hold(claims, rule):
                    return _Match(tenant, credential, claims, expires_at(claims, now))
        return None

    def _match_header(self, head: Head) -> _Match | None:
        for name, value, tenant in self._by_header:
            if head.fields.get(name) == value:
                return _Match(tenant, by_header=True)
        return None

    def _match_network(self, remote: RemoteAddress) -> _Match | None:
        for networks, tenant in self._by_network:
            if networks.contains(remote.address):
                return _Match(tenant)
        return None

    def _match_fallback(
        self, credentials: list[RequestCredential], now: float
    ) -> _Match | None:
        """The tenant of clients that match no rule. A rejected token is identified again
        after RETRY_JWT_S.
        """
        if self._fallback is None:
            return None
        failed = self._by_jwt and any(
            map(RequestCredential.looks_like_jwt, credentials)
        )
        until = now + RETRY_JWT_S if failed else _FOREVER
        return _Match(self._fallback, expires_at=until)

    def _identity(
        self,
        remote: RemoteAddress,
        match: _Match,
        sender: _Sender,
        user: str,
        user_source: UserSource,
        *,
        replaced: bool = False,
    ) -> Identity:
        tenant, credential = match.tenant, sender.credential
        held = match.held
        allow = self._allow[id(tenant.policy)]
        # Plans of preflights lack the limits of users, so they need their own key.
        key_user = "" if tenant is self._preflight_tenant else user
        by_key = user_source == "credential" and match.verified
        verified = by_key or user_source in ("jwt", "header")
        prefix = suffix = ""
        if not match.verified:
            prefix = _BODY
            suffix = "@" + (remote.client_ip if user == ANONYMOUS else user)
        elif tenant.jwt or tenant.header:
            prefix = _BODY  # names of tokens and headers have no prefix
        return Identity(
            tenant,
            tenant.policy,
            user,
            user_source,
            remote.client_ip,
            remote.address,
            (match.scope, remote.client_ip, key_user),
            allow,
            allow.holds_address(remote, tenant.name)
            or ((verified or user == ANONYMOUS) and allow.holds_user(user)),
            credential.kind if credential is not None else "",
            credential.index if credential is not None else -1,
            credential is not None and credential.signed,
            _takes_body_user(
                tenant.policy, user_source, explicit=replaced and not match.verified
            ),
            verified,
            prefix,
            suffix,
            sender.ambiguous,
            sender.forwarded,
            expires_at=match.expires_at,
            key_name="" if held is None else held.name,
            tags=() if held is None else held.tags,
            unchecked=""
            if match.verified or replaced
            else sender_id(credential, self._secret, remote.client_ip),
        )


def _disputed(remote: RemoteAddress) -> Unauthorized:
    message = "X-Forwarded-For and Forwarded name different clients."
    return Unauthorized(message, remote.client_ip, remote.address, disputed=True)


def _sender(
    match: _Match,
    credentials: Sequence[RequestCredential],
    reading: CredentialReading,
) -> _Sender:
    """The credential that matched, else the one that the upstream reads."""
    if match.credential is not None:
        return _Sender(match.credential)
    chosen, ambiguous = choose_credential(credentials, reading)
    if chosen is None:
        return _Sender(ambiguous=ambiguous)
    forwarded = forwarded_credentials(credentials, chosen)
    headers = sum(credential.index >= 0 for credential in credentials)
    return _Sender(chosen, forwarded=None if len(forwarded) == headers else forwarded)


def _stated_user(source: UserSource, match: _Match, trusted_head: Head | None) -> str:
    """The user that a verified token or a trusted header states, else ""."""
    rule = match.tenant.jwt
    if source == "jwt" and match.claims is not None and rule is not None:
        claim = match.claims.get(rule.user_claim)
        named = isinstance(claim, str | int) and not isinstance(claim, bool)
        return readable_id(str(claim)) if named else ""
    header = match.tenant.header
    if source == "header" and trusted_head is not None and header is not None:
        value = trusted_head.fields.get(_field_name(header.user_header or ""), b"")
        return readable_id(value.decode("utf-8", "replace"))
    return ""


def _own_id(source: UserSource, user: str) -> str:
    """An id that a token or header states, with a prefix if it looks like the id of
    another source.
    """
    return shorten_id(f"{source}:{user}") if user.startswith(_RESERVED) else user


def _has_rule(tenant: Tenant) -> bool:
    return bool(
        tenant.api_keys or tenant.keys or tenant.jwt or tenant.header or tenant.cidrs
    )


def _for_preflight(tenant: Tenant) -> Tenant:
    """The tenant with only its limits per client_ip, and without sources of users."""
    policy = tenant.policy
    limits = tuple(limit for limit in policy.limits if limit.per == "client_ip")
    if not any(limit.meter == "requests" for limit in limits):
        limits += (_PREFLIGHT_LIMIT,)
    bare = msgspec.structs.replace(policy, limits=limits, user_from=())
    return msgspec.structs.replace(tenant, policy=bare)


def _field_name(name: str) -> bytes:
    return name.lower().encode()


def _takes_body_user(
    policy: Policy, user_source: UserSource, *, explicit: bool
) -> bool:
    """Whether the body may name the user.

    ``explicit``: only if the policy lists "body" before "credential". Otherwise clients
    that nobody has checked would be a new user with each name.
    """
    order: tuple[str, ...] = policy.user_from
    if "body" not in order:
        return False
    if user_source == "none":
        return not explicit or "credential" not in order[: order.index("body")]
    return order.index("body") < order.index(user_source)
