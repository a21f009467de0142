"""The table and the figure of the study, from the runs that params.yaml names."""

from itertools import product
from pathlib import Path

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main() -> None:
    """Write reports/study/summary."""
    from techloop.reporting.study_table import report_study

    study, folder = load_params().study, Path("reports/study/runs")
    cells = product(study.regulariser, study.objective, study.length, study.seed)
    names = ["-".join(map(str, cell)) for cell in cells]
    collects = [f"study@{name}" for name in names]
    with track("study_report", study, [folder], collects) as run:
        table = report_study([folder / f"{name}.json" for name in names], "reports/study/summary")
        run.artifacts("reports/study/summary")
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    run_stage(main)
