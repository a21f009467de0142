"""The page's HTML from its templates."""

import itertools
import math
from collections.abc import Iterable, Mapping

import jinja2

from techloop.data.summary import duration
from techloop.reporting.embedding import Item
from techloop.reporting.numbers import format_interval, format_number

ARROWS = {"lower": "↓", "higher": "↑", "": ""}  # by the direction in which a metric gets better


def render(template: str, **values: object) -> str:
    """Fill a template of this package.

    Raises:
        jinja2.UndefinedError: the template uses a value that is not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("techloop", "reporting/templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": format_number,
        "interval": format_interval,
        "field": format_field,
        "duration": duration,
        "arrow": ARROWS.__getitem__,
        "sentence": sentence,
        "flat": flat,
        "by_kind": by_kind,
    }
    environment.tests["finite"] = math.isfinite
    return environment.get_template(template).render(values)


def format_field(text: str) -> str:
    """A field of a CSV file: fewer digits if it is a number, a dash if it is empty."""
    if not text:
        return "–"
    if text in ("inf", "-inf"):  # as the level of digital silence
        return text.replace("inf", "∞").replace("-", "−")
    try:
        return format_number(float(text))
    except ValueError:
        return text


def sentence(words: str) -> str:
    """Words with a capital at their beginning; the others keep theirs, as in `VAE`."""
    return words[:1].upper() + words[1:]


def flat(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Nested keys joined by dots, with their values."""
    pairs: list[tuple[str, object]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        pairs += flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return pairs


def by_kind(items: Iterable[Item]) -> list[list[Item]]:
    """Items in their order, neighbours of one kind together."""
    return [list(group) for _, group in itertools.groupby(items, lambda item: item.exhibit.kind)]
