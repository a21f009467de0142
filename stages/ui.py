"""MLflow's UI over the repository's runs, for this machine alone: `make ui`."""

from stages import run_stage
from techloop.tracking.ui import show_ui


def main(port: str) -> None:
    """Show the runs until interrupted."""
    show_ui(port)


if __name__ == "__main__":
    run_stage(main)
