"""MLflow's UI over the repository's runs, on this machine alone: `make ui`."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from pathlib import Path

from stages import run_stage
from techloop.tracking.run import experiment_id, repository_root, shown_address, tracking_address

HOST = "127.0.0.1"
PATIENCE_S = 120.0  # for the server to answer, before a browser is opened


def server_command(root: Path, port: str) -> list[str]:
    """What starts the UI; nothing where the runs are on a server, which has a UI of its own.

    Raises:
        ValueError: there are no runs yet, or the port cannot be had.
    """
    address = tracking_address(root)
    if address.startswith(("http://", "https://")):
        return []
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (root / "mlflow.db").is_file():
        raise ValueError(
            "there is no mlflow.db yet, as no stage has run here. `dvc repro` runs them; where the "
            "runs are elsewhere, MLFLOW_TRACKING_URI names the place."
        )
    try:
        socket.create_server((HOST, int(port))).close()
    except (OSError, OverflowError, ValueError):
        raise ValueError(
            f"port {port} is taken or none. If the UI is open already, it is at "
            f"http://{HOST}:{port}; else take another port: make ui PORT=5001"
        ) from None
    told = ["--host", HOST, "--port", port, "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", *told]


def open_browser(address: str, port: int | None = None) -> None:
    """Open a window, if there can be one, as soon as something answers at the port."""
    end = time.monotonic() + PATIENCE_S
    while port and time.monotonic() < end:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.5)
    # On a terminal alone a text browser would take it over.
    windows = sys.platform in ("darwin", "win32")
    if windows or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(address)


def main(port: str) -> None:
    """Show the runs until interrupted."""
    root = repository_root()
    if command := server_command(root, port):
        place = f"#/experiments/{experiment_id(root)}/runs?workflowType=machine_learning"
        address = f"http://{HOST}:{port}/{place}"
        print(f"{address} (Ctrl-C ends it)", flush=True)
        threading.Thread(target=open_browser, args=(address, int(port)), daemon=True).start()
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        # Not an argument: it may hold a password, and others see what runs with which arguments.
        store = {"MLFLOW_BACKEND_STORE_URI": tracking_address(root)}
        with contextlib.suppress(KeyboardInterrupt):
            subprocess.run(command, cwd=root, check=False, env=quiet | os.environ | store)
    else:
        print(f"{shown_address(tracking_address(root))} has the runs and a UI of its own")
        open_browser(shown_address(tracking_address(root)))


if __name__ == "__main__":
    run_stage(main)
