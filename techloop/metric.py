"""What a number means, said once: beside the function that computes it, and then in every file.

A `Metric` is declared beside its function. What an evaluation or a training measured is written as
`Measurement`s, each with what its metric declares, so whoever reads `metrics.json` (the report,
MLflow, the study, another program) needs no table of names.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from techloop.artifacts import read_json, write_json

Better = Literal["lower", "higher", ""]


@dataclass(frozen=True)
class Metric:
    """What a number means.

    Attributes:
        name: snake case, unique among those of its stage.
        label: the same in words, without its unit.
        unit: as it is written behind a value, empty for a bare number.
        better: which way is better; empty where neither is, or where cells are not comparable.
        baselines: what it may be compared with, keys of `techloop.evaluation.baselines.BASELINES`.
    """

    name: str
    label: str
    unit: str = ""
    better: Better = ""
    baselines: tuple[str, ...] = ()

    def of(self, suffix: str, label: str, unit: str | None = None) -> "Metric":
        """The same metric of one descriptor, factor or control: `<name>_<suffix>`."""
        unit = self.unit if unit is None else unit
        return replace(
            self, name=f"{self.name}_{suffix}", label=f"{self.label}, {label}", unit=unit
        )

    def measured(
        self,
        value: float,
        interval: tuple[float, float] | None = None,
        **baselines: float,
    ) -> "Measurement":
        """A value of it, with the ends of its 95 % interval and the values of its baselines.

        Raises:
            ValueError: it does not declare one of the baselines.
        """
        if undeclared := sorted(baselines.keys() - set(self.baselines)):
            raise ValueError(
                f"metric {self.name} declares the baselines {sorted(self.baselines)}, got also "
                f"{undeclared}"
            )
        return Measurement(
            self, float(value), interval, {k: float(v) for k, v in baselines.items()}
        )


@dataclass(frozen=True)
class Measurement:
    """A metric's value; NaN where it is undefined.

    Attributes:
        metric: what it means.
        value: the number.
        interval: ends of its 95 % interval, where it has one.
        baselines: the same number of what it is compared with.
    """

    metric: Metric
    value: float
    interval: tuple[float, float] | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """Its numbers by name, as MLflow takes them: `x`, `x_low`, `x_high`, `<baseline>_x`."""
        name = self.metric.name
        flat = {name: self.value}
        if self.interval:
            flat |= dict(zip((f"{name}_low", f"{name}_high"), self.interval, strict=True))
        return flat | {f"{baseline}_{name}": v for baseline, v in self.baselines.items()}


Measurements = Mapping[str, Measurement]


def by_name(*measurements: Measurement) -> dict[str, Measurement]:
    """Measurements by the name of their metric.

    Raises:
        ValueError: two have one name.
    """
    named: dict[str, Measurement] = {}
    for measurement in measurements:
        if measurement.metric.name in named:
            raise ValueError(f"metric {measurement.metric.name} is measured twice")
        named[measurement.metric.name] = measurement
    return named


def as_json(measurements: Measurements) -> dict[str, dict[str, object]]:
    """Measurements as JSON takes them: by name, with label, unit, direction, value, baselines."""
    content: dict[str, dict[str, object]] = {}
    for name, m in measurements.items():
        entry: dict[str, object] = {"label": m.metric.label, "unit": m.metric.unit}
        entry |= {"better": m.metric.better, "value": m.value}
        entry |= {"interval": list(m.interval)} if m.interval else {}
        entry |= {"baselines": dict(m.baselines)} if m.baselines else {}
        content[name] = entry
    return content


def from_json(content: Mapping[str, Any], path: Path) -> dict[str, Measurement]:
    """Measurements from what `as_json` made; null becomes NaN.

    Args:
        content: as read.
        path: the file it was read from, for errors.

    Raises:
        ValueError: it is damaged, or of an older version.
    """
    measurements = {}
    for name, entry in content.items():
        if not isinstance(entry, dict) or not {"label", "unit", "better", "value"} <= entry.keys():
            raise ValueError(
                f"{path}: `{name}` has no label, unit and direction; the file is of an older "
                "version of techloop or damaged. `dvc repro` makes it anew."
            )
        baselines = {key: _number(value) for key, value in entry.get("baselines", {}).items()}
        metric = Metric(name, entry["label"], entry["unit"], entry["better"], tuple(baselines))
        interval = entry.get("interval")
        ends = (_number(interval[0]), _number(interval[1])) if interval else None
        measurements[name] = Measurement(metric, _number(entry["value"]), ends, baselines)
    return measurements


def write_metrics(path: Path, measurements: Measurements) -> None:
    """Write measurements as JSON, see `as_json`."""
    write_json(path, as_json(measurements))


def read_metrics(path: Path) -> dict[str, Measurement]:
    """Measurements as `write_metrics` wrote them; null becomes NaN.

    Raises:
        ValueError: the file is not there, damaged, or of an older version.
    """
    return from_json(read_json(path), path)


def flat_metrics(measurements: Measurements) -> dict[str, float]:
    """All numbers of some measurements, by the names of `Measurement.flat`."""
    return {name: value for m in measurements.values() for name, value in m.flat().items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
