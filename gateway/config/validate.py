"""Checks across keys: names that must exist, values that must fit together."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from gateway.config.build import Diagnostics
from gateway.config.errors import Key
from gateway.config.prices import PriceRates
from gateway.config.resolve import (
    anonymous_policy_name,
    effective_policy,
    patterns,
    receiver_names,
    resolve_route,
    split_target,
    takes_everyone,
    tenant_tables,
    unknown_clients,
)
from gateway.config.structs import (
    AlertTable,
    Config,
    PolicyTable,
    StoreTable,
    TenantTable,
    UpstreamTable,
)
from gateway.config.validate_keys import (
    NAME,
    check_api_keys,
    check_endpoints,
    check_limit,
    check_network,
    check_networks,
)
from gateway.config.values import Secret, is_loopback, parse_address
from gateway.core.model import AttackClass, Limit
from gateway.identity.identify import split_allow_entry
from gateway.metering.prices import provider_ids
from gateway.store.opening import is_shared, open_backend
from gateway.store.url import StoreUrlError

ALLOW_FORMS = '"203.0.113.9", "10.0.0.0/8", "user:alice", "tenant:acme"'
_HOST = re.compile(r"[A-Za-z0-9._*-]+|\[?[0-9A-Fa-f:.]+\]?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def validate(config: Config, diagnostics: Diagnostics) -> None:
    """Report every fault that no single value shows."""
    _check_server(config, diagnostics)
    _check_store(config.store, config, diagnostics)
    _check_upstreams(config.upstreams, diagnostics)
    _check_policies(config, diagnostics)
    _check_tenants(config, diagnostics)
    _check_campaigns(config, diagnostics)
    _check_alerts(config.alerts, diagnostics)
    _check_silences(config, diagnostics)
    _check_events(config, diagnostics)


# -- server, store -------------------------------------------------------------------


def _check_server(config: Config, diagnostics: Diagnostics) -> None:
    server = config.server
    listen = _check_address(server.listen, ("server", "listen"), diagnostics)
    admin = _check_address(config.admin.listen, ("admin", "listen"), diagnostics)
    if listen and listen == admin and listen[1]:
        diagnostics.add(("server", "listen"), "is the same as admin.listen")
    if admin and not config.admin.token and not is_loopback(admin[0]):
        message = "is missing: the admin port can be reached from other machines"
        diagnostics.add(("admin", "token"), message, "a secret, or a loopback listen")
    if config.admin.viewer_token and not config.admin.token:
        message = "needs admin.token: without it the API is open to everyone"
        diagnostics.add(("admin", "viewer_token"), message)
    check_networks(server.trusted_proxies, ("server", "trusted_proxies"), diagnostics)
    for index, name in enumerate(server.hosts):
        if not _HOST.fullmatch(name):
            message = f'"{name}" is not a host name'
            allowed = '"llm.example", "*.example", "192.0.2.7", "*"; without a port'
            diagnostics.add(("server", "hosts", index), message, allowed)
    path = server.health_path
    if path is not None and (not path.startswith("/") or "?" in path):
        diagnostics.add(
            ("server", "health_path"), f'"{path}" is not a path', '"/-/health"'
        )
    if server.proxy_protocol and not server.trusted_proxies:
        message = "needs server.trusted_proxies: no PROXY header is trusted"
        diagnostics.add(("server", "proxy_protocol"), message)
    try:
        ZoneInfo(server.timezone)
    except (KeyError, OSError, ValueError):
        diagnostics.add(
            ("server", "timezone"),
            f'"{server.timezone}" is not a known time zone',
            'an IANA name such as "Europe/Berlin"',
        )


def _check_address(
    text: str, key: Key, diagnostics: Diagnostics
) -> tuple[str, int] | None:
    try:
        return parse_address(text)
    except ValueError as error:
        diagnostics.add(key, str(error), '"127.0.0.1:8080", "[::1]:8080", ":8080"')
        return None


def _check_store(store: StoreTable, config: Config, diagnostics: Diagnostics) -> None:
    try:
        open_backend(store.url)
    except StoreUrlError as error:
        diagnostics.add(("store", "url"), str(error))
    else:
        if urlsplit(store.url).password and diagnostics.place(("store", "url"))[1]:
            message = "contains a password; better store.password = { env } or { file }"
            diagnostics.warn(("store", "url"), message)
    workers = config.server.workers
    if not is_shared(store.url) and workers not in ("auto", 1):
        message = "more than one worker needs a shared store"
        diagnostics.add(("server", "workers"), message, '1 or "auto" with memory:')
    if "{" in store.prefix or "}" in store.prefix:
        diagnostics.add(
            ("store", "prefix"), "must not contain braces: they would be a hash tag"
        )


# -- upstreams -----------------------------------------------------------------------


def _check_upstreams(
    upstreams: tuple[UpstreamTable, ...], diagnostics: Diagnostics
) -> None:
    if not upstreams:
        message = "is missing: there is nowhere to forward requests to"
        diagnostics.add(
            ("upstream",), message, "[[upstream]] with a url, or --upstream URL"
        )
    names: dict[str, int] = {}
    prefixes: dict[str, int] = {}
    for index, upstream in enumerate(upstreams):
        key = ("upstream", index)
        if not _check_urls(upstream, key, diagnostics):
            continue
        route = resolve_route(upstream)
        if names.setdefault(route.name, index) != index:
            diagnostics.add((*key, "name"), f'"{route.name}" is used twice')
        if prefixes.setdefault(route.prefix, index) != index:
            message = f'"{upstream.prefix}" is used twice'
            diagnostics.add((*key, "prefix"), message, "one upstream for a prefix")
        _check_upstream(upstream, key, diagnostics)


def _check_urls(upstream: UpstreamTable, key: Key, diagnostics: Diagnostics) -> bool:
    urls = [((*key, "targets", i), url) for i, url in enumerate(upstream.targets)]
    if upstream.url is not None:
        urls.append(((*key, "url"), upstream.url))
    if not urls:
        diagnostics.add(key, '"url" is missing')
    good = bool(urls)
    for place, url in urls:
        try:
            split_target(url)
        except ValueError as error:
            diagnostics.add(
                place, f'"{url.masked()}" {error}', '"https://api.openai.com"'
            )
            good = False
    return good


def _check_upstream(
    upstream: UpstreamTable, key: Key, diagnostics: Diagnostics
) -> None:
    if not upstream.prefix.startswith("/") or "?" in upstream.prefix:
        diagnostics.add(
            (*key, "prefix"), f'"{upstream.prefix}" is not a path', '"/openai"'
        )
    header = upstream.api_key_header
    if header is not None and not _HEADER_NAME.fullmatch(header):
        diagnostics.add((*key, "api_key_header"), f'"{header}" is not a header name')
    if upstream.api_key and not upstream.api_key.reveal().isprintable():
        diagnostics.add((*key, "api_key"), "cannot be sent in a header")
    if upstream.proxy is not None:
        parts = urlsplit(upstream.proxy)
        if parts.scheme != "http" or not parts.hostname:
            message = f'"{upstream.proxy.masked()}" is not a proxy'
            diagnostics.add((*key, "proxy"), message, '"http://proxy.internal:3128"')
    if not upstream.tls_verify:
        diagnostics.warn((*key, "tls_verify"), "any certificate is accepted")
    if upstream.provider is not None and upstream.provider not in provider_ids():
        # A warning: a newer table than the package's may know it.
        message = f'"{upstream.provider}" is not a provider of the price table'
        diagnostics.warn(
            (*key, "provider"), f"{message}: see tidegate prices --providers"
        )


# -- policies ------------------------------------------------------------------------


def _check_policies(config: Config, diagnostics: Diagnostics) -> None:
    for name, policy in config.policies.items():
        key = ("policy", name)
        if not NAME.fullmatch(name):
            diagnostics.add(key, "is not a usable name", "letters, digits, . _ -")
        _check_inherit(config, name, policy, diagnostics)
        faults = len(diagnostics.problems)
        for part in ("limits", "extra_limits"):
            for index, limit in enumerate(getattr(policy, part) or ()):
                check_limit(limit, (*key, part, index), diagnostics)
        for index, model in enumerate(policy.model or ()):
            if not patterns(model) or not all(patterns(model)):
                diagnostics.add((*key, "model", index, "match"), "matches no model")
            for item, limit in enumerate(model.limits):
                check_limit(limit, (*key, "model", index, "limits", item), diagnostics)
        check_endpoints(policy.endpoints, key, diagnostics)
        for model_name, price in policy.prices.items():
            _check_price(price, (*key, "prices", model_name), diagnostics)
        if isinstance(policy.unknown_price, PriceRates):
            _check_price(policy.unknown_price, (*key, "unknown_price"), diagnostics)
        for index, subject in enumerate(policy.allow or ()):
            _check_allowed(subject, (*key, "allow", index), diagnostics)
        if len(diagnostics.problems) == faults:
            _check_effective(config, name, diagnostics)


def _check_inherit(
    config: Config, name: str, policy: PolicyTable, diagnostics: Diagnostics
) -> None:
    parent = policy.inherit
    key = ("policy", name, "inherit")
    if parent and parent != "default" and parent not in config.policies:
        known = ", ".join(f'"{policy}"' for policy in config.policies)
        diagnostics.add(key, f'"{parent}" is not a policy', known)
    seen = [name]
    while parent and parent in config.policies:
        if parent in seen:
            diagnostics.add(key, f"is circular: {' -> '.join([*seen, parent])}")
            return
        seen.append(parent)
        step = config.policies[parent].inherit
        parent = "default" if step is None and parent != "default" else step


def _check_allowed(subject: str, key: Key, diagnostics: Diagnostics) -> None:
    try:
        kind, id_ = split_allow_entry(subject)
    except ValueError as error:
        diagnostics.add(key, str(error), ALLOW_FORMS)
        return
    if kind in ("client_ip", "network"):
        check_network(id_, key, diagnostics)
    elif not id_:
        diagnostics.add(key, f"names no {kind}", f'"{kind}:alice"')


def _check_price(price: PriceRates, key: Key, diagnostics: Diagnostics) -> None:
    """Both rates of tokens or neither: a missing one would be free."""
    whole = (price.input is None, price.output is None)
    if whole in ((True, False), (False, True)):
        missing = "input" if whole[0] else "output"
        diagnostics.add(key, f'"{missing}" is missing', "0.0 if it is free")
    elif price == type(price)():
        diagnostics.add(key, '"input" and "output" are missing')


def _check_effective(config: Config, name: str, diagnostics: Diagnostics) -> None:
    """Report faults that show only after inheritance is resolved."""
    policy = effective_policy(config, name).policy
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for limit in policy.limits:
        if (identity := (limit.name, limit.models)) in seen:
            message = f"limits {_words(limit)} twice: the tighter one decides"
            diagnostics.warn(("policy", name), message)
        seen.add(identity)
    order = policy.user_from
    if order[:1] == ("body",) and any(a.startswith("user:") for a in policy.allow):
        message = "holds no user that a body names: anyone can write a name there"
        diagnostics.warn(("policy", name, "allow"), message)
    anomaly = policy.anomaly
    key = ("policy", name, "anomaly")
    for place, ladder in (("ladder", anomaly.ladder), *sorted(anomaly.classes.items())):
        if not ladder.tag <= ladder.throttle <= ladder.block:
            message = "must have tag <= throttle <= block"
            inner = (place,) if place == "ladder" else ("classes", place)
            diagnostics.add((*key, *inner), message)
    if anomaly.ladder.block_ttl_s > anomaly.ladder.max_block_ttl_s:
        diagnostics.add((*key, "block_ttl"), "is longer than max_block_ttl")
    if anomaly.warning > anomaly.critical:
        diagnostics.add(("policy", name, "anomaly"), "warning is above critical")


def _words(limit: Limit) -> str:
    return limit.name + (f" of {', '.join(limit.models)}" if limit.models else "")


# -- tenants -------------------------------------------------------------------------


def _check_tenants(config: Config, diagnostics: Diagnostics) -> None:
    names: set[str] = set()
    hashes: dict[str, str] = {}
    everyone: list[str] = []
    for index, tenant in enumerate(config.tenants):
        key = ("tenant", index)
        if not NAME.fullmatch(tenant.name):
            message = f'"{tenant.name}" is not a usable name'
            diagnostics.add((*key, "name"), message, "letters, digits, . _ -")
        if tenant.name in names:
            diagnostics.add((*key, "name"), f'"{tenant.name}" is used twice')
        names.add(tenant.name)
        if tenant.policy not in config.policies and tenant.policy != "default":
            known = ", ".join(f'"{policy}"' for policy in config.policies)
            diagnostics.add(
                (*key, "policy"), f'"{tenant.policy}" is not a policy', known
            )
        if takes_everyone(tenant):
            everyone.append(tenant.name)
        check_api_keys(tenant, key, hashes, config, diagnostics)
        _check_credentials(tenant, key, diagnostics)
        if tenant.header and not config.server.trusted_proxies:
            message = "is never trusted: server.trusted_proxies is empty"
            diagnostics.warn((*key, "header"), message)
    if len(everyone) > 1:
        message = f"several match every client: {', '.join(everyone)}"
        diagnostics.add(("tenant",), message, "at most one tenant without credentials")
    _check_anonymous(config, diagnostics)
    _check_unused(config, diagnostics)


def _check_unused(config: Config, diagnostics: Diagnostics) -> None:
    """Warn of policies that apply to nobody, such as a misspelt ``default``."""
    used = {"default", "anonymous"}
    for tenant in config.tenants:
        used.add(tenant.policy)
        used.update(getattr(key, "policy", None) or "" for key in tenant.api_keys)
    for policy in config.policies.values():
        used.add(policy.inherit or "")
    for name in config.policies:
        if name not in used:
            from difflib import get_close_matches  # noqa: PLC0415 - as in build.py

            close = get_close_matches(name, ("default", "anonymous"), 1, 0.75)
            hint = f'; did you mean "{close[0]}"?' if close else ""
            message = f"applies to no tenant or key{hint}"
            diagnostics.warn(("policy", name), message)


def _check_anonymous(config: Config, diagnostics: Diagnostics) -> None:
    catch_all = [t.name for t in tenant_tables(config) if takes_everyone(t)]
    if catch_all and "anonymous" in config.policies:
        message = f'has no effect: tenant "{catch_all[0]}" matches every client'
        diagnostics.warn(("policy", "anonymous"), message)
    if config.server.unknown_clients == "deny" and catch_all:
        message = f'has no effect: tenant "{catch_all[0]}" matches every client'
        diagnostics.warn(("server", "unknown_clients"), message)
    if unknown_clients(config) == "anonymous" and not catch_all:
        policy = effective_policy(config, anonymous_policy_name(config)).policy
        if not policy.limits:
            diagnostics.warn(
                ("server", "unknown_clients"),
                "unknown clients are admitted without any limit",
            )


def _check_credentials(tenant: TenantTable, key: Key, diagnostics: Diagnostics) -> None:
    check_networks(tenant.cidrs, (*key, "cidrs"), diagnostics)
    if jwt := tenant.jwt:
        if (jwt.jwks_file is None) == (jwt.jwks_url is None):
            message = "needs exactly one source of keys"
            diagnostics.add((*key, "jwt"), message, "jwks_file or jwks_url")
        if jwt.jwks_url and not jwt.jwks_url.startswith(("https://", "http://")):
            message = f'"{jwt.jwks_url.masked()}" is not a URL'
            diagnostics.add((*key, "jwt", "jwks_url"), message, '"https://…"')
        if jwt.audience is None:
            message = (
                "without an audience, tokens of the issuer for other services work"
            )
            diagnostics.warn((*key, "jwt"), message)
    for part in ("name", "user_header"):
        header = getattr(tenant.header, part, None)
        if header is not None and not _HEADER_NAME.fullmatch(header):
            diagnostics.add((*key, "header", part), f'"{header}" is not a header name')


# -- campaigns, alerts, events -------------------------------------------------------


def _check_campaigns(config: Config, diagnostics: Diagnostics) -> None:
    names = {tenant.name for tenant in tenant_tables(config)} | {"*"}
    for index, campaign in enumerate(config.campaigns):
        key = ("campaign", index)
        if campaign.tenant not in names:
            diagnostics.add((*key, "tenant"), f'"{campaign.tenant}" is not a tenant')
        zone = ZoneInfo("UTC")
        starts = campaign.starts.replace(tzinfo=campaign.starts.tzinfo or zone)
        ends = campaign.ends.replace(tzinfo=campaign.ends.tzinfo or zone)
        if starts >= ends:
            diagnostics.add((*key, "to"), "is not after from")


_KEYED = ("pagerduty", "opsgenie")
_EVENTS = (
    "incident.opened",
    "incident.updated",
    "incident.acknowledged",
    "incident.resolved",
    "client.tagged",
    "client.throttled",
    "client.blocked",
    "client.unblocked",
    "gateway.degraded",
    "gateway.recovered",
    "incident.*",
    "client.*",
    "gateway.*",
)


def _check_alerts(alerts: tuple[AlertTable, ...], diagnostics: Diagnostics) -> None:
    _check_names(alerts, diagnostics)
    for index, alert in enumerate(alerts):
        key = ("alert", index)
        _check_target(alert, key, diagnostics)
        for secret in _secrets_of(alert):
            if alert.type == "webhook" and not _is_signing_secret(secret):
                message = "is not a Standard Webhooks secret"
                diagnostics.add((*key, "secret"), message, '"whsec_" and base64')
        if alert.type in _KEYED and not _secrets_of(alert):
            diagnostics.add(key, '"secret" is missing: the key of the integration')
        for event in alert.events or ():
            if event not in _EVENTS:
                allowed = ", ".join(_EVENTS)
                diagnostics.add((*key, "events"), f'"{event}" is not an event', allowed)


def _check_names(alerts: tuple[AlertTable, ...], diagnostics: Diagnostics) -> None:
    """Names must be unique, also those made from the type: the outbox and the commands
    identify receivers by them.
    """
    first: dict[str, int] = {}
    for index, name in enumerate(receiver_names(alerts)):
        stated = alerts[index].name is not None
        key: Key = ("alert", index, "name") if stated else ("alert", index)
        if stated and not NAME.fullmatch(name):
            diagnostics.add(key, f'"{name}" is not a name')
        if (other := first.setdefault(name, index)) != index:
            message = f'"{name}" is used twice: alert[{other}] and alert[{index}]'
            diagnostics.add(key, message, 'a "name" of its own for each')


def _check_target(alert: AlertTable, key: Key, diagnostics: Diagnostics) -> None:
    schemes = ("smtp://", "smtps://") if alert.type == "email" else _HTTP
    if alert.url is None and alert.type not in _KEYED:
        diagnostics.add(key, '"url" is missing')
    if alert.url is not None and not alert.url.startswith(schemes):
        message = f'"{alert.url.masked()}" is not a URL'
        diagnostics.add((*key, "url"), message, f'"{schemes[0]}…"')
    if alert.type == "email" and not (alert.to and alert.sender):
        diagnostics.add(key, '"to" and "from" are needed for e-mail')


_HTTP = ("https://", "http://")


def _secrets_of(alert: AlertTable) -> tuple[Secret, ...]:
    return (alert.secret,) if isinstance(alert.secret, Secret) else alert.secret


def _is_signing_secret(secret: Secret) -> bool:
    prefix, _, coded = secret.reveal().partition("_")
    try:
        return prefix == "whsec" and bool(b64decode(coded, validate=True))
    except ValueError:
        return False


# Classes of alerts: abuse, harmless surges and outages, the gateway's own state.
_SILENCED = frozenset({"*", *get_args(AttackClass), "gateway"})


def _check_silences(config: Config, diagnostics: Diagnostics) -> None:
    zone = ZoneInfo("UTC")
    for index, silence in enumerate(config.silences):
        starts = silence.starts.replace(tzinfo=silence.starts.tzinfo or zone)
        ends = silence.ends.replace(tzinfo=silence.ends.tzinfo or zone)
        if starts >= ends:
            diagnostics.add(("silence", index, "to"), "is not after from")
        kind, _, id_ = silence.subject.partition(":")
        if silence.subject != "*" and not (kind and id_):
            message = f'"{silence.subject}" is not a subject'
            diagnostics.add(("silence", index, "subject"), message, '"kind:id" or "*"')
        if silence.cls not in _SILENCED:
            message = f'there is no class "{silence.cls}"'
            allowed = ", ".join(sorted(_SILENCED))
            diagnostics.add(("silence", index, "class"), message, allowed)


def _check_events(config: Config, diagnostics: Diagnostics) -> None:
    if config.events.kafka is not None:
        message = "not available in this version: no record is sent"
        diagnostics.warn(("events", "kafka"), message)
    influx = config.events.influx
    if influx is not None and not influx.url.startswith(("https://", "http://")):
        message = f'"{influx.url.masked()}" is not a URL'
        diagnostics.add(("events", "influx", "url"), message, '"http://influx:8086"')
