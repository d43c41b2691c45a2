"""The API keys of all tenants by their hashes, and what a key's own rules refuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.core.model import ApiKey, Tenant
from gateway.identity.cidr import Networks
from gateway.identity.hops import RemoteAddress

_NO_EXPIRY: Final = float("inf")


class HeldKey(msgspec.Struct, frozen=True, gc=False):
    """A key that matched. ``tenant`` has the key's policy; ``named``: its entry, if it
    has a name.
    """

    tenant: Tenant
    named: ApiKey | None = None
    networks: Networks | None = None

    @property
    def expires(self) -> float:
        """Epoch seconds; infinite for a key that does not expire."""
        return _NO_EXPIRY if self.named is None else self.named.expires

    @property
    def name(self) -> str:
        """Its name, else ""."""
        return "" if self.named is None else self.named.name

    @property
    def tags(self) -> tuple[str, ...]:
        """Words for records."""
        return () if self.named is None else self.named.tags

    @property
    def scope(self) -> str:
        """Distinguishes plans: the tenant, with the key's name if it has its own policy."""
        if self.named is None or self.named.policy is None:
            return self.tenant.name
        return f"{self.tenant.name}/{self.named.name}"

    def fault(self, remote: RemoteAddress, now: float) -> tuple[str, str]:
        """Code and message of a refusal; ("", "") if the key may be used."""
        if now >= self.expires:
            return "key_expired", "The API key has expired."
        if self.networks is not None and not self.networks.contains(remote.address):
            return "key_network", "The API key may not be used from this address."
        return "", ""


def hold_keys(tenants: Sequence[Tenant]) -> dict[bytes, HeldKey]:
    """Keys by the SHA-256 of their value; of two equal ones the first counts."""
    held: dict[bytes, HeldKey] = {}
    for tenant in tenants:
        for text in tenant.api_keys:
            held.setdefault(_digest(text), HeldKey(tenant))
        for key in tenant.keys:
            owner = tenant
            if key.policy is not None:
                owner = msgspec.structs.replace(tenant, policy=key.policy)
            networks = Networks(key.networks) if key.networks else None
            held.setdefault(_digest(key.hash), HeldKey(owner, key, networks))
    return held


def _digest(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("sha256:"))
