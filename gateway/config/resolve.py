"""Resolves the file's structs to the tables that workers run on: tenants, policies,
routes.

Inheritance is resolved here, once; no other module handles it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo

import msgspec

from gateway.config.errors import Key
from gateway.config.prices import PriceRates, to_price
from gateway.config.resolve_keys import model_list, resolve_key, split_keys, to_limit
from gateway.config.structs import (
    AlertTable,
    AnomalyTable,
    CapsTable,
    Config,
    LadderTable,
    ModelTable,
    PolicyTable,
    TenantTable,
    UpstreamTable,
)
from gateway.config.values import (
    Duration,
    FilePath,
    Secret,
    Size,
    Url,
)
from gateway.core.model import (
    Anomaly,
    Campaign,
    Caps,
    HeaderRule,
    JwtRule,
    Ladder,
    Limit,
    ModelCaps,
    Policy,
    Tenant,
)
from gateway.identity.identify import split_allow_entry
from gateway.metering.models import prepare_patterns
from gateway.store.opening import is_shared

Origin = str  # name of the policy that states a value, or BUILT_IN
BUILT_IN: Origin = "built in"
_KEY_HEADERS = {
    "anthropic": "x-api-key",
    "gemini": "x-goog-api-key",
    "azure": "api-key",
}
# Hosts whose APIs do not take the key as a Bearer token.
_HOST_DIALECTS = (
    (".anthropic.com", "anthropic"),
    ("generativelanguage.googleapis.com", "gemini"),
    (".openai.azure.com", "azure"),
    (".cognitiveservices.azure.com", "azure"),
)


class ResolvedTarget(msgspec.Struct, frozen=True):
    """One server of an upstream."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    authority: str  # value of the Host header
    path: str = ""  # prepended to the request's path; no trailing slash


class ResolvedRoute(msgspec.Struct, frozen=True):
    """An upstream with its defaults applied. Times are seconds."""

    name: str
    prefix: str  # no trailing slash; "" matches every path
    strip_prefix: bool
    targets: tuple[ResolvedTarget, ...]
    dialect: str | None  # None: detected from path and body
    on_disconnect: Literal["cancel", "drain"]
    drain_max: int
    drain_s: float
    websocket: bool
    ask_usage: bool
    provider: str  # whose prices apply; "": by the host
    trust_cost: bool
    # Replaces the client's credential; None: the client's is passed on.
    credential: SecretHeader | None
    ca_file: FilePath | None
    tls_verify: bool
    proxy: Url | None
    max_connections: int
    keepalive_s: float
    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float

    def matches(self, path: str) -> bool:
        """Whether ``path`` is under the prefix, on whole segments."""
        prefix = self.prefix
        return path.startswith(prefix) and (
            len(path) == len(prefix) or path[len(prefix)] == "/" or not prefix
        )


class SecretHeader(msgspec.Struct, frozen=True):
    """A header with a secret value, which is never printed."""

    header: str
    secret: Secret

    @property
    def value(self) -> str:
        """The header's value; prefixed with ``Bearer`` for ``authorization``."""
        key = self.secret.reveal()
        return f"Bearer {key}" if self.header == "authorization" else key


class Resolved(msgspec.Struct, frozen=True):
    """Everything that the workers and control are built from."""

    tenants: tuple[Tenant, ...]
    routes: tuple[ResolvedRoute, ...]  # longest prefix first
    unknown_clients: Literal["anonymous", "deny"]
    # Policy of clients that match no tenant; None: these are denied.
    anonymous: Policy | None
    timezone: str
    workers: int
    # Policy of tenants that are not in the file.
    default: Policy = Policy("default")
    campaigns: tuple[Campaign, ...] = ()

    def find_route(self, path: str) -> ResolvedRoute | None:
        """The route of a request path; None if no prefix matches."""
        return next((route for route in self.routes if route.matches(path)), None)


class Effective(msgspec.Struct, frozen=True):
    """A policy with the origin of each of its values."""

    policy: Policy
    origins: dict[str, Origin]
    limit_keys: tuple[Key, ...]  # where each of ``policy.limits`` is stated


def resolve(config: Config) -> Resolved:
    """Runtime tables of a valid configuration."""
    tenants = tuple(_tenant(table, config) for table in tenant_tables(config))
    unknown = unknown_clients(config)
    anonymous = None
    if unknown == "anonymous":
        anonymous = effective_policy(config, anonymous_policy_name(config)).policy
    routes = sorted(
        (resolve_route(upstream) for upstream in config.upstreams),
        key=lambda route: -len(route.prefix),
    )
    return Resolved(
        tenants=tenants,
        routes=tuple(routes),
        unknown_clients=unknown,
        anonymous=anonymous,
        timezone=config.server.timezone,
        workers=worker_count(config),
        default=effective_policy(config, "default").policy,
        campaigns=declared_campaigns(config),
    )


def declared_campaigns(config: Config) -> tuple[Campaign, ...]:
    """Campaigns in epoch seconds; times without an offset are in ``server.timezone``."""
    zone = ZoneInfo(config.server.timezone)

    def epoch(moment: datetime) -> float:
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()

    return tuple(
        Campaign(
            since=epoch(campaign.starts),
            to=epoch(campaign.ends),
            expect=campaign.expect,
            tenant=None if campaign.tenant == "*" else campaign.tenant,
        )
        for campaign in config.campaigns
    )


def tenant_tables(config: Config) -> tuple[TenantTable, ...]:
    """The tenants of the file, else one named ``default`` that matches every client."""
    return config.tenants or (TenantTable(name="default"),)


def takes_everyone(tenant: TenantTable) -> bool:
    """Whether a tenant states no credentials, and so matches every client."""
    return not (tenant.api_keys or tenant.jwt or tenant.header or tenant.cidrs)


def unknown_clients(config: Config) -> Literal["anonymous", "deny"]:
    """Treatment of clients that match no tenant, with its default applied."""
    if config.server.unknown_clients:
        return config.server.unknown_clients
    if "anonymous" in config.policies:
        return "anonymous"
    return "anonymous" if any(map(takes_everyone, tenant_tables(config))) else "deny"


def anonymous_policy_name(config: Config) -> str:
    """The policy of unknown clients."""
    return "anonymous" if "anonymous" in config.policies else "default"


def worker_count(config: Config) -> int:
    """Number of worker processes; ``auto``: one per core, one with ``memory:``."""
    if config.server.workers != "auto":
        return config.server.workers
    if not is_shared(config.store.url):
        return 1
    return max(1, len(os.sched_getaffinity(0)))


# -- policies ------------------------------------------------------------------------


def lineage(config: Config, name: str) -> list[str]:
    """``name`` and the policies that it inherits from, nearest first.

    Ends before a repeated policy or one that does not exist.
    """
    chain: list[str] = []
    while name and name not in chain and (name in config.policies or name == "default"):
        chain.append(name)
        parent = config.policies.get(name, PolicyTable()).inherit
        name = "default" if parent is None and name != "default" else parent or ""
    return chain


# Keys of a policy that are taken as they stand, from the nearest policy that sets them.
_PLAIN = (
    "mode",
    "unknown_price",
    "user_from",
    "allow",
    "overdraft",
    "assumed_max_tokens",
    "overrun",
    "network_factor",
    "assumed_job_usd",
    "assumed_context_tokens",
    "endpoints",
    "models",
)


def effective_policy(config: Config, name: str) -> Effective:
    """A policy with inherited values, and which policy states each of them."""
    chain = [
        (ancestor, config.policies.get(ancestor, PolicyTable()))
        for ancestor in lineage(config, name)
    ]
    origins: dict[str, Origin] = {}
    caps = _merged_caps(chain, origins)
    models, origins["model"] = _nearest(chain, "model", ())
    limits = _limits(chain, origins)
    for index, table in enumerate(models):
        key = ("policy", origins["model"], "model", index, "limits")
        limits |= {
            (*key, item): to_limit(limit, patterns(table))
            for item, limit in enumerate(table.limits)
        }
    plain: dict[str, Any] = {}
    for field in _PLAIN:
        value, origins[field] = _nearest(chain, field, None)
        if value is not None:
            plain[field] = to_price(value) if isinstance(value, PriceRates) else value
    if "models" in plain:
        plain["models"] = model_list(plain["models"])
    if "allow" in plain:
        plain["allow"] = tuple(map(normal_subject, plain["allow"]))
    policy = Policy(
        name=name,
        limits=tuple(limits.values()),
        caps=caps,
        model_caps=tuple(_model_caps(table, caps) for table in models),
        weights=_merged_dicts(chain, "weights", origins),
        prices={
            model: to_price(table)
            for model, table in _merged_dicts(chain, "prices", origins).items()
        },
        anomaly=_anomaly(chain, origins),
        **plain,
    )
    return Effective(policy, origins, tuple(limits))


# A policy and those it inherits from, nearest first, by name.
_Chain = list[tuple[str, PolicyTable]]


def _nearest(chain: _Chain, key: str, default: Any) -> tuple[Any, Origin]:
    """Value of a key in the nearest policy that states it, and that policy's name."""
    for name, table in chain:
        value = getattr(table, key)
        if value is not None:
            return value, name
    return default, BUILT_IN


def _limits(chain: _Chain, origins: dict[str, Origin]) -> dict[Key, Limit]:
    """Limits of a policy by their keys: ``limits`` of the nearest policy that states them,
    then ``extra_limits`` of that policy and of all that inherit from it in the chain.
    """
    _, origin = _nearest(chain, "limits", ())
    origins["limits"] = origin
    names = [name for name, _ in chain]
    used = chain[: names.index(origin) + 1] if origin in names else chain
    found: dict[Key, Limit] = {}
    for name, table in reversed(used):
        for part in ("limits", "extra_limits"):
            if part == "limits" and name != origin:
                continue
            for index, limit in enumerate(getattr(table, part) or ()):
                found["policy", name, part, index] = to_limit(limit)
    return found


def patterns(table: ModelTable) -> tuple[str, ...]:
    """The model patterns of a ``[[policy.X.model]]``."""
    return (table.match,) if isinstance(table.match, str) else table.match


def _merged_caps(chain: _Chain, origins: dict[str, Origin]) -> Caps:
    caps = Caps()
    for name, table in reversed(chain):
        laid = lay_caps(table.caps, caps)
        if laid != caps:
            origins["caps"] = name
        caps = laid
    origins.setdefault("caps", BUILT_IN)
    return caps


def lay_caps(table: CapsTable, under: Caps) -> Caps:
    """``under`` with the stated values of ``table`` on top."""
    return msgspec.structs.replace(under, **_stated(table))


def caps_table(caps: Caps) -> CapsTable:
    """The inverse of ``lay_caps``: keys and units of the file."""
    return CapsTable(
        max_tokens=caps.max_tokens,
        n=caps.n,
        max_body=None if caps.body_bytes is None else Size(caps.body_bytes),
        max_stream=None if caps.stream_s is None else Duration(caps.stream_s),
        clamp=caps.clamp,
    )


def _model_caps(table: ModelTable, caps: Caps) -> ModelCaps:
    models = patterns(table)
    prepare_patterns(models)
    return ModelCaps(models, lay_caps(table.caps, caps))


def _merged_dicts(
    chain: _Chain, key: str, origins: dict[str, Origin]
) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    origins[key] = BUILT_IN
    for name, table in reversed(chain):
        if stated := getattr(table, key):
            merged |= stated
            origins[key] = name
    return merged


# Keys whose value has another name, with its unit, in ``core.model``.
_RUNTIME_NAMES = {
    "max_body": "body_bytes",
    "max_stream": "stream_s",
    "grace": "grace_s",
    "block_ttl": "block_ttl_s",
    "max_block_ttl": "max_block_ttl_s",
    "delay": "delay_s",
}


def _stated(table: msgspec.Struct) -> dict[str, Any]:
    """The stated values of a table under their names in ``core.model``."""
    return {
        _RUNTIME_NAMES.get(key, key): _plain(value)
        for key, value in msgspec.structs.asdict(table).items()
        if value is not None
    }


def _plain(value: Any) -> Any:
    """Seconds and bytes as plain numbers."""
    if isinstance(value, Duration):
        return float(value)
    return int(value) if isinstance(value, Size) else value


# Keys of [policy.X.anomaly] that belong to its ladders.
_BLOCK_TIMES = ("block_ttl_s", "max_block_ttl_s")


def _anomaly(chain: _Chain, origins: dict[str, Origin]) -> Anomaly:
    """Anomaly settings with inheritance resolved, key by key."""
    anomaly, ladder = Anomaly(), Ladder()
    classes: dict[str, LadderTable] = {}
    origins["anomaly"] = BUILT_IN
    for name, table in reversed(chain):
        changes = _stated(table.anomaly)
        scores = _stated(changes.pop("ladder"))
        scores |= {key: changes.pop(key) for key in _BLOCK_TIMES if key in changes}
        stated_classes = changes.pop("classes")
        if changes or scores or stated_classes:
            origins["anomaly"] = name
        anomaly = msgspec.structs.replace(anomaly, **changes)
        ladder = msgspec.structs.replace(ladder, **scores)
        classes |= stated_classes
    return msgspec.structs.replace(
        anomaly,
        ladder=ladder,
        classes={
            cls: msgspec.structs.replace(ladder, **_stated(stated))
            for cls, stated in classes.items()
        },
    )


def anomaly_table(anomaly: Anomaly) -> AnomalyTable:
    """The inverse of ``_anomaly``: keys and units of the file."""
    ladder = anomaly.ladder
    classes = {cls: _ladder_table(one) for cls, one in sorted(anomaly.classes.items())}
    return AnomalyTable(
        enabled=anomaly.enabled,
        warning=anomaly.warning,
        critical=anomaly.critical,
        ladder=_ladder_table(ladder),
        classes=classes,  # type: ignore[arg-type]
        grace=Duration(anomaly.grace_s),
        block_ttl=Duration(ladder.block_ttl_s),
        max_block_ttl=Duration(ladder.max_block_ttl_s),
        max_blocked_share=anomaly.max_blocked_share,
        throttle_share=anomaly.throttle_share,
        delay=Duration(anomaly.delay_s),
        max_delayed=anomaly.max_delayed,
    )


def _ladder_table(ladder: Ladder) -> LadderTable:
    return LadderTable(ladder.tag, ladder.throttle, ladder.block)


def normal_subject(text: str) -> str:
    """An allow-list entry with its kind: ``network:10.0.0.0/8``, ``user:alice``."""
    try:
        kind, id_ = split_allow_entry(text)
    except ValueError:  # validation reports it
        return text
    return f"{kind}:{id_}"


# -- tenants and routes --------------------------------------------------------------


def _tenant(table: TenantTable, config: Config) -> Tenant:
    jwt = header = None
    if table.jwt:
        jwt = JwtRule(**msgspec.structs.asdict(table.jwt))
    if table.header:
        header = HeaderRule(**msgspec.structs.asdict(table.header))
    policy = effective_policy(config, table.policy).policy
    plain, named = split_keys(table)
    zone = ZoneInfo(config.server.timezone)
    keys = [
        resolve_key(
            key,
            effective_policy(config, key.policy).policy if key.policy else policy,
            zone,
        )
        for key in named
    ]
    return Tenant(
        name=table.name,
        policy=policy,
        api_keys=plain,
        keys=tuple(keys),
        jwt=jwt,
        header=header,
        cidrs=table.cidrs,
    )


def receiver_names(alerts: Sequence[AlertTable]) -> list[str]:
    """Names of the receivers: as stated, else the type; from the second of a type on with
    a number (``webhook-2``).
    """
    seen: Counter[str] = Counter()
    names = []
    for alert in alerts:
        name = alert.name
        if name is None:
            seen[alert.type] += 1
            count = seen[alert.type]
            name = alert.type if count == 1 else f"{alert.type}-{count}"
        names.append(name)
    return names


# Providers of dialects that only they speak.
_PROVIDERS = {"azure": "azure", "bedrock": "aws"}


def resolve_route(upstream: UpstreamTable) -> ResolvedRoute:
    """The route of an upstream, with targets parsed and the credential's header chosen."""
    urls = ([upstream.url] if upstream.url else []) + list(upstream.targets)
    targets = tuple(dict.fromkeys(map(split_target, urls)))
    dialect = "openai" if upstream.dialect == "azure" else upstream.dialect
    times = upstream.timeouts
    return ResolvedRoute(
        name=upstream.name or targets[0].host + upstream.prefix.rstrip("/"),
        prefix=upstream.prefix.rstrip("/"),
        strip_prefix=upstream.strip_prefix,
        targets=targets,
        dialect=None if dialect == "auto" else dialect,
        on_disconnect=upstream.on_disconnect,
        drain_max=upstream.drain_max,
        drain_s=float(upstream.drain_timeout),
        websocket=upstream.websocket,
        ask_usage=upstream.ask_usage,
        provider=upstream.provider or _PROVIDERS.get(upstream.dialect, ""),
        trust_cost=upstream.trust_cost,
        credential=_credential(upstream, targets[0].host),
        ca_file=upstream.ca_file,
        tls_verify=upstream.tls_verify,
        proxy=upstream.proxy,
        max_connections=upstream.max_connections,
        keepalive_s=float(upstream.keepalive),
        connect_s=float(times.connect),
        first_byte_s=float(times.first_byte),
        idle_s=float(times.idle),
        total_s=float(times.total),
    )


def split_target(url: str) -> ResolvedTarget:
    """The parts of an upstream URL. Raises ValueError."""
    parts = urlsplit(url)
    scheme, host = parts.scheme, parts.hostname
    if scheme not in ("http", "https") or not host:
        msg = "must be http://HOST or https://HOST"
        raise ValueError(msg)
    if parts.query or parts.fragment or "@" in parts.netloc:
        msg = "must not hold a query, a fragment or a user"
        raise ValueError(msg)
    port = parts.port or (443 if scheme == "https" else 80)
    return ResolvedTarget(
        scheme=scheme,  # type: ignore[arg-type]
        host=host,
        port=port,
        authority=_authority(parts, host),
        path=parts.path.rstrip("/"),
    )


def _authority(parts: SplitResult, host: str) -> str:
    shown = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}[parts.scheme]
    return shown if parts.port in (None, usual) else f"{shown}:{parts.port}"


def _credential(upstream: UpstreamTable, host: str) -> SecretHeader | None:
    if upstream.api_key is None:
        return None
    header = upstream.api_key_header
    if header is None:
        dialect: str = upstream.dialect
        if dialect == "auto":
            dialect = next((d for end, d in _HOST_DIALECTS if _ends(host, end)), "")
        header = _KEY_HEADERS.get(dialect, "authorization")
    return SecretHeader(header.lower(), upstream.api_key)


def _ends(host: str, end: str) -> bool:
    return host.endswith(end) or host == end.lstrip(".")
