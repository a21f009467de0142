"""Everything the stages left behind, on one page that opens without a network."""

import base64
import csv
import io
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from techloop.artifacts import atomic_write, read_json, write_json
from techloop.audio.io import read_audio
from techloop.data.loops_folder import LoopsFolder, open_loops
from techloop.data.summary import (
    Histogram,
    duration,
    families,
    histograms,
    least_sure,
    nice_step,
    reasons,
    tempo_sources,
    ticks,
)
from techloop.reporting.charts import DASHES, ON_PAGE, Line, chart_script, line_chart

LARGEST_BYTES = 14_500_000  # of the page; what would go beyond it is linked instead
STAGES = {  # that have cells, in their order: of which VAE, and the folder of what is shown
    "train_audio_vae": ("audio", "data/audio_vae"),
    "extract_latents": ("audio", None),
    "train_latent_vae": ("latent", "data/latent_vae"),
    "evaluate_reconstruction": ("audio", "reports/reconstruction"),
    "evaluate_descriptors": ("audio", "reports/descriptors"),
    "evaluate_prior": ("audio", "reports/prior"),
    "evaluate_smoothness": ("latent", "reports/smoothness"),
    "evaluate_generation": ("latent", "reports/generation"),
    "evaluate_controls": ("latent", "reports/controls"),
}
# What a metric is measured against, by what its name begins with.
BASELINES = {
    "silence_": "silence",
    "noise_": "noise of the same spectrum",
    "other_loop_": "another loop",
    "spherical_": "arc in the top space",
    "vae1_": "line in VAE 1",
    "crossfade_": "cross-fade",
    "shuffled_": "shuffled points",
    "white_": "white frames",
    "standard_": "points apart, from N(0, 1)",
    "real_": "real loops",
    "chance_": "chance",
}
UNITS = {
    "_db": "dB",
    "_hz": "Hz",
    "_lufs": "LUFS",
    "_s": "s",
    "_bpm": "BPM",
    "bits_per_second": "bit/s",
    "nats_per_frame": "nats/frame",
    "nats_per_loop": "nats/loop",
    "nats": "nats",
}
# The first that is found in a metric's name. Not there: what cells of different objectives or
# regularisers cannot be compared by (losses, bounds, distortion, explained variance), what a
# collapse raises (density), and what is best at the value of real loops (the seam's ratio, kicks).
BETTER = {
    "↓": r"distance|error|log_mel|multi_|mmd|frechet|jump|jerk|length_ratio|path_ratio|path_length|"
    r"silent|copied|leakage",
    "↑": r"r2|strongest_spearman|fine_structure|similarity|active|coverage|monoton|on_grid|gain_sd",
}
HISTOGRAM = (270, 130)  # width and height of the bars of a histogram, in units of about a pixel
# What tells cells of the latent VAE apart, by the stage that measures it; and of that what is drawn
# over the points of a loop, with what it is to be read by.
STUDY = {
    "rate_nats_per_loop": "train_latent_vae",
    "decoded_log_distance": "train_latent_vae",
    "active_units": "train_latent_vae",
    "perceptual_path_ratio": "evaluate_smoothness",
    "midpoint_nearest_ratio": "evaluate_smoothness",
    "coverage": "evaluate_generation",
    "diversity_ratio": "evaluate_generation",
    "frechet_log_mel": "evaluate_generation",
}
DRAWN = {
    "perceptual_path_ratio": {"cross-fade": "crossfade_", "line in VAE 1": "vae1_"},
    "midpoint_nearest_ratio": {"cross-fade": "crossfade_"},
    "coverage": {"real loops": "real_"},
    "rate_nats_per_loop": {},
    "decoded_log_distance": {},
}
FEW = 5  # of what is shown from the top of a list
COLUMNS = 120  # of a drawn waveform
LONG_BYTES = 300_000  # a sound above is a whole piece rather than a loop


@dataclass
class Cell:
    """What one stage left for one cell."""

    name: str
    folder: Path
    metrics: dict[str, float | None]
    items: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, str]] = field(default_factory=list)


def write_report(
    reports: Path,
    data: Path,
    out: Path,
    *,
    audio_cells: Sequence[str],
    latent_cells: Sequence[str],
) -> dict[str, Any]:
    """Write `index.html`, self-contained, and `metrics.json` to `out`.

    A stage, or a cell of it, that has not run is named on the page, and the rest is built; what
    other cells have left is not read. The same inputs give the same bytes. Sounds and pictures
    that would make the page larger than 15 MB are linked to.

    Args:
        reports: holds `runs/` and a folder a stage of evaluation, with one a cell.
        data: holds `loops/`, `audio_vae/` and `latent_vae/`.
        out: folder of the page.
        audio_cells: names of the cells of VAE 1, in the order of the columns.
        latent_cells: of VAE 2.

    Returns:
        What `metrics.json` holds: stage, then cell, then metric.

    Raises:
        ValueError: a file is damaged, or one that `items.json` lists is not there.
    """
    dataset = open_loops(data / "loops") if (data / "loops").is_dir() else None
    loops = dataset.card if dataset else None
    names, tops = {"audio": audio_cells, "latent": latent_cells}, {"data": data, "reports": reports}
    stages, absent = {}, {}
    for stage, (vae, place) in STAGES.items():
        if place:
            top, folder = place.split("/")
            stages[stage] = _cells(tops[top] / folder, names[vae])
            absent[stage] = _absent(stage, names[vae], stages[stage])
    charts = {stage: _curves(stages[stage]) for stage in ("train_audio_vae", "train_latent_vae")}
    study = _study(stages)
    drawn = [chart for group in (*charts.values(), study) for chart in group["charts"]]
    script = chart_script() if drawn else ""
    spent = len(script) + sum(len(json.dumps(chart["spec"])) for chart in drawn)
    _embed([cell for cells in stages.values() for cell in cells], out, LARGEST_BYTES - spent)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("techloop", "reporting/templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": number,
        "shorten": shorten,
        "duration": duration,
        "label": label,
        "unit": unit,
        "better": better,
        "flat": flat,
        "by_kind": by_kind,
    }
    runs = _runs(reports / "runs", stages_before(audio_cells, latent_cells))
    page = environment.get_template("report.html.j2").render(
        runs=runs,
        commit=", ".join(sorted({run["commit"][:8] for run in runs})),
        loops=loops,
        dataset=_dataset(dataset) if dataset else None,
        stages=stages,
        absent=absent,
        tables={name: _table(cells) for name, cells in stages.items()},
        charts=charts,
        study=study,
        script=script,
        dimensions={name: _dimensions(cells) for name, cells in stages.items()},
        colours=ON_PAGE,
        dashes=DASHES,
        histogram=HISTOGRAM,
        columns=COLUMNS,
    )
    metrics: dict[str, Any] = {
        stage: {cell.name: cell.metrics for cell in cells}
        for stage, cells in stages.items()
        if cells
    }
    if loops:
        counts = {key: loops[key] for key in ("items", "loops", "hours", "rejected", "splits")}
        metrics = {"prepare_loops": counts, **metrics}
    atomic_write(out / "index.html", page)
    write_json(out / "metrics.json", metrics)
    return metrics


def stages_before(audio_cells: Sequence[str], latent_cells: Sequence[str]) -> list[str]:
    """The stages of the pipeline that come before the report, each with its cell."""
    names = {"audio": audio_cells, "latent": latent_cells}
    with_cells = [f"{stage}@{name}" for stage, (vae, _) in STAGES.items() for name in names[vae]]
    return ["prepare_loops", *with_cells]


def number(value: float | int | None) -> str:
    """A number as it is read: four digits, thousands apart; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def shorten(text: str) -> str:
    """A field of a CSV file, shorter where it is a number with many digits; empty: a dash."""
    if not text:
        return "–"
    if text in ("inf", "-inf"):  # as the level of digital silence
        return text.replace("inf", "∞").replace("-", "−")
    try:
        return number(float(text))
    except ValueError:
        return text


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested keys joined by dots."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        pairs += flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return pairs


def by_kind(items: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Items in their order, neighbours of one kind together."""
    return [list(group) for _, group in itertools.groupby(items, key=lambda item: item["kind"])]


def label(metric: str) -> str:
    """A metric's name without its unit, in words."""
    ending = max((e for e in UNITS if metric.endswith(e)), key=len, default="")
    words = metric.removesuffix(ending).strip("_") or metric
    return words.replace("_", " ").replace("r2", "R²").removesuffix(" per")


def unit(metric: str) -> str:
    """The unit in a metric's name, empty for a bare number, such as a ratio of decibels."""
    if re.search(r"r2|spearman|pearson|monotonicity|ratio|jump|jerk", metric):
        return ""
    return UNITS.get(max((e for e in UNITS if metric.endswith(e)), key=len, default=""), "")


def better(metric: str) -> str:
    """An arrow the way a metric gets better; empty where neither way is."""
    return next((arrow for arrow, names in BETTER.items() if re.search(names, metric)), "")


def _cells(folder: Path, names: Sequence[str]) -> list[Cell]:
    """Those of these cells of a stage that are finished."""
    cells = []
    for path in (folder / name for name in names if (folder / name / "metrics.json").is_file()):
        items = read_json(path / "items.json") if (path / "items.json").is_file() else []
        history = _rows(path / "history.csv") if (path / "history.csv").is_file() else []
        for item in items:
            if not (path / item["file"]).is_file():
                raise ValueError(
                    f"{path / 'items.json'} lists {item['file']}, which is not there: the folder "
                    "was copied in part. `dvc checkout dvc.yaml` restores it, `dvc repro` makes it "
                    "anew."
                )
        numbers = read_json(path / "metrics.json")
        metrics = {k: None if v is None else float(v) for k, v in numbers.items()}
        cells.append(Cell(path.name, path, metrics, items, history))
    return cells


def _absent(stage: str, names: Sequence[str], cells: list[Cell]) -> list[str]:
    """What has not run: the cells that are not there, or the stage where none of them is."""
    found = [cell.name for cell in cells]
    return [f"{stage}@{name}" for name in names if name not in found] if found else [stage]


def _rows(path: Path) -> list[dict[str, str]]:
    """A CSV file as a list of its rows."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _runs(folder: Path, stages: list[str]) -> list[dict[str, Any]]:
    """The MLflow runs behind the outputs of these stages, in their order."""
    paths = [folder / f"{stage}.json" for stage in stages]
    return [read_json(path) for path in paths if path.is_file()]


def _dataset(loops: LoopsFolder) -> dict[str, Any]:
    """What the page says of the loops and of what was left out, besides their card."""
    index, rejected = loops.index, loops.rejected
    names = set(index["name"]) if "name" in index else set()
    alike = [] if rejected is None else families(rejected, names)
    return {
        "age": loops.age(),
        "recordings": len(names),
        "reasons": None if rejected is None else reasons(rejected),
        "families": alike[:FEW],
        "more_families": len(alike) - FEW,
        "tempi": tempo_sources(index),
        "least_sure": least_sure(index, FEW),
        "histograms": [_drawn(histogram) for histogram in histograms(index)],
    }


def _drawn(histogram: Histogram) -> dict[str, Any]:
    """A histogram with its places on the page, from the upper left corner of its bars."""
    h, (width, height) = histogram, HISTOGRAM
    drawn: dict[str, Any] = {"bins": h, "total": int(h.counts.sum()), "bars": []}
    if not h.counts.size:
        return drawn
    step = nice_step(float(h.counts.max()), 4, 1.0)
    top = step * math.ceil(h.counts.max() / step)
    scale = np.log if h.log else np.asarray
    low, high = scale(h.edges[[0, -1]])

    def across(values: Sequence[float] | np.ndarray) -> list[float]:
        return (width * (scale(values) - low) / (high - low)).tolist()

    edges = across(h.edges)
    for i, count in enumerate(h.counts.tolist()):
        # A gap of a unit between bars; what is there at all is seen.
        tall = max(height * count / top, 1.0) if count else 0.0
        bar = {"x": edges[i] + 0.5, "width": edges[i + 1] - edges[i] - 1, "height": tall}
        drawn["bars"].append({**bar, "from": h.edges[i], "to": h.edges[i + 1], "count": count})
    marks = ticks(h)
    drawn["x"] = list(zip(across(marks), marks, strict=True))
    rungs = [step * i for i in range(round(top / step) + 1)]
    drawn["y"] = [(height * (1 - rung / top), rung) for rung in rungs]
    drawn["fullest"] = max(drawn["bars"], key=lambda bar: bar["count"])
    return drawn


def _table(cells: list[Cell]) -> dict[str, Any]:
    """Metrics side by side: own rows, and under each baseline the same names again.

    The ends of an interval, `<name>_low` and `<name>_high`, belong to the row of their name.
    """
    every = dict.fromkeys(name for cell in cells for name in cell.metrics)
    ends = {f"{name}_{end}" for name in every for end in ("low", "high")}
    names = [name for name in every if "_dim_" not in name and name not in ends]
    of_baseline = {
        name: prefix
        for name in names
        for prefix in BASELINES
        if name.startswith(prefix) and name.removeprefix(prefix) in names
    }
    rows = []
    for name in (n for n in names if n not in of_baseline):
        values = [cell.metrics.get(name) for cell in cells]
        intervals = [
            (cell.metrics.get(f"{name}_low"), cell.metrics.get(f"{name}_high")) for cell in cells
        ]
        best = _best(values, better(name))
        rows.append({"name": name, "values": values, "intervals": intervals, "best": best})
    baselines = []
    for prefix in dict.fromkeys(of_baseline.values()):
        below = [
            {
                "name": name.removeprefix(prefix),
                "values": [cell.metrics.get(name) for cell in cells],
                "intervals": [(None, None)] * len(cells),
                "best": None,
            }
            for name in names
            if of_baseline.get(name) == prefix
        ]
        baselines.append({"title": BASELINES[prefix], "rows": below})
    return {"cells": [cell.name for cell in cells], "rows": rows, "baselines": baselines}


def _best(values: list[float | None], arrow: str) -> float | None:
    """The best of several values, if there are several and one way is better."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    if not arrow or len(set(known)) < 2:
        return None
    return max(known) if arrow == "↑" else min(known)


def _dimensions(cells: list[Cell]) -> list[dict[str, Any]]:
    """Metrics that there are one of a latent dimension, largest first, as shares of the largest."""
    found = []
    for cell in cells:
        values = sorted((v or 0.0 for k, v in cell.metrics.items() if "_dim_" in k), reverse=True)
        if values:
            shares = [max(v, 0.0) / max(values[0], 1e-9) for v in values]
            found.append({"cell": cell.name, "values": values, "shares": shares})
    return found


def _curves(cells: list[Cell]) -> dict[str, Any]:
    """Training curves: one chart a metric, a line a cell and split, and their legend."""
    names = dict.fromkeys(n for cell in cells for row in cell.history for n in row)
    shown = [n for n in names if n not in ("loops_seen", "split") and "_dim_" not in n]
    return {
        "legend": [
            {"name": cell.name, "colour": i, "dash": i // len(ON_PAGE)}
            for i, cell in enumerate(cells)
        ],
        "charts": [chart for name in shown if (chart := _curve(name, cells))],
    }


def _curve(name: str, cells: list[Cell]) -> dict[str, Any] | None:
    """One metric over the loops seen; None where no split has two finite values."""
    lines = []
    for i, cell in enumerate(cells):
        for split in ("train", "validation"):
            points = [
                (float(row["loops_seen"]), float(row[name]))
                for row in cell.history
                if row["split"] == split and row.get(name)
            ]
            points = [p for p in points if math.isfinite(p[1])]
            if len(points) > 1:
                dash = i // len(ON_PAGE)
                title = f"{cell.name}, {'training' if split == 'train' else split}"
                lines.append(Line(cell.name, title, i, dash, split == "train", points))
    if not lines:
        return None
    low, high = (f(y for line in lines for _, y in line.points) for f in (min, max))
    log = low > 0 and high / low > 20
    ends = [f"{line.title} {number(line.points[-1][1])}" for line in lines]
    description = f"{label(name)} over the loops seen, at the end: {'; '.join(ends)}"
    spec = line_chart(lines, description, ("loops seen", label(name)), log=log)
    return {"name": name, "log": log, "spec": spec}


def _study(stages: Mapping[str, list[Cell]]) -> dict[str, Any]:
    """The cells of the latent VAE side by side: rows of a table, charts over their lengths."""
    cells = {(stage, cell.name): cell.metrics for stage in stages for cell in stages[stage]}
    rows = []
    for cell in stages["train_latent_vae"]:
        metrics = {
            name: cells.get((stage, cell.name), {}).get(name) for name, stage in STUDY.items()
        }
        rows.append({"name": cell.name, **_design(cell.folder), "metrics": metrics})
    names = [name for name in STUDY if any(row["metrics"][name] is not None for row in rows)]
    best = {name: _best([row["metrics"][name] for row in rows], better(name)) for name in names}
    regularisers, objectives = (
        list(dict.fromkeys(row[key] for row in rows)) for key in ("regulariser", "objective")
    )
    legend = {
        (r, o): {"name": f"{r}, {o}", "colour": objectives.index(o), "dash": regularisers.index(r)}
        for r, o in sorted({(row["regulariser"], row["objective"]) for row in rows})
    }
    charts = [
        _over_lengths(name, rows, legend, stages[STUDY[name]]) for name in DRAWN if name in names
    ]
    entries = list(legend.values())
    return {"rows": rows, "names": names, "best": best, "legend": entries, "charts": charts}


def _design(folder: Path) -> dict[str, Any]:
    """Regulariser, objective and length of a latent VAE."""
    config = read_json(folder / "config.json")
    if "cell" not in config:
        raise ValueError(
            f"{folder / 'config.json'} lacks `cell`, which says what was trained: it is of an "
            "older version. `dvc repro` makes the folder anew."
        )
    return {key: config["cell"][key] for key in ("regulariser", "objective", "length")}


def _over_lengths(
    name: str,
    rows: list[dict[str, Any]],
    legend: Mapping[tuple[str, str], dict[str, Any]],
    measured: list[Cell],
) -> dict[str, Any]:
    """One metric over the points a loop, a line a regulariser and objective, and its baselines."""
    lines = []
    for kind, entry in legend.items():
        points = sorted(
            (float(row["length"]), row["metrics"][name])
            for row in rows
            if (row["regulariser"], row["objective"]) == kind and row["metrics"][name] is not None
        )
        if points:
            lines.append(Line(**entry, title=entry["name"], thin=False, points=points))
    bands = {}
    for title, prefix in DRAWN[name].items():
        values = [v for cell in measured if (v := cell.metrics.get(prefix + name)) is not None]
        if values:
            bands[title] = min(values), max(values)
    told = [f"{line.name}, {n:g}: {number(v)}" for line in lines for n, v in line.points]
    description = f"{label(name)} over the points a loop. {'; '.join(told)}"
    steps = sorted({float(row["length"]) for row in rows})
    spec = line_chart(lines, description, ("points a loop", label(name)), steps=steps, bands=bands)
    return {"name": name, "log": False, "spec": spec}


def _embed(cells: list[Cell], out: Path, left: int) -> None:
    """Put tables, pictures and sounds into their items, as far as `left` bytes allow.

    Tables and pictures come first, then short sounds, then long ones cell by cell. What is left
    out has no `data`, only a link.
    """
    left -= 500_000  # for the page itself
    items = [(cell, item) for cell in cells for item in cell.items]
    for cell, item in items:
        file = cell.folder / item["file"]
        item["id"] = re.sub(r"\W", "-", f"{cell.folder.parent.name}-{cell.name}-{file.name}")
        item["link"] = Path(os.path.relpath(file, out)).as_posix()
        item["bytes"] = file.stat().st_size
        if item["kind"] == "table":
            item["rows"] = _rows(file)
        elif item["kind"] == "audio":
            item["wave"], item["seconds"] = _wave(file)
    order = {"figure": 0, "audio": 1}
    sized = [(cell, item) for cell, item in items if item["kind"] in order]
    sized.sort(key=lambda pair: (order[pair[1]["kind"]], pair[1]["bytes"] > LONG_BYTES))
    for cell, item in sized:
        file = cell.folder / item["file"]
        content = _webp(file) if item["kind"] == "figure" else file.read_bytes()
        text = base64.b64encode(content).decode()
        item["data"] = text if len(text) <= left else None
        left -= len(text) if item["data"] else 0


def _webp(file: Path) -> bytes:
    """A picture, a fifth of the size it has as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(file) as image:
        image.convert("RGB").save(buffer, "WEBP", quality=85, method=4)
    return buffer.getvalue()


def _wave(file: Path) -> tuple[str, float]:
    """Outline of a sound as an SVG path (`COLUMNS` wide, from -1 to 1), and its seconds."""
    sound = read_audio(file)
    parts = np.array_split(sound.samples, COLUMNS)
    high = [(i, -float(part.max(initial=0))) for i, part in enumerate(parts)]
    low = [(i, -float(part.min(initial=0))) for i, part in enumerate(parts)]
    outline = "L".join(f"{x} {y:.2f}" for x, y in [*high, *reversed(low)])
    return f"M{outline}Z", sound.samples.size / sound.rate_hz
