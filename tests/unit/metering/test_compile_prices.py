"""The compiled table calculates what genai-prices calculates."""

import datetime as dt
import json
import warnings
from decimal import ROUND_HALF_UP, Decimal

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import types
from genai_prices.data import providers

from gateway.core.model import Usage
from gateway.metering import compile_prices
from gateway.metering.compile_prices import (
    compile_installed,
    compile_table,
    main,
    supplement,
)
from gateway.metering.cost import price_at, price_usage
from gateway.metering.price_book import PriceBook
from gateway.metering.prices import packaged_prices

NOW = dt.datetime(2026, 11, 20, 12, 30, tzinfo=dt.UTC)
BOOK = PriceBook.parse(compile_installed("2026-11-10", NOW))
TIMES = [
    NOW,
    dt.datetime(2026, 11, 20, 17, 0, tzinfo=dt.UTC),
    dt.datetime(2027, 1, 2, 3, 0, tzinfo=dt.UTC),
    dt.datetime(2028, 2, 29, 23, 59, 59, tzinfo=dt.UTC),
]
# Our usage and the library's of the same answer.
USAGES = [
    (
        Usage(350, 100, 450, source="upstream"),
        {"input_tokens": 350, "output_tokens": 100},
    ),
    (
        Usage(300_001, 7, 300_008, 1000, 0, 5000),
        {
            "input_tokens": 300_001,
            "output_tokens": 7,
            "cache_read_tokens": 1000,
            "cache_write_tokens": 5000,
        },
    ),
    (
        Usage(200_000, 1, 200_001, 0, 0, 900, units=(("cache_write_1h_tokens", 400),)),
        {
            "input_tokens": 200_000,
            "output_tokens": 1,
            "cache_write_tokens": 900,
            "cache_write_1h_tokens": 400,
        },
    ),
    (
        Usage(
            1000,
            500,
            1500,
            300,
            units=(
                ("input_audio_tokens", 400),
                ("cache_audio_read_tokens", 100),
                ("output_audio_tokens", 250),
                ("input_image_tokens", 200),
                ("cache_image_read_tokens", 50),
                ("output_image_tokens", 100),
                ("input_video_tokens", 100),
                ("output_video_tokens", 100),
            ),
        ),
        {
            "input_tokens": 1000,
            "output_tokens": 500,
            "cache_read_tokens": 300,
            "input_audio_tokens": 400,
            "cache_audio_read_tokens": 100,
            "output_audio_tokens": 250,
            "input_image_tokens": 200,
            "cache_image_read_tokens": 50,
            "output_image_tokens": 100,
            "input_video_tokens": 100,
            "output_video_tokens": 100,
        },
    ),
    (
        Usage(units=(("audio_seconds", 7.5),)),
        {"audio_seconds": 7.5, "input_audio_seconds": 7.5},
    ),
    (
        Usage(units=(("input_characters", 4000), ("pages", 3))),
        {"input_characters": 4000, "input_document_pages": 3},
    ),
    (
        Usage(90, 80, 170, 0, 40, units=(("web_searches", 3), ("file_searches", 2))),
        {
            "input_tokens": 90,
            "output_tokens": 80,
            "output_reasoning_tokens": 40,
            "web_searches": 3,
            "storage_searches": 2,
        },
    ),
]
TIERS = [
    (None, {}),
    ("default", {"service_tier": "default"}),
    ("flex", {"service_tier": "flex"}),
    ("priority", {"service_tier": "priority"}),
    ("fast", {"service_tier": "fast"}),
    ("fast", {"speed": "fast"}),
    ("batch", {"processing": "batch"}),
]


def _theirs(provider, model, usage, at, context):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        price = model.calc_price(
            TheirUsage(**usage),
            provider,
            genai_request_timestamp=at,
            price_context=context,
        )
    nanos = price.total_price * 10**9
    return int(nanos.quantize(Decimal(1), ROUND_HALF_UP))


@pytest.mark.parametrize("provider", providers, ids=lambda one: one.id)
def test_every_price_equals_the_librarys(provider):
    """Tokens, cache, modalities, units, context and service tiers, at several times."""
    own = [family.also for family in supplement().values()]
    more = {name for also in own for name in also}
    compared = 0
    for model in provider.models:
        names = (model.id, *_names(model.match))
        own_names = [n for n in names if provider.find_model(n) is model]
        if model.id in more or not own_names:
            continue
        found = BOOK.find(own_names[0], provider.id)
        assert found is not None
        price = found[1]
        variants = {key for v in model.price_variants or () for key in v.when.items()}
        for at in TIMES:
            for tier, context in TIERS:
                if context and not variants & set(context.items()):
                    continue
                for ours, usage in USAGES:
                    try:
                        wanted = _theirs(provider, model, usage, at, context)
                    except ValueError:  # it does not price such a mixture
                        continue
                    mine = price_usage(
                        price,
                        ours if tier is None else _at_tier(ours, tier),
                        at.timestamp(),
                    )[0]
                    assert abs(mine - wanted) <= 1, (model.id, at, context, usage)
                    compared += 1
    assert compared


def _at_tier(usage, tier):
    fields = [getattr(usage, name) for name in usage.__struct_fields__]
    copy = Usage(*fields)
    copy.tier = tier
    return copy


@pytest.mark.parametrize("provider", providers, ids=lambda one: one.id)
def test_every_name_matches_as_in_the_library(provider):
    """Names, ids and dated names of a provider find the model that the library finds."""
    names = {model.id for model in provider.models}
    for model in provider.models:
        names |= set(_names(model.match))
    for name in names | {f"{name}-20251211" for name in names}:
        found = provider.find_model(name, all_providers=list(providers))
        if found is not None and len(name) <= 200:
            ours = BOOK.find(name, provider.id)
            assert ours is not None
            assert ours[0] == found.id, name


def _names(clause):
    for part in getattr(clause, "or_", [clause]):
        yield from (v for v in vars(part).values() if isinstance(v, str))


def test_the_packaged_table_is_made_from_the_pinned_release():
    """The table in the package has the date and version that its header says."""
    file = PriceBook.parse(packaged_prices()).file
    assert file.dated == "2026-11-10"
    assert file.version == "0.2.3"
    assert "MIT" in file.source


def test_supplement_states_sources():
    """Every family of our own prices names the page that it is from."""
    for family in supplement().values():
        assert family.source
        for price in family.models.values():
            assert min([price.input, price.output, *price.units.values()]) >= 0


def _provider(prices, variants=None, match=None):
    model = types.ModelInfo(
        "m",
        match or types.ClauseEquals("M"),
        prices=prices,
        price_variants=variants,
    )
    return types.Provider("acme", "Acme", r"https://acme", models=[model])


def _table(*args, **options):
    listed = [_provider(*args, **options)]
    return PriceBook.parse(compile_table(listed, "9.9", "2026-11-10", NOW))


def test_times_of_day_and_future_days():
    """Past prices are left out, later ones begin on their day, nightly ones at night."""
    night = types.TimeOfDateConstraint(
        dt.time(16, 30, tzinfo=dt.UTC), dt.time(0, 30, tzinfo=dt.UTC)
    )
    start = types.StartDateConstraint(dt.date(2027, 1, 1))
    past = types.StartDateConstraint(dt.date(2025, 1, 1))
    book = _table(
        [
            types.ConditionalPrice(prices=types.ModelPrice(input_mtok=Decimal(9))),
            types.ConditionalPrice(
                past, prices=types.ModelPrice(input_mtok=Decimal(4))
            ),
            types.ConditionalPrice(
                start, prices=types.ModelPrice(input_mtok=Decimal(3))
            ),
            types.ConditionalPrice(
                night, prices=types.ModelPrice(input_mtok=Decimal(1))
            ),
        ]
    )
    _, price = book.find("m", "acme")

    def rate(*moment):
        return price_at(price, dt.datetime(*moment, tzinfo=dt.UTC).timestamp()).input

    assert rate(2026, 12, 1, 12, 0) == 4
    assert rate(2026, 12, 1, 16, 29, 59) == 4
    assert rate(2026, 12, 1, 16, 30) == 1
    assert rate(2026, 12, 1, 0, 29) == 1
    assert rate(2026, 12, 1, 0, 30) == 4
    assert rate(2027, 1, 1, 12, 0) == 3
    assert rate(2027, 1, 1, 20, 0) == 1


def test_naive_times_of_day_are_utc():
    """A time of day without a zone is UTC."""
    night = types.TimeOfDateConstraint(dt.time(2), dt.time(4))
    book = _table(
        [
            types.ConditionalPrice(prices=types.ModelPrice(input_mtok=Decimal(2))),
            types.ConditionalPrice(
                night, prices=types.ModelPrice(input_mtok=Decimal(1))
            ),
        ]
    )
    _, price = book.find("m", "acme")
    assert price_at(price, 3 * 3600.0).input == 1
    assert price_at(price, 5 * 3600.0).input == 2


def test_variants_that_are_no_service_tier_are_left_out():
    """Contexts that an answer does not state (a route, a search type) change nothing."""
    variants = [
        types.PriceVariant({"route": "eu"}, types.ModelPrice(input_mtok=Decimal(7))),
        types.PriceVariant(
            {"service_tier": "flex", "speed": "fast"},
            types.ModelPrice(input_mtok=Decimal(7)),
        ),
        types.PriceVariant(
            {"service_tier": "flex"}, types.ModelPrice(input_mtok=Decimal(1))
        ),
        types.PriceVariant(
            {"service_tier": "flex"}, types.ModelPrice(output_mtok=Decimal(1))
        ),
    ]
    book = _table(
        types.ModelPrice(input_mtok=Decimal(2), input_text_messages_kcount=Decimal(1)),
        variants=variants,
    )
    _, price = book.find("m", "acme")
    assert price.units == {}
    assert list(price.tiers) == ["flex"]
    assert price.tiers["flex"].input == 1


def test_rules_of_every_kind():
    """And, or, contains, prefix, suffix and patterns match as in the library."""
    match = types.ClauseAnd(
        and_=[
            types.ClauseStartsWith("Ab"),
            types.ClauseOr(or_=[types.ClauseEndsWith("Z"), types.ClauseContains("q")]),
            types.ClauseRegex(r"\d"),
        ]
    )
    book = _table(types.ModelPrice(), match=match)
    assert book.find("AB1z", "acme")
    assert book.find("ab1q-x", "acme")
    assert book.find("ab1x", "acme") is None
    assert book.find("abz", "acme") is None


def test_the_program_writes_the_table(tmp_path, monkeypatch):
    """Without a date, the newest day on which a price of the library began is taken."""
    out = tmp_path / "prices.json"
    main(["--out", str(out)])
    dated = json.loads(out.read_bytes())["dated"]
    assert "2026-10-01" < dated <= dt.datetime.now(dt.UTC).date().isoformat()
    monkeypatch.setattr("genai_prices.data.providers", [_provider(types.ModelPrice())])
    main(["--out", str(out)])
    today = dt.datetime.now(dt.UTC).date().isoformat()
    assert json.loads(out.read_bytes())["dated"] == today
    assert compile_prices.SOURCE in out.read_text()
