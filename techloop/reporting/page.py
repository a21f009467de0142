"""Everything the stages left behind, on one page that opens without a network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from techloop.artifacts import atomic_write, write_json
from techloop.data.loops_folder import open_loops
from techloop.metric import as_json
from techloop.reporting.cells import Cell, CellNames, Dimensions, missing_stages, read_stages
from techloop.reporting.charts import DASHES, ON_PAGE, ChartGroup, chart_script
from techloop.reporting.dataset_section import HEIGHT, WIDTH, dataset_section
from techloop.reporting.embedding import COLUMNS, Exhibits, draw_exhibits, embed
from techloop.reporting.latent_comparison import latent_comparison
from techloop.reporting.metric_table import metric_table
from techloop.reporting.render import render
from techloop.reporting.runs import read_runs, stages_before
from techloop.reporting.training_curves import training_curves

TRAININGS = ("train_audio_vae", "finetune_decoder", "train_latent_vae")
LARGEST_BYTES = 14_500_000  # of the page; it links to what would make it larger
TEXT_BYTES = 500_000  # of the page besides scripts, charts, pictures and sounds


def write_report(
    reports: Path, data: Path, out: Path, *, cells: CellNames, exhibits: Mapping[str, Exhibits]
) -> None:
    """Write `index.html`, self-contained, `metrics.json`, and pictures into `figures/`.

    The page names stages and cells that have not run, and shows the rest. Outputs of other cells
    are not read. The same inputs give the same bytes. The page links to sounds and pictures that
    would make it larger than `LARGEST_BYTES`, 14.5 MB.

    `metrics.json` maps stage -> cell -> metric to value, interval, label, unit, direction and
    baselines, and has the counts of `prepare_loops`.

    Args:
        reports: holds `runs/` and a folder per stage of evaluation, with one per cell.
        data: holds `loops/`, `audio_vae/`, `decoder/` and `latent_vae/`.
        out: folder of the page.
        cells: names of the cells of each model, in the order of the columns.
        exhibits: a function per stage that draws and lists its exhibits. Among files of one kind,
            those of earlier stages are embedded first.

    Raises:
        ValueError: a file is missing, damaged, or of an older version.
    """
    loops = open_loops(data / "loops") if (data / "loops").is_dir() else None
    stages = read_stages(reports, data, cells)
    curves = {name: training_curves(stages[name]) for name in TRAININGS}
    comparison = latent_comparison(stages)
    shown = draw_exhibits(stages, exhibits, out / "figures")

    script, charts_bytes = _scripts([*curves.values(), comparison.charts])
    items = embed(shown, out, LARGEST_BYTES - TEXT_BYTES - len(script) - charts_bytes)
    runs = read_runs(reports / "runs", stages_before(cells))
    page = render(
        "report.html.j2",
        runs=runs,
        commit=", ".join(sorted({run["commit"][:8] for run in runs})),
        loops=loops.card if loops else None,
        dataset=dataset_section(loops) if loops else None,
        stages=stages,
        missing=missing_stages(stages, cells),
        items=items,
        tables={name: metric_table(finished) for name, finished in stages.items()},
        curves=curves,
        comparison=comparison,
        script=script,
        dimensions={name: _dimensions(finished) for name, finished in stages.items()},
        colours=ON_PAGE,
        dashes=DASHES,
        histogram=(WIDTH, HEIGHT),
        columns=COLUMNS,
    )
    atomic_write(out / "index.html", page)
    write_json(out / "metrics.json", _metrics(stages, loops.card if loops else None))


def _scripts(groups: Sequence[ChartGroup]) -> tuple[str, int]:
    """What draws the charts, empty without charts, and the size of all their specifications."""
    charts = [chart for group in groups for chart in group.charts]
    size = sum(len(json.dumps(chart.spec)) for chart in charts)
    return chart_script() if charts else "", size


def _dimensions(cells: Sequence[Cell]) -> list[tuple[str, Dimensions]]:
    """Cells that measured each latent dimension, their values in descending order."""
    return [
        (cell.name, cell.dimensions._replace(values=sorted(cell.dimensions.values, reverse=True)))
        for cell in cells
        if cell.dimensions and cell.dimensions.values
    ]


def _metrics(
    stages: Mapping[str, Sequence[Cell]], card: Mapping[str, object] | None
) -> dict[str, object]:
    """What `metrics.json` holds."""
    metrics: dict[str, object] = {}
    if card:
        metrics["prepare_loops"] = {
            key: card[key] for key in ("items", "loops", "hours", "rejected", "splits")
        }
    for stage, cells in stages.items():
        if cells:
            metrics[stage] = {cell.name: as_json(cell.metrics) for cell in cells}
    return metrics
