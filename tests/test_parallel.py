"""Two processes train as if they were one: the same losses, one folder, a clean end."""

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
from techloop.rank import RANK_VARIABLES, is_rank_zero
from techloop.training.distributed import all_gather, launch_fabric
from tests.helpers.params import ROOT

TRAINING = """
import sys
from pathlib import Path
from tests.helpers.params import (
    finetune_small_decoder, small_params, train_small_audio_vae, train_small_latent_vae
)

kind, data, folder, cell, loops = sys.argv[1:]
section = small_params().train_audio_vae
training = section.training.model_copy(update={"loops": int(loops)})
section = section.model_copy(update={"training": training})
if kind == "audio":
    train_small_audio_vae(Path(data), Path(folder), section.cell(cell), params=section)
elif kind == "decoder":
    finetune_small_decoder(Path(data), Path(data).parent / "audio_vae" / "kl", Path(folder))
else:
    train_small_latent_vae(Path(data), Path(folder), cell)
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
from techloop.models.latent_discriminator import LatentDiscriminator
from techloop.models.sampling import rank_and_world_size
from techloop.training.audio_vae import audio_vae_loss
from techloop.training.augmentation import random_crops
from techloop.training.decoder import Game, decoder_loss
from techloop.training.distributed import launch_fabric
from tests.helpers.params import GRID, small_params

fabric = launch_fabric()
rank, count = rank_and_world_size()
every = {}
for regulariser in ("kl", "wae", "wae-gan"):
    torch.manual_seed(0)
    model = AudioVAE(GRID, latent_dim=4, channels=32, blocks=1)
    with torch.no_grad():
        for p in model.parameters():  # many begin at zero, and with them the gradients of others
            p += 0.02 * torch.randn(p.shape)
    trained = LatentDiscriminator(model) if regulariser == "wae-gan" else model
    wrapped = fabric.setup_module(trained)
    x, generator = 0.1 * torch.randn(4, GRID.samples), torch.Generator().manual_seed(5)
    cell = small_params().train_audio_vae.cell("kl")
    cell = cell.model_copy(update={"regulariser": regulariser, "weight": 1.0, "warmup_loops": 0})
    crops = random_crops(x[rank::count], GRID, 60, generator)
    terms = audio_vae_loss(wrapped, crops, cell, generator, 0)
    fabric.backward(terms["loss"])
    gradients = {name: p.grad for name, p in trained.named_parameters() if p.grad is not None}
    every[regulariser] = gradients | {name: value.detach() for name, value in terms.items()}
for name, plays in (("decoder", True), ("decoder alone", False)):
    torch.manual_seed(0)
    cell = small_params().finetune_decoder.cell("kl")
    # The hinge's gradients of both halves nearly cancel out while scores are near zero.
    cell = cell.model_copy(update={"objective": "least-squares"})
    trained = Game(AudioVAE(GRID, latent_dim=4, channels=32, blocks=1), cell, seed=0)
    with torch.no_grad():
        for p in trained.vae.parameters():
            p += 0.02 * torch.randn(p.shape)
    wrapped = fabric.setup_module(trained)
    # Six loops: half of them are not a whole number per process.
    x, generator = 0.1 * torch.randn(6, GRID.samples), torch.Generator().manual_seed(5)
    crops = random_crops(x[rank::count], GRID, 24, generator)
    terms = decoder_loss(wrapped, crops, cell, generator, plays)
    fabric.backward(terms["loss"])
    gradients = {
        name: p.grad for name, p in trained.named_parameters()
        if p.grad is not None and (plays or "discriminators" not in name)
    }
    every[name] = gradients | {name: value.detach() for name, value in terms.items()}
if rank == 0:
    torch.save(every, sys.argv[1])
"""


def begin(
    tmp_path: Path, text: str, processes: int, *arguments: object, torchrun: bool = False
) -> subprocess.Popen:
    script = tmp_path / "train.py"
    script.write_text(text)
    runner = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"] if torchrun else []
    variables = {
        "TECHLOOP_DEVICES": "" if torchrun else str(processes),
        "TECHLOOP_PRECISION": "32-true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, *runner, str(script), *map(str, arguments)],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_gradients_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    results = []
    for count in (1, 2):
        file = tmp_path / f"{count}.pt"
        process = begin(tmp_path, GRADIENTS, count, file)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        results.append(torch.load(file, weights_only=True))
    one, two = results
    assert list(one) == ["kl", "wae", "wae-gan", "decoder", "decoder alone"]
    assert any("discriminators" in name for name in one["decoder"])
    for regulariser, values in one.items():
        assert set(values) == set(two[regulariser])
        for name, expected in values.items():
            most = float(expected.abs().max())
            assert most > 0, name
            torch.testing.assert_close(
                two[regulariser][name], expected, rtol=1e-3, atol=1e-4 * most, msg=name
            )


GAME = ("score_", "discriminator_", "adversarial_", "feature_", "gradient_norm_")


@pytest.mark.ci
@pytest.mark.parametrize(
    ("kind", "cell"),
    [("audio", "kl"), ("latent", "kl-sample-4"), ("decoder", "kl")],
)
def test_two_processes_train_like_one(
    loops_folder: Path, latents_folder: Path, tmp_path: Path, kind: str, cell: str
) -> None:
    data = latents_folder if kind == "latent" else loops_folder
    folders = []
    for processes in (1, 2):
        folder = tmp_path / f"{processes}" / "vae"
        arguments = (kind, data, folder, cell, 96)
        process = begin(tmp_path, TRAINING, processes, *arguments, torchrun=kind == "latent")
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        folders.append(folder)
        assert not list((folder.parent / "checkpoints").glob("*/last.pt"))
    one, two = (pd.read_csv(folder / "history.csv") for folder in folders)
    assert list(one) == list(two)
    # The first steps agree to the digit; later Adam amplifies the rounding of small gradients.
    pd.testing.assert_frame_equal(one[:2], two[:2], rtol=1e-5)
    # A game amplifies it more: its numbers agree where it begins, those of the sound to the end.
    game = [name for name in one if name.startswith(GAME)]
    begins = one[game].first_valid_index() or 0
    pd.testing.assert_frame_equal(one[: begins + 1], two[: begins + 1], rtol=1e-3, atol=1e-3)
    rest = one.columns.drop(game)
    pd.testing.assert_frame_equal(one[rest], two[rest], rtol=0.05, atol=0.02)
    assert bool(game) == (kind == "decoder")


@pytest.mark.parametrize("killed", ["first", "second"])
def test_all_processes_end_when_one_is_killed(
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
    output, _ = process.communicate(timeout=60)  # returns when both have closed their output
    assert process.returncode != 0, output
    assert not other.is_running() or other.status() == psutil.STATUS_ZOMBIE
    assert not folder.exists()
    assert torch.load(last, weights_only=True)["step"] > 0


@pytest.mark.ci
def test_an_error_of_all_processes_is_printed_once_by_rank_0(
    loops_folder: Path, tmp_path: Path
) -> None:
    process = begin(tmp_path, DIVERGING, 2, loops_folder, tmp_path / "vae")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert output.count("train: the loss is") + output.count("train: a weight is no longer") == 1
    assert "Traceback" not in output


def test_the_share_of_a_single_process_is_the_whole_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    share = draw_shard(torch.randint, 10, size=(3, 2), generator=generator)
    generator.manual_seed(0)
    assert torch.equal(share, torch.randint(10, (3, 2), generator=generator))
    assert all_gather(share) is share


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_of_devices_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TECHLOOP_DEVICES", value)
    with pytest.raises(ValueError, match=f"TECHLOOP_DEVICES must be a positive .* got '{value}'"):
        launch_fabric()


@pytest.mark.parametrize(
    "started",
    [
        {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2"},
    ],
)
def test_another_number_of_devices_than_was_started_is_refused(
    monkeypatch: pytest.MonkeyPatch, started: dict[str, str]
) -> None:
    for name, value in ({"TECHLOOP_DEVICES": "4"} | started).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ValueError, match="TECHLOOP_DEVICES=4, but torchrun or Slurm has started 2 "
    ):
        launch_fabric()


@pytest.mark.parametrize("name", ["TECHLOOP_STRATEGY", "TECHLOOP_PRECISION"])
def test_an_unknown_strategy_or_precision_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "fsdp")
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'fsdp'"):
        launch_fabric()


def test_a_stray_rank_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match=r"number 0 of 1, but RANK.* says another"):
        launch_fabric()


def test_rank_zero_is_the_one_without_or_with_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert is_rank_zero()
    for name in RANK_VARIABLES:
        monkeypatch.setenv(name, "0")
    assert is_rank_zero()
    for name in RANK_VARIABLES:
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert not is_rank_zero()
