"""The pipeline as a Prefect flow: `python -m stages.flow`. DVC's graph says what to run.

Each stage is a task, run by `dvc repro --single-item`; stages whose inputs are ready run side by
side. Those that compute with a model (`meta: {gpu: true}` in dvc.yaml) wait for a slot, each with a
GPU of its own if there are any; the others need none. Up-to-date stages get no task, and if all
are up to date, Prefect is not started. No server is needed: the flow starts a temporary one, unless
`PREFECT_API_URL` names another. A stage that was killed, or whose connection failed, is tried
again; one that fails otherwise stops the stages that read its outputs, and no others.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from stages import exit_on_sigterm
from techloop.pipeline.plan import stale_stages

ENVIRONMENT = {  # Prefect reads it while it is imported
    "PREFECT_HOME": str(Path.cwd() / ".prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    "DO_NOT_TRACK": "1",
}


def main() -> None:
    """Run what is not up to date."""
    parser = argparse.ArgumentParser(prog="python -m stages.flow", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    slots_help = "stages that may compute with a model at once (default: one per GPU, or one)"
    parser.add_argument("--slots", type=int, metavar="N", help=slots_help)
    slots = parser.parse_args().slots
    if slots is not None and slots < 1:
        parser.error(f"--slots {slots}: at least one stage must be able to run")
    try:
        if not stale_stages():
            print("Data and pipelines are up to date.")
            return
    except ValueError as error:
        sys.exit(f"flow: {error}")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from techloop.pipeline.flow import run_pipeline

    # Block SIGINT so that Ctrl-C does not kill the temporary server; the flow unblocks it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    exit_on_sigterm()  # a temporary server ends with this process
    try:
        end = run_pipeline(slots, return_state=True)
    except KeyboardInterrupt:
        sys.exit("flow: interrupted. Run it again to resume; finished work is not lost.")
    if not end.is_completed():
        sys.exit(f"flow: {end.message}. The first failure's output is above.")


if __name__ == "__main__":
    main()
