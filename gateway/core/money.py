"""Amounts of money as text for people."""

from __future__ import annotations

import math

# Amounts from here on have two decimals, smaller ones two significant digits.
_SMALL = 0.1


def usd_text(amount: float) -> str:
    """US dollars: ``$1,234.50``, ``$0.05``, ``$0.000032``."""
    size = abs(amount)
    sign = "-" if amount < 0 else ""
    if not 0 < size < _SMALL:
        return f"{sign}${size:,.2f}"
    digits = 1 - math.floor(math.log10(size))
    whole, _, decimals = f"{size:.{digits}f}".partition(".")
    return f"{sign}${whole}.{decimals.rstrip('0').ljust(2, '0')}"
