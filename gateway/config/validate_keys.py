"""Checks of limits, endpoints, networks, and of the client keys that state them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from zoneinfo import ZoneInfo

from gateway.config.build import Diagnostics
from gateway.config.errors import Key
from gateway.config.keys import KeyTable, LimitTable
from gateway.config.resolve_keys import CALENDAR_WINDOWS, expiry
from gateway.config.structs import Config, TenantTable
from gateway.config.values import parse_duration
from gateway.core.model import METERS

SUBJECT_KINDS = ("client_ip", "user", "tenant", "model")
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
# ``check`` warns of keys that expire within this time.
EXPIRY_NOTICE_S = 14 * 86_400
_KEY_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[!-~]{1,64}")
_MOST_TAGS = 16
_ENDPOINT = re.compile(r"[a-z0-9_.*?]+|(?:[A-Z]+ )?/[!-~]*")
_ENDPOINT_FORMS = '"chat.completions", "images.*", "metered", "GET /v1/files/*", "*"'
_MIN_WINDOW_US = 1_000_000
_MAX_WINDOW_US = 86_400_000_000


def check_networks(networks: Iterable[str], key: Key, diagnostics: Diagnostics) -> None:
    """Report addresses and networks that are none."""
    for index, text in enumerate(networks):
        check_network(text, (*key, index), diagnostics)


def check_network(text: str, key: Key, diagnostics: Diagnostics) -> None:
    """Report a text that is no address or network."""
    try:
        ip_network(text)
    except ValueError as error:
        diagnostics.add(key, str(error), '"203.0.113.9", "10.0.0.0/8", "2001:db8::/32"')


def check_limit(
    limit: LimitTable,
    key: Key,
    diagnostics: Diagnostics,
    kinds_known: Sequence[str] = SUBJECT_KINDS,
) -> None:
    """Report faults of one limit. ``kinds_known``: subjects that it may be for."""
    kinds = limit.per.split("+")
    if len(kinds) > 2 or len(set(kinds)) < len(kinds):  # noqa: PLR2004 - a pair
        diagnostics.add(
            (*key, "per"), f'"{limit.per}" is not a subject or a pair of them'
        )
    for kind in kinds:
        if kind not in kinds_known:
            allowed = ", ".join(f'"{known}"' for known in kinds_known)
            allowed += ', or two of them joined by "+"'
            diagnostics.add((*key, "per"), f'"{kind}" is not a subject', allowed)
    stated = [meter for meter in METERS if getattr(limit, meter) is not None]
    if len(stated) != 1:
        message = f"states {len(stated)} meters ({', '.join(stated) or 'none'})"
        diagnostics.add(key, message, "exactly one of " + ", ".join(METERS))
    _check_window(limit, key, diagnostics)


def _check_window(limit: LimitTable, key: Key, diagnostics: Diagnostics) -> None:
    allowed = '"1s" to "1d" (sliding), "day", "week", "month" (calendar)'
    if limit.concurrent is not None:
        if limit.window is not None:
            diagnostics.add((*key, "window"), "concurrent has no window")
    elif limit.window is None:
        diagnostics.add(key, '"window" is missing', allowed)
    elif limit.window not in CALENDAR_WINDOWS:
        try:
            window_us = parse_duration(limit.window).us
        except ValueError:
            window_us = 0
        if not _MIN_WINDOW_US <= window_us <= _MAX_WINDOW_US:
            diagnostics.add(
                (*key, "window"), f'"{limit.window}" is not a window', allowed
            )


def check_endpoints(
    entries: Sequence[str] | None, key: Key, diagnostics: Diagnostics
) -> None:
    """Report entries of ``endpoints`` that name none."""
    for index, entry in enumerate(entries or ()):
        if not _ENDPOINT.fullmatch(entry):
            message = f'"{entry}" is not an endpoint'
            diagnostics.add((*key, "endpoints", index), message, _ENDPOINT_FORMS)


def check_api_keys(
    tenant: TenantTable,
    key: Key,
    hashes: dict[str, str],
    config: Config,
    diagnostics: Diagnostics,
) -> None:
    """Report faults of a tenant's client keys. ``hashes``: the tenants of those seen."""
    names: set[str] = set()
    own: set[str] = set()
    for index, stated in enumerate(tenant.api_keys):
        place: Key = (*key, "api_keys", index)
        named = isinstance(stated, KeyTable)
        text = stated.hash if isinstance(stated, KeyTable) else stated
        if not _KEY_HASH.fullmatch(text):
            # The value may be a key in plain text: do not print it.
            message = "is not a hash; `tidegate keys hash` makes one from a key"
            where = (*place, "hash") if named else place
            diagnostics.add(where, message, '"sha256:" and 64 hex digits')
        elif hashes.setdefault(text, tenant.name) != tenant.name:
            diagnostics.add(place, f'already belongs to tenant "{hashes[text]}"')
        elif text in own:
            diagnostics.add(place, "is in this list already: one entry for a key")
        own.add(text)
        if isinstance(stated, KeyTable):
            if stated.name in names:
                diagnostics.add((*place, "name"), f'"{stated.name}" is used twice')
            names.add(stated.name)
            _check_key(stated, place, config, diagnostics)


def _check_key(
    stated: KeyTable, place: Key, config: Config, diagnostics: Diagnostics
) -> None:
    if not NAME.fullmatch(stated.name):
        message = f'"{stated.name}" is not a usable name'
        diagnostics.add((*place, "name"), message, "letters, digits, . _ -")
    policy = stated.policy
    if policy is not None and policy not in config.policies and policy != "default":
        known = ", ".join(f'"{name}"' for name in config.policies)
        diagnostics.add((*place, "policy"), f'"{policy}" is not a policy', known)
    for index, limit in enumerate(stated.limits):
        kinds = ("key", *SUBJECT_KINDS)
        check_limit(limit, (*place, "limits", index), diagnostics, kinds)
    check_endpoints(stated.endpoints, place, diagnostics)
    check_networks(stated.networks, (*place, "networks"), diagnostics)
    if len(stated.tags) > _MOST_TAGS or not all(map(_TAG.fullmatch, stated.tags)):
        allowed = f"at most {_MOST_TAGS}, of up to 64 printable ASCII characters"
        diagnostics.add((*place, "tags"), "are not usable", allowed)
    if stated.canary:
        message = "is not available in this version: leave it out"
        diagnostics.add((*place, "canary"), message)
    _check_expiry(stated, place, config, diagnostics)


def _check_expiry(
    stated: KeyTable, place: Key, config: Config, diagnostics: Diagnostics
) -> None:
    try:
        zone = ZoneInfo(config.server.timezone)
        left_s = expiry(stated, zone) - time.time()
    except (KeyError, OSError, ValueError, OverflowError):
        return  # reported at server.timezone
    where = (*place, "expires")
    if left_s <= 0:
        message = f'key "{stated.name}" has expired: its requests are refused with 401'
        diagnostics.warn(where, message)
    elif left_s <= EXPIRY_NOTICE_S:
        days = max(1, round(left_s / 86_400))
        unit = "day" if days == 1 else "days"
        diagnostics.warn(where, f'key "{stated.name}" expires in {days} {unit}')
