"""Values of metrics beside those of their baselines."""

from collections.abc import Mapping
from dataclasses import replace

from techloop.metric import Measurement, Metric, by_name

Values = Mapping[Metric, float]


def compared(
    values: Values,
    baselines: Mapping[str, Values] | None = None,
    intervals: Mapping[Metric, tuple[float, float]] | None = None,
) -> dict[str, Measurement]:
    """Measurements of some values, each with its baselines and its interval, by name.

    Args:
        values: by metric.
        baselines: by key of `techloop.metric.BASELINES`; each metric gets those that hold a value
            of it.
        intervals: ends of the 95 % intervals of those metrics that have one.

    Raises:
        ValueError: two metrics have one name, or a baseline is not in `BASELINES`.
    """
    measurements = []
    for metric, value in values.items():
        own = {key: of[metric] for key, of in (baselines or {}).items() if metric in of}
        declared = replace(metric, baselines=tuple(own))
        measurements.append(declared.measured(value, (intervals or {}).get(metric), **own))
    return by_name(*measurements)
