"""Model names as metric labels: priced or configured ones, else ``other``."""

from __future__ import annotations

from collections.abc import Callable

from gateway.admin.metrics import OTHER
from gateway.config.resolve import Resolved
from gateway.metering.prices import PriceTable

_GLOB = frozenset("*?[")


# Labels of models that no policy names. The table has about 1,700, and a client may ask
# for each of them; a gateway that serves more than these is rare.
MAX_MODELS = 300


def model_labels(
    resolved: Resolved, table: PriceTable, seen: set[str]
) -> Callable[[str], str]:
    """Function from a raw model name to its metric label under this configuration.

    ``seen``: the labels in use, kept over reloads.
    """
    configured = _configured_names(resolved)

    def label(model: str) -> str:
        if model in configured:
            return model
        found = table.known_name(model)
        if found not in seen:
            if len(seen) >= MAX_MODELS:
                return OTHER
            seen.add(found)
        return found

    return label


def _configured_names(resolved: Resolved) -> frozenset[str]:
    """Models that a policy names in a price or in a limit."""
    policies = [tenant.policy for tenant in resolved.tenants]
    if resolved.anonymous is not None:
        policies.append(resolved.anonymous)
    names: set[str] = set()
    for policy in policies:
        names.update(policy.prices)
        for limit in policy.limits:
            names.update(limit.models)
    return frozenset(name for name in names if not _GLOB & set(name))
