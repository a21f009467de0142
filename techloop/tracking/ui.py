"""MLflow's UI over the repository's runs, for this machine alone."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from pathlib import Path

from techloop.tracking.address import repository_root, shown_address, tracking_address
from techloop.tracking.store import experiment_id

HOST = "127.0.0.1"
BROWSER_TIMEOUT_S = 120.0  # for the server to answer before a browser is opened


def show_ui(port: str) -> None:
    """Serve the runs until interrupted, or open the UI of the server that has them.

    Args:
        port: a number as text, as it comes from the command line.

    Raises:
        ValueError: no stage has run yet, or the port is not available.
    """
    root = repository_root()
    command = server_command(root, port)
    if not command:
        address = shown_address(tracking_address(root))
        print(f"The runs are at {address}, which has a UI of its own.")
        open_browser(address)
        return
    page = f"#/experiments/{experiment_id(root)}/runs?workflowType=machine_learning"
    address = f"http://{HOST}:{port}/{page}"
    print(f"{address} (Ctrl-C ends it)", flush=True)
    threading.Thread(target=open_browser, args=(address, int(port)), daemon=True).start()
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # Not an argument: it may hold a password, and other users see the arguments of processes.
    store = {"MLFLOW_BACKEND_STORE_URI": tracking_address(root)}
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run(command, cwd=root, check=False, env=quiet | os.environ | store)


def server_command(root: Path, port: str) -> list[str]:
    """The command that serves the UI; empty if the runs are on a server, which has its own.

    Raises:
        ValueError: no stage has run yet, or the port is not available.
    """
    address = tracking_address(root)
    if address.startswith(("http://", "https://")):
        return []
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (root / "mlflow.db").is_file():
        raise ValueError(
            "mlflow.db does not exist yet, as no stage has run here. `dvc repro` runs them. If the "
            "runs are elsewhere, set MLFLOW_TRACKING_URI to that place."
        )
    try:
        socket.create_server((HOST, int(port))).close()
    except (OSError, OverflowError, ValueError):
        raise ValueError(
            f"port {port} is in use or not a port. If the UI is open already, it is at "
            f"http://{HOST}:{port}; else take another port: make ui PORT=5001"
        ) from None
    options = ["--host", HOST, "--port", port, "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", *options]


def open_browser(address: str, port: int | None = None) -> None:
    """Open the address in a browser with windows, if there is one.

    Args:
        address: of the page.
        port: of this machine; the page is opened as soon as something answers there.
    """
    end = time.monotonic() + BROWSER_TIMEOUT_S
    while port and time.monotonic() < end:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.5)
    # Without a display, a text browser would take over the terminal.
    has_windows = sys.platform in ("darwin", "win32")
    if has_windows or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(address)
