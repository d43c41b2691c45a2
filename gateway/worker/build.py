"""Makes the data plane's tables from a configuration; chooses the concrete classes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gateway.config.resolve import Resolved, resolve
from gateway.http.pool import Pool
from gateway.http.shared import WireSettings
from gateway.http.target import Target, UpstreamSettings
from gateway.identity.cidr import Networks, parse_address
from gateway.identity.identify import Identifier
from gateway.limits.plans import PlanBook
from gateway.proxy.hosts import host_check
from gateway.proxy.route import Route
from gateway.proxy.tables import DataSettings, Tables
from gateway.serve.price_table import load_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config.resolve import ResolvedRoute
    from gateway.config.structs import Config, ServerTable
    from gateway.core.model import JwtRule
    from gateway.metering.prices import PriceTable
    from gateway.worker.jwt import JwtVerifier


class Builder:
    """Makes the tables of each generation; unchanged upstreams keep their pools."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        via_name: bytes,
        load_prices: Callable[[], PriceTable] = load_table,
    ) -> None:
        self._loop = loop
        self._via_name = via_name
        self._generation = 0
        self._pools: dict[Any, Pool] = {}
        self._load_prices = load_prices
        self._table = load_prices()
        self.jwt: JwtVerifier | None = None
        self._jwks: dict[str, Any] = {}

    def build(self, config: Config, secret: bytes) -> Tables:
        """Make the tables. Raises ValueError (a key set), OSError (files, certificates)."""
        resolved = resolve(config)
        self._generation += 1
        self._table = self._load_prices()
        rules = [t.jwt for t in resolved.tenants if t.jwt is not None]
        self.jwt = self._verifier(rules)
        pools: dict[Any, Pool] = {}
        routes = [self._route(route, pools) for route in resolved.routes]
        for key, pool in self._pools.items():
            if key not in pools:
                pool.close_idle()
        self._pools = pools
        trusted = Networks(config.server.trusted_proxies)
        return Tables(
            generation=self._generation,
            settings=data_settings(
                config.server, self._via_name, tenants=bool(config.tenants)
            ),
            routes=routes,
            identifier=self._identifier(
                resolved, secret, trusted, config.server.client_ip_header
            ),
            plans=PlanBook(
                config.store.prefix.encode(),
                resolved.timezone,
                canonical=self._table.canonical_name,
            ),
            prices=self._prices(resolved),
            trusts=trust_check(trusted),
            hosts=host_check(config.server.hosts, config.server.address[0]),
        )

    def _verifier(self, rules: Sequence[JwtRule]) -> JwtVerifier | None:
        if not rules:
            return None
        # Imported late: 9 MB of cryptography that only tenants with tokens need.
        from gateway.worker.jwt import JwtVerifier  # noqa: PLC0415

        verifier = JwtVerifier(rules)
        for url, keys in self._jwks.items():
            verifier.set_keys(url, keys)
        return verifier

    def take_keys(self, url: str, keys: Any) -> None:
        """Take a key set that control has fetched. Raises ValueError."""
        if self.jwt is not None:
            self.jwt.set_keys(url, keys)
        self._jwks[url] = keys

    def _identifier(
        self,
        resolved: Resolved,
        secret: bytes,
        trusted: Networks,
        client_ip_header: str | None,
    ) -> Identifier:
        return Identifier(
            resolved.tenants,
            secret,
            verify_jwt=self.jwt.verify if self.jwt is not None else None,
            trusted=trusted,
            unknown=resolved.unknown_clients,
            anonymous=resolved.anonymous,
            client_ip_header=client_ip_header.encode() if client_ip_header else None,
        )

    def _prices(self, resolved: Resolved) -> Mapping[str, PriceTable]:
        policies = [tenant.policy for tenant in resolved.tenants]
        for tenant in resolved.tenants:
            policies += [key.policy for key in tenant.keys if key.policy is not None]
        if resolved.anonymous is not None:
            policies.append(resolved.anonymous)
        tables = {
            policy.name: self._table.with_overrides(policy.prices, policy.unknown_price)
            for policy in policies
        }
        # Clients without a tenant have a policy by name even if they are denied.
        tables.setdefault("anonymous", self._table)
        return tables

    def _route(self, config: ResolvedRoute, pools: dict[Any, Pool]) -> Route:
        key = (
            config.targets,
            config.ca_file,
            config.tls_verify,
            config.proxy,
            config.max_connections,
            config.keepalive_s,
            config.connect_s,
        )
        pool = pools.get(key) or self._pools.get(key) or self._pool(config)
        pools[key] = pool
        return Route(config, pool, self._provider(config))

    def _provider(self, config: ResolvedRoute) -> str:
        target = config.targets[0]
        url = f"{target.scheme}://{target.host}{target.path}/"
        return config.provider or self._table.book.provider_of(url)

    def _pool(self, config: ResolvedRoute) -> Pool:
        targets = [
            Target(
                target.host,
                target.port,
                tls=target.scheme == "https",
                authority=target.authority.encode(),
                base_path=target.path.encode(),
            )
            for target in config.targets
        ]
        settings = UpstreamSettings(
            connect_s=config.connect_s,
            keepalive_s=config.keepalive_s,
            max_connections=config.max_connections,
            proxy=config.proxy,
        )
        secured = any(target.tls for target in targets)
        return Pool(
            self._loop, settings, targets, upstream_tls(config) if secured else None
        )

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


def trust_check(trusted: Networks) -> Callable[[str], bool]:
    """A cached check whether a peer's address belongs to a trusted proxy. A peer on a Unix
    socket is trusted if ``trusted`` lists "unix".
    """
    known: dict[str, bool] = {}

    def trusts(peer: str) -> bool:
        found = known.get(peer)
        if found is None:
            found = trusted.contains(parse_address(peer))
            if len(known) < 10_000:  # noqa: PLR2004 - addresses, about 1 MB
                known[peer] = found
        return found

    return trusts


def data_settings(
    server: ServerTable, via_name: bytes, *, tenants: bool = False
) -> DataSettings:
    """Settings of the data plane from ``[server]``."""
    return DataSettings(
        max_body=server.max_body,
        max_inflate=server.max_inflate,
        max_inflate_ratio=server.max_inflate_ratio,
        health_path=server.health_path,
        via_name=via_name,
        tenants=tenants,
    )


def wire_settings(server: ServerTable) -> WireSettings:
    """Limits on client connections from ``[server]``."""
    unlimited = server.max_connections
    return WireSettings(
        head_timeout_s=float(server.head_timeout),
        keepalive_timeout_s=float(server.keepalive_timeout),
        write_timeout_s=float(server.write_timeout),
        min_body_rate=float(server.min_body_rate),
        max_header_bytes=server.max_header_bytes,
        max_headers=server.max_headers,
        max_target_bytes=server.max_target,
        max_connections=server.max_connections,
        max_connections_per_ip=server.max_connections_per_ip or unlimited,
        proxy_protocol=server.proxy_protocol,
        tls=server.tls is not None,
    )


def upstream_tls(config: ResolvedRoute) -> ssl.SSLContext:
    """A context for TLS 1.2 or later, with verification unless ``tls_verify = false``."""
    context = ssl.create_default_context(cafile=config.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not config.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
