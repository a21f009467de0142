"""The table and the figure of the study, of all runs that are there."""

from pathlib import Path

from stages import run_stage
from techloop.tracking import track


def main() -> None:
    """Write reports/study/summary."""
    from techloop.analysis.study import report_study

    runs = Path("reports/study/runs")
    with track("study_report", {}, [runs]) as run:
        table = report_study(list(runs.glob("*.json")), "reports/study/summary")
        run.artifacts("reports/study/summary")
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    run_stage(main)
