"""Everything the stages left behind, on one page: reports/index.html and reports/metrics.json."""

from pathlib import Path

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main() -> None:
    """Collect reports/ and data/ into the page."""
    from techloop.reporting.page import STAGES, stages_before, write_report

    params, reports = load_params(), Path("reports")
    cells = {
        "audio": list(params.train_audio_vae.cells),
        "latent": list(params.train_latent_vae.cells),
    }
    read = [f"{folder}/{name}" for vae, folder in STAGES.values() if folder for name in cells[vae]]
    inputs = [path for path in ("data/loops", *read) if Path(path).exists()]
    before = stages_before(cells["audio"], cells["latent"])
    with track("report", {"cells": cells}, inputs, collects=before) as run:
        write_report(
            reports,
            Path("data"),
            reports,
            audio_cells=cells["audio"],
            latent_cells=cells["latent"],
        )
        run.artifacts(reports / "index.html")
        run.artifacts(reports / "metrics.json")


if __name__ == "__main__":
    run_stage(main)
