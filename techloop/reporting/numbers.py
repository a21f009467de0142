"""Numbers as the page and the text reports write them."""

import math


def format_number(value: float | int | None, minus: str = "−") -> str:
    """Four significant digits, thousands apart; a dash for None, NaN and infinities.

    Whole numbers, and those of 1,000 or more, have no decimals.

    Args:
        value: the number.
        minus: its sign where it is negative: typographic, or `-` for a terminal.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}".replace("-", minus)
    return f"{value:.4g}".replace("-", minus)
