"""Values of metrics beside those of their baselines."""

from collections.abc import Mapping
from dataclasses import replace

from techloop.evaluation.baselines import check_baselines
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
        baselines: by key of `techloop.evaluation.baselines.BASELINES`; each metric gets those that
            hold a value of it.
        intervals: ends of the 95 % intervals of those metrics that have one.

    Raises:
        ValueError: two metrics have one name, a baseline is not in `BASELINES`, or one that a
            metric declares has no value of it.
    """
    measurements = []
    for metric, value in values.items():
        own = {key: of[metric] for key, of in (baselines or {}).items() if metric in of}
        if missing := set(metric.baselines) - own.keys():
            raise ValueError(f"metric {metric.name}: its baselines {sorted(missing)} have no value")
        declared = replace(metric, baselines=tuple(own))
        measurements.append(declared.measured(value, (intervals or {}).get(metric), **own))
    named = by_name(*measurements)
    check_baselines(named)
    return named
