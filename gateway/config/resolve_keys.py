"""Limits and client keys of the file as the workers use them."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import msgspec

from gateway.config.keys import KeyTable, LimitTable, ModelListTable
from gateway.config.structs import TenantTable
from gateway.config.values import parse_duration
from gateway.core.model import METERS, ApiKey, Limit, ModelList, Policy
from gateway.limits.meters import METER_TABLE
from gateway.metering.models import prepare_patterns

CALENDAR_WINDOWS = ("day", "week", "month")


def to_limit(table: LimitTable, models: tuple[str, ...] = ()) -> Limit:
    """A limit in store units: nano-dollars, microseconds."""
    meter = next(m for m in METERS if getattr(table, m) is not None)
    amount = getattr(table, meter)
    per_unit = METER_TABLE[meter].per_unit
    if per_unit != 1:
        amount = round(amount * per_unit)
    window = table.window or ""
    if window in CALENDAR_WINDOWS:
        return Limit(table.per, meter, amount, 0, window, models)  # type: ignore[arg-type]
    window_us = parse_duration(window).us if window else 0
    return Limit(table.per, meter, amount, window_us, "", models)


def split_keys(tenant: TenantTable) -> tuple[tuple[str, ...], tuple[KeyTable, ...]]:
    """The keys of a tenant that are stated as a hash, and those that have a name."""
    plain = tuple(key for key in tenant.api_keys if isinstance(key, str))
    return plain, tuple(key for key in tenant.api_keys if isinstance(key, KeyTable))


def expiry(key: KeyTable, zone: ZoneInfo) -> float:
    """When a key expires, in epoch seconds; infinite for a key that does not."""
    moment = key.expires
    if moment is None:
        return float("inf")
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()


def model_list(table: ModelListTable, within: ModelList | None = None) -> ModelList:
    """A list of models, with its patterns ready to be matched."""
    prepare_patterns(table.allow)
    prepare_patterns(table.deny)
    return ModelList(table.allow, table.deny, within)


def resolve_key(key: KeyTable, policy: Policy, zone: ZoneInfo) -> ApiKey:
    """A key, with ``policy`` (the key's own, else the tenant's) and what it adds."""
    added = tuple(map(to_limit, key.limits))
    models = policy.models
    if key.models is not None:
        stated = key.models
        if not isinstance(stated, ModelListTable):
            stated = ModelListTable(allow=stated)
        models = model_list(stated, models)
    own = msgspec.structs.replace(
        policy,
        limits=(*policy.limits, *added),
        models=models,
        key_endpoints=key.endpoints,
    )
    return ApiKey(
        name=key.name,
        hash=key.hash,
        expires=expiry(key, zone),
        policy=own if own != policy or key.policy else None,
        networks=key.networks,
        tags=key.tags,
    )
