"""Where a repository's runs go, and how that place is shown to others."""

import contextlib
import os
from pathlib import Path
from urllib.parse import urlsplit

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
OUTBOX = Path("mlruns/outbox")  # of runs that wait for the server, at the repository's top


def repository_root() -> Path:
    """The top of the repository: `DVC_ROOT`, which DVC sets for its stages, else by looking up.

    Raises:
        ValueError: the current folder is not inside a DVC repository.
    """
    if given := os.environ.get("DVC_ROOT"):
        return Path(given).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir():
            return folder
    raise ValueError(
        f"{here} is in no DVC repository (no folder above it holds .dvc), so runs cannot be "
        "recorded. Go into the repository, or set DVC_ROOT to its top."
    )


def tracking_address(root: Path) -> str:
    """Where runs go: `MLFLOW_TRACKING_URI`, else the database at the top of the repository.

    Raises:
        ValueError: the variable is not an address. The message does not repeat it, as it may hold
            a password.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    with contextlib.suppress(ValueError):
        parts = urlsplit(address)
        _ = parts.port  # raises if a password holds a slash
        if parts.scheme.partition("+")[0] in SCHEMES:
            return address
    raise ValueError(
        "MLFLOW_TRACKING_URI is not the address of a server (http://127.0.0.1:5000, https://...) "
        f"or of a database ({', '.join(SCHEMES[2:])}). In a name or password, write / as %2F and "
        "@ as %40."
    )


def shown_address(address: str) -> str:
    """An address without its password and without paths of this machine."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return parts.scheme
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path.rstrip('/')}"
