"""Amounts of money as text."""

import pytest

from gateway.core.money import usd_text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "$0.00"),
        (1234.5, "$1,234.50"),
        (0.125, "$0.12"),
        (0.1, "$0.10"),
        (0.075, "$0.075"),
        (0.05, "$0.05"),
        (0.00003, "$0.00003"),
        (0.0000324, "$0.000032"),
        (0.0000001, "$0.0000001"),
        (-0.0021, "-$0.0021"),
        (-3, "-$3.00"),
        (float("inf"), "$inf"),
    ],
)
def test_small_amounts_have_significant_digits(amount, text):
    """Cents from ten cents on, else two significant digits: never a rounded-away amount."""
    assert usd_text(amount) == text
