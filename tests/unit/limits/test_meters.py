"""The table of meters."""

from __future__ import annotations

import msgspec
import pytest

from gateway.config.keys import LimitTable
from gateway.core.model import METERS
from gateway.limits.meters import FAMILY_NAMES, METER_TABLE


def test_every_meter_has_a_row_and_a_configuration_key():
    """Names, table and configuration agree, in one order."""
    assert tuple(METER_TABLE) == METERS
    keys = [field.name for field in msgspec.structs.fields(LimitTable)]
    assert tuple(key for key in keys if key in METER_TABLE) == METERS
    assert set(keys) - set(METERS) == {"per", "window"}


@pytest.mark.parametrize("meter", METERS)
def test_rows_are_complete(meter):
    """A row has words for an amount, and a header unit unless it counts requests."""
    spec = METER_TABLE[meter]
    assert "1" in spec.words.format(spec.in_units(spec.per_unit))
    assert bool(spec.header_unit) == (FAMILY_NAMES[spec.family] != "requests")


def test_amounts_are_converted_to_the_units_of_the_configuration():
    """Nano-dollars become dollars; other meters keep their whole numbers."""
    assert METER_TABLE["usd"].in_units(1_500_000_000) == 1.5
    assert METER_TABLE["tokens"].in_units(7) == 7
