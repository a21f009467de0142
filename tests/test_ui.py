"""`make ui` starts MLflow's server on this machine alone, or says why it cannot."""

import socket
from pathlib import Path

import pytest

from techloop.tracking import ui
from techloop.tracking.ui import server_command, show_ui
from tests.helpers.params import free_port


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_it_serves_the_repositorys_runs_to_this_machine_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "mlflow.db").touch()
    port = str(free_port())
    command = server_command(root, port)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == port

    served: list[tuple[list[str], str]] = []
    monkeypatch.setattr(
        ui.subprocess,
        "run",
        lambda c, env, **_: served.append((c, env["MLFLOW_BACKEND_STORE_URI"])),
    )
    monkeypatch.setattr(ui, "experiment_id", lambda root: "1")
    show_ui(port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db.example.org/runs")
    show_ui(port)
    assert [store for _, store in served] == [
        f"sqlite:///{root}/mlflow.db",
        "postgresql://me:secret@db.example.org/runs",
    ]
    assert all("secret" not in " ".join(command) for command, _ in served)
    assert "secret" not in capsys.readouterr().out


def test_a_reason_that_prevents_it_is_a_message(root: Path) -> None:
    with pytest.raises(ValueError, match="no stage has run here"):
        server_command(root, str(free_port()))
    (root / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        with pytest.raises(ValueError, match=f"port {port} is in use .* make ui PORT="):
            server_command(root, port)
    for port in ("70000", "five"):
        with pytest.raises(ValueError, match=f"port {port} is in use or not a port"):
            server_command(root, port)


@pytest.mark.parametrize("window", [True, False])
def test_a_server_has_a_ui_of_its_own(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], window: bool
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(ui.sys, "platform", "linux")
    monkeypatch.setattr(ui.webbrowser, "open", opened.append)
    if window:
        monkeypatch.setenv("DISPLAY", ":0")
    address = "https://me:secret@ml.example.org:8080"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    show_ui("5000")
    output = capsys.readouterr().out
    assert "https://ml.example.org:8080" in output
    assert "secret" not in output
    assert opened == ["https://ml.example.org:8080"] * window  # no password: others see arguments
