"""The data plane's tables for one generation of the configuration.

Replaced as a whole on reload: an exchange keeps the tables it began with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from gateway.config.structs import ServerTable
from gateway.core.lru import Lru
from gateway.metering.dialects import Match, find_endpoint
from gateway.metering.dialects.paths import other_spellings

if TYPE_CHECKING:
    from gateway.core.model import Policy
    from gateway.identity.identify import Identifier
    from gateway.limits.plans import PlanBook
    from gateway.metering.prices import PriceTable
    from gateway.proxy.hosts import HostCheck
    from gateway.proxy.route import Route

# Capacity of the cache of endpoints by path: ids in paths make many distinct ones.
MAX_PATHS = 4096
_SERVER = ServerTable()


class DataSettings(msgspec.Struct, frozen=True):
    """Settings of the data plane outside the policies. Sizes are bytes."""

    max_body: int = _SERVER.max_body
    max_inflate: int = _SERVER.max_inflate
    max_inflate_ratio: int = _SERVER.max_inflate_ratio
    health_path: str | None = _SERVER.health_path
    via_name: bytes = b"tidegate"
    # Tenants are configured: they share the account of each upstream's ``api_key``.
    tenants: bool = False


class Tables:
    """Routes, identifier, plans and prices of one generation."""

    __slots__ = (
        "_endpoints",
        "_prices",
        "_upstream_prices",
        "generation",
        "hosts",
        "identifier",
        "plans",
        "routes",
        "settings",
        "trusts",
    )

    def __init__(
        self,
        *,
        generation: int,
        settings: DataSettings,
        routes: Sequence[Route],
        identifier: Identifier,
        plans: PlanBook,
        prices: Mapping[str, PriceTable],
        trusts: Callable[[str], bool],
        hosts: HostCheck | None = None,
    ) -> None:
        self.generation = generation
        self.settings = settings
        self.routes = routes
        self.identifier = identifier
        self.plans = plans
        self._prices = prices  # by policy
        # By policy, provider, and whether the answer's own cost is trusted.
        self._upstream_prices: dict[tuple[str, str, bool], PriceTable] = {}
        self.trusts = trusts
        self.hosts = hosts  # refuses requests of foreign pages; None: not checked
        self._endpoints: Lru[tuple[str, str, str | None], Match] = Lru(MAX_PATHS)

    def find_endpoint(self, method: str, path: str, forced: str | None) -> Match:
        """The endpoint of a path, cached. ``forced``: the dialect that the route sets."""
        key = (method, path, forced)
        match = self._endpoints.get(key)
        if match is None:
            match = find_endpoint(method, path, forced)
            if not match.metered:
                match = _find_other_spelling(method, path, forced, match) or match
            self._endpoints.put(key, match)
        return match

    def prices_of(self, policy: Policy, route: Route | None = None) -> PriceTable:
        """The prices of an upstream's provider, with the policy's own."""
        if route is None:
            return self._prices[policy.name]
        key = (policy.name, route.provider, route.trust_cost)
        found = self._upstream_prices.get(key)
        if found is None:
            found = self._upstream_prices[key] = self._prices[policy.name].of_upstream(
                route.provider, trust_cost=route.trust_cost
            )
        return found


def _find_other_spelling(
    method: str, path: str, forced: str | None, literal: Match
) -> Match | None:
    """Find the endpoint that a lenient upstream would serve for this path, where the
    literal path is none: other spellings must not bypass metering.
    """
    for plain in other_spellings(path):
        match = find_endpoint(method, plain, forced)
        if match.metered or match.endpoint not in ("other", literal.endpoint):
            return match
    return None
