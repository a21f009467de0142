"""Two processes train as one: the same losses, one folder, a clean end when one dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from techloop.models.sampling import draw_shard
from techloop.training.distributed import all_gather, fabric_from_environment
from tests.helpers.params import ROOT

TRAINING = """
import sys
from pathlib import Path
from tests.helpers.params import small_params, train_small_audio_vae, train_small_latent_vae

kind, data, folder, cell, loops = sys.argv[1:]
section = getattr(small_params(), f"train_{kind}_vae")
training = section.training.model_copy(update={"loops": int(loops)})
section = section.model_copy(update={"training": training})
train = {"audio": train_small_audio_vae, "latent": train_small_latent_vae}[kind]
if kind == "audio":
    train(Path(data), Path(folder), section.cell(cell), params=section)
else:
    train(Path(data), Path(folder), cell)
"""

DIVERGING = """
from pathlib import Path
from stages import run_stage
from tests.helpers.params import small_params, train_small_audio_vae

def main(loops, folder):
    section = small_params().train_audio_vae
    training = section.training.model_copy(update={"learning_rate": 1e9})
    section = section.model_copy(update={"training": training})
    train_small_audio_vae(Path(loops), Path(folder), params=section)

run_stage(main)
"""

GRADIENTS = """
import sys
import torch
from techloop.models.audio_vae import AudioVAE
from techloop.models.discriminators import LatentDiscriminator
from techloop.training.distributed import fabric_from_environment
from techloop.models.sampling import processes
from techloop.training.audio_vae import objective, random_spectra
from tests.helpers.params import GRID, small_params

fabric = fabric_from_environment()
rank, count = processes()
every = {}
for regulariser in ("kl", "wae", "wae-gan"):
    torch.manual_seed(0)
    model = AudioVAE(GRID, latent_dim=4, channels=32, blocks=1)
    with torch.no_grad():
        for p in model.parameters():  # many begin at zero, and with them the gradients of others
            p += 0.02 * torch.randn(p.shape)
    trained = LatentDiscriminator(model) if regulariser == "wae-gan" else model
    wrapped = fabric.setup_module(trained)
    x, draw = 0.1 * torch.randn(4, GRID.samples), torch.Generator().manual_seed(5)
    cell = small_params().train_audio_vae.cell("kl")
    cell = cell.model_copy(update={"regulariser": regulariser, "weight": 1.0, "warmup_loops": 0})
    spectrum = random_spectra(x[rank::count], GRID, 60, draw)
    found = objective(wrapped, spectrum, cell, draw, 0)
    fabric.backward(found["loss"])
    kept = {name: p.grad for name, p in trained.named_parameters() if p.grad is not None}
    every[regulariser] = kept | {name: value.detach() for name, value in found.items()}
if rank == 0:
    torch.save(every, sys.argv[1])
"""


def begin(
    tmp_path: Path, text: str, processes: int, *arguments: object, torchrun: bool = False
) -> subprocess.Popen:
    script = tmp_path / "train.py"
    script.write_text(text)
    runner = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"] if torchrun else []
    told = {
        "TECHLOOP_DEVICES": "" if torchrun else str(processes),
        "TECHLOOP_PRECISION": "32-true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, *runner, str(script), *map(str, arguments)],
        env=os.environ | told,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_gradients_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    found = []
    for count in (1, 2):
        file = tmp_path / f"{count}.pt"
        process = begin(tmp_path, GRADIENTS, count, file)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        found.append(torch.load(file, weights_only=True))
    one, two = found
    assert list(one) == ["kl", "wae", "wae-gan"]
    for regulariser, values in one.items():
        assert set(values) == set(two[regulariser])
        for name, expected in values.items():
            most = float(expected.abs().max())
            assert most > 0, name
            torch.testing.assert_close(
                two[regulariser][name], expected, rtol=1e-3, atol=1e-4 * most, msg=name
            )


@pytest.mark.ci
@pytest.mark.parametrize(
    ("kind", "cell"),
    [("audio", "kl"), ("latent", "kl-sample-4")],
)
def test_two_processes_are_one(
    loops_folder: Path, latents_folder: Path, tmp_path: Path, kind: str, cell: str
) -> None:
    data = {"audio": loops_folder, "latent": latents_folder}[kind]
    found = []
    for processes in (1, 2):
        folder = tmp_path / f"{processes}" / "vae"
        told = (kind, data, folder, cell, 96)
        process = begin(tmp_path, TRAINING, processes, *told, torchrun=kind == "latent")
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
        found.append(folder)
        assert not list((folder.parent / "checkpoints").glob("*/last.pt"))
    one, two = (pd.read_csv(folder / "history.csv") for folder in found)
    assert list(one) == list(two)
    # The first steps agree to the digit; then Adam makes much of the rounding of small gradients.
    pd.testing.assert_frame_equal(one[:2], two[:2], rtol=1e-5)
    pd.testing.assert_frame_equal(one, two, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("killed", ["first", "second"])
def test_the_end_of_one_process_is_that_of_all(
    loops_folder: Path, tmp_path: Path, killed: str
) -> None:
    folder = tmp_path / "vae"
    process = begin(tmp_path, TRAINING, 2, "audio", loops_folder, folder, "kl", 100_000)
    checkpoints = tmp_path / "checkpoints"
    end = time.monotonic() + 120
    while not list(checkpoints.glob("*/last.pt")) and time.monotonic() < end:
        time.sleep(0.2)
    (last,) = checkpoints.glob("*/last.pt")
    (other,) = [
        p for p in psutil.Process(process.pid).children() if "train.py" in " ".join(p.cmdline())
    ]
    (process if killed == "first" else other).send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=60)  # until neither can say anything more
    assert process.returncode != 0, said
    assert not other.is_running() or other.status() == psutil.STATUS_ZOMBIE
    assert not folder.exists()
    assert torch.load(last, weights_only=True)["step"] > 0


@pytest.mark.ci
def test_what_stops_all_is_told_once_and_by_the_first(loops_folder: Path, tmp_path: Path) -> None:
    process = begin(tmp_path, DIVERGING, 2, loops_folder, tmp_path / "vae")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert said.count("train: the loss is") + said.count("train: a weight is no longer") == 1
    assert "Traceback" not in said


def test_alone_everything_is_ones_own() -> None:
    draw = torch.Generator().manual_seed(0)
    share = draw_shard(torch.randint, 10, size=(3, 2), draw=draw)
    draw.manual_seed(0)
    assert torch.equal(share, torch.randint(10, (3, 2), generator=draw))
    assert all_gather(share) is share


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_number_of_devices_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TECHLOOP_DEVICES", value)
    with pytest.raises(ValueError, match=f"TECHLOOP_DEVICES={value} is no number of 1 or more"):
        fabric_from_environment()


@pytest.mark.parametrize(
    "started",
    [
        {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2"},
    ],
)
def test_another_number_than_was_started(
    monkeypatch: pytest.MonkeyPatch, started: dict[str, str]
) -> None:
    for name, value in ({"TECHLOOP_DEVICES": "4"} | started).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ValueError, match="TECHLOOP_DEVICES=4, but torchrun or Slurm has started 2 "
    ):
        fabric_from_environment()


@pytest.mark.parametrize("name", ["TECHLOOP_STRATEGY", "TECHLOOP_PRECISION"])
def test_what_is_not_supported_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "fsdp")
    with pytest.raises(ValueError, match=f"{name}=fsdp is none of "):
        fabric_from_environment()
