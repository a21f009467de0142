"""Everything the stages left behind, on one page, with its metrics and pictures."""

from pathlib import Path

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main() -> None:
    """Collect reports/ and data/ into the page."""
    from techloop.reporting.cells import STAGES, CellNames
    from techloop.reporting.exhibits.by_stage import EXHIBITS
    from techloop.reporting.page import write_report
    from techloop.reporting.runs import stages_before

    params, reports = load_params(), Path("reports")
    cells: CellNames = {
        "audio": list(params.train_audio_vae.cells),
        "decoder": list(params.finetune_decoder.cells),
        "latent": list(params.train_latent_vae.cells),
    }
    read = [f"{s.folder}/{name}" for s in STAGES.values() if s.folder for name in cells[s.kind]]
    inputs = [path for path in ("data/loops", *read) if Path(path).exists()]
    with track("report", {"cells": cells}, inputs, collects=stages_before(cells)) as run:
        write_report(reports, Path("data"), reports, cells=cells, exhibits=EXHIBITS)
        for name in ("index.html", "metrics.json", "figures"):
            run.artifacts(reports / name)


if __name__ == "__main__":
    run_stage(main)
