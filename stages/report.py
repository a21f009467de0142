"""Everything the stages left behind, on one page: reports/index.html and reports/metrics.json."""

from pathlib import Path

from stages import run_stage
from techloop.tracking import track


def main() -> None:
    """Collect reports/ and data/ into the page."""
    from techloop.report import write_report

    reports = Path("reports")
    with track("report", {}) as run:
        write_report(reports, Path("data"), reports)
        run.artifacts(reports / "index.html")
        run.artifacts(reports / "metrics.json")


if __name__ == "__main__":
    run_stage(main)
