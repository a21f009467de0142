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


def format_interval(interval: tuple[float, float], value: float) -> str:
    """An interval as it stands behind its value: `± 33`; `0.2 to 0.5` where it is not symmetric.

    Empty where an end is not finite.
    """
    low, high = interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    reach = (high - low) / 2
    if abs(low + reach - value) > 1e-3 * reach:
        return f"{format_number(low)} to {format_number(high)}"
    return f"± {format_number(float(f'{reach:.2g}'))}"
