"""``tidegate prices``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gateway.commands.flags import FAILED, OK, ConfigFlag, JsonFlag
from gateway.commands.output import fail, print_columns, print_json

if TYPE_CHECKING:
    from gateway.core.model import Price
    from gateway.metering.prices import PriceTable

_COLUMNS = ("model", "provider", "input", "output", "cached", "cache write", "more")
# Lines of a records file that are read, from its end.
_RECORDS = 200_000


_Pattern = Annotated[
    str, Parameter(help="Names or patterns of models, such as `gpt-5*`.")
]
_Provider = Annotated[str | None, Parameter(help="Only this provider's models.")]
_Providers = Annotated[
    bool, Parameter(negative="", help="List the providers instead of models.")
]
_Check = Annotated[
    bool,
    Parameter(
        negative="",
        help="Check the models of the configuration and of its record file: which have "
        "no price. Exit 1 if one has none or the table is old.",
    ),
]
_Records = Annotated[
    str | None,
    Parameter(help="Record file for --check. Default: that of the configuration."),
]


def prices(
    pattern: _Pattern = "*",
    /,
    *,
    provider: _Provider = None,
    providers: _Providers = False,
    check: _Check = False,
    records: _Records = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> int:
    """List prices, or check that models have one.

    Prices are US dollars per million tokens; "more" has other units, context and service
    tiers. The first line says the source and date of the table.

        tidegate prices 'claude-*' --provider anthropic
        tidegate prices --check --config tidegate.toml
    """
    from gateway.serve.price_table import (  # noqa: PLC0415
        age_warning,
        describe_table,
        newest_table,
    )

    table = newest_table()
    head = {"source": describe_table(table), "dated": table.dated}
    old = age_warning(table)
    if provider is not None and provider not in _provider_ids(table):
        return fail(f'no provider "{provider}"; see tidegate prices --providers')
    if check:
        return _check(table, head | {"warning": old}, config, records, as_json=json)
    items = _providers(table) if providers else _models(table, pattern, provider)
    if json:
        print_json(head | {"warning": old, "items": items})
        return OK
    print(f"{head['source']}, US dollars per million tokens")
    if old:
        print(f"tidegate: warning: {old}", file=sys.stderr)
    if not items:
        return fail(f'no model matches "{pattern}"', FAILED)
    columns = ("provider", "models", "api") if providers else _COLUMNS
    rows = [tuple(_cell(item.get(name)) for name in columns) for item in items]
    print_columns([columns, *rows])
    return OK


def _provider_ids(table: PriceTable) -> set[str]:
    return {row.id for row in table.book.file.providers}


def _providers(table: PriceTable) -> list[dict[str, Any]]:
    return [
        {"provider": row.id, "models": len(row.models), "api": row.api}
        for row in table.book.file.providers
    ]


def _models(
    table: PriceTable, pattern: str, provider: str | None
) -> list[dict[str, Any]]:
    from fnmatch import fnmatchcase  # noqa: PLC0415

    wanted = pattern.lower()
    found = [
        {"model": name, "provider": owner} | _fields(price)
        for owner, name, price in table.book.rows()
        if provider in (None, owner) and fnmatchcase(name.lower(), wanted)
    ]
    if not found and table.knows(pattern):
        # A spelling of a model: "openai/GPT-4o-2024-08-06".
        whose = table.of_upstream(provider or "")
        price = whose.price(pattern)
        assert price is not None
        found = [{"model": pattern, "provider": provider or ""} | _fields(price)]
    return found


def _fields(price: Price) -> dict[str, Any]:
    from gateway.config.prices import price_words  # noqa: PLC0415

    words = price_words(price).split(", ")
    plain = ("input = ", "output = ", "cached = ", "cache_write = ")
    more = words
    while more and more[0].startswith(plain):
        more = more[1:]
    return {
        "input": price.input,
        "output": price.output,
        "cached": price.cached,
        "cache write": price.cache_write,
        "more": ", ".join(more),
    }


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None or value == "" else str(value)


def _check(
    table: PriceTable,
    head: dict[str, Any],
    config: str | None,
    records: str | None,
    *,
    as_json: bool,
) -> int:
    """Print the models of the configuration and of the records with what they cost."""
    from gateway.config import load  # noqa: PLC0415
    from gateway.config.resolve import resolve  # noqa: PLC0415

    loaded = load(config)
    resolved = resolve(loaded.config)
    path = records or str(loaded.config.events.file or "")
    try:
        requested = _requested(path)
    except OSError as error:
        if records:
            return fail(f"cannot read {records}: {error.strerror}")
        requested = {}
    policies = {tenant.policy.name: tenant.policy for tenant in resolved.tenants}
    if resolved.anonymous is not None:
        policies.setdefault(resolved.anonymous.name, resolved.anonymous)
    items = [
        {
            "policy": policy.name,
            "model": model,
            "requests": requested.get(model, 0),
            "price": own.source(model) or "none",
        }
        for policy in policies.values()
        for own in [table.with_overrides(policy.prices, policy.unknown_price)]
        for model in dict.fromkeys((*_named(policy), *requested))
    ]
    missing = [item for item in items if item["price"] == "none"]
    if as_json:
        print_json(head | {"items": items})
    else:
        print(head["source"])
        columns = ("policy", "model", "requests", "price")
        if items:
            rows = [tuple(str(item[name]) for name in columns) for item in items]
            print_columns([columns, *rows])
        for item in missing:
            words = f"{item['model']} has no price (policy {item['policy']})"
            print(f"tidegate: warning: {words}", file=sys.stderr)
        if head["warning"]:
            print(f"tidegate: warning: {head['warning']}", file=sys.stderr)
    return FAILED if missing or head["warning"] else OK


def _named(policy: Any) -> list[str]:
    """Models that a policy names, without patterns."""
    found = [name for limit in policy.limits for name in limit.models]
    found += [name for caps in policy.model_caps for name in caps.models]
    found += policy.models.allow if policy.models is not None else ()
    found += policy.prices
    return [name for name in found if not set(name) & set("*?[")]


def _requested(path: str) -> dict[str, int]:
    """Requests by model in the newest records of a file."""
    from collections import Counter, deque  # noqa: PLC0415

    import msgspec  # noqa: PLC0415

    class Line(msgspec.Struct):
        model: str = ""

    found: Counter[str] = Counter()
    if not path:
        return found
    decode = msgspec.json.Decoder(Line).decode
    with open(path, "rb") as file:
        for line in deque(file, _RECORDS):
            try:
                model = decode(line).model
            except msgspec.DecodeError:
                continue
            if model:
                found[model] += 1
    return dict(found.most_common(200))
