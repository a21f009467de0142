import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from techloop.artifacts import read_json, write_json
from techloop.audio.frames import frame_values
from techloop.data.datasets import LatentDataset, LoopDataset
from techloop.metric import flat_metrics, read_metrics
from techloop.models.audio_vae import AudioVAE
from techloop.models.latent_discriminator import LatentDiscriminator
from techloop.models.latent_vae import LatentVAE
from techloop.params import Training
from techloop.training.audio_vae import audio_vae_loss, train_audio_vae
from techloop.training.augmentation import (
    change_speed,
    random_crops,
    random_rotation,
)
from techloop.training.checkpoint import checkpoint_of
from techloop.training.distributed import launch_fabric
from techloop.training.latent_summary import latent_summary, read_dimensions
from techloop.training.loop import fit
from techloop.training.losses import penalty_share
from techloop.training.optimizer import (
    MAX_GRADIENT_NORM,
    ParameterGroup,
    clip_gradients,
    learning_rate_share,
    make_optimizer,
)
from techloop.training.sampler import shuffled_rows
from techloop.training.task import Task
from tests.helpers.params import (
    GRID,
    ROOT,
    small_params,
    train_small_audio_vae,
    train_small_latent_vae,
)

TRAINING = Training(
    loops=64, batch_size=4, learning_rate=0.01, validate_every_loops=16, checkpoint_every_loops=16
)
IDS = [f"loop {i}" for i in range(20)]


class PowerCut(Exception):
    pass


class LineTask(Task[torch.Tensor]):
    """Fit y = w x to noisy targets; all randomness comes from the step's generator."""

    def __init__(self, loop_ids=IDS, identity=None, fail_at=None, fails=False):
        torch.manual_seed(0)
        self.module = nn.Linear(3, 1)
        self.loop_ids = loop_ids
        self.given_identity = identity or {"a": 1}
        self.fail_at, self.fails = fail_at, fails

    @property
    def identity(self):
        return self.given_identity

    def batch(self, rows):
        return torch.tensor(rows)[:, None] / 20

    def loss(self, module, batch, generator, seen):
        if seen == self.fail_at or self.fails:
            raise PowerCut
        x = batch + torch.randn(len(batch), 3, generator=generator)
        return {"loss": (module(x) - x.sum(1, keepdim=True)).square().mean()}

    def validate(self):
        return {"weight": float(self.module.weight.sum())}


class DamagedTask(LineTask):
    """Row 7 is damaged, and seen in the fourth epoch only."""

    def loss(self, module, batch, generator, seen):
        damaged = (batch * 20 == 7) & (seen >= 60)
        x = torch.where(damaged, math.nan, batch).expand(-1, 3)
        return {"loss": module(x).square().mean()}


def fit_line(
    checkpoints: Path, task: LineTask | None = None, training: Training = TRAINING, seed: int = 1
) -> tuple[torch.Tensor, list]:
    """The weight after a training, and its history."""
    task = task or LineTask()
    history = fit(
        task,
        launch_fabric(),
        training=training,
        seed=seed,
        log=lambda metrics, seen: None,
        checkpoints=checkpoints,
    )
    return task.module.weight, history


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, history = fit_line(tmp_path / "a")
    with pytest.raises(PowerCut):
        fit_line(tmp_path / "b", LineTask(fail_at=44))
    assert len(list((tmp_path / "b").glob("*/last.pt"))) == 1
    resumed, history_resumed = fit_line(tmp_path / "b")
    assert torch.equal(whole, resumed)
    assert history == history_resumed


def test_a_finished_training_is_not_lost_if_a_later_part_of_the_stage_fails(
    tmp_path: Path,
) -> None:
    whole, history = fit_line(tmp_path)
    assert [p.name for p in tmp_path.glob("*/*")] == ["finished.pt"]
    again, history_again = fit_line(tmp_path, LineTask(fails=True))
    assert torch.equal(whole, again)
    assert history == history_again


def test_another_identity_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(PowerCut):
        fit_line(tmp_path, LineTask(fail_at=44))
    with pytest.raises(PowerCut):
        fit_line(tmp_path, LineTask(fail_at=0, identity={"a": 2}))
    fit_line(tmp_path, LineTask(fail_at=0))  # resumed: step 0 does not come again


def test_a_training_learns_and_returns_its_history(tmp_path: Path) -> None:
    _, history = fit_line(tmp_path, training=TRAINING.model_copy(update={"loops": 4_000}))
    train = [row["loss"] for row in history if row["split"] == "train"]
    assert train[-1] < 0.05 * train[0]
    assert [r["loops_seen"] for r in history if r["split"] == "validation"] == list(
        range(16, 4_001, 16)
    )


class TwoGroupsTask(LineTask):
    """The bias has a learning rate of its own."""

    def __init__(self, bias_rate):
        super().__init__()
        self.bias_rate, self.rows = bias_rate, []

    def groups(self, learning_rate):
        weight, bias = self.module.weight, self.module.bias
        return [
            ParameterGroup([weight], learning_rate, name="weight"),
            ParameterGroup([bias], self.bias_rate, (0.5, 0.9)),
        ]

    def loss(self, module, batch, generator, seen):
        terms = super().loss(module, batch, generator, seen)
        return terms | ({"late": torch.tensor(3.0)} if seen >= 36 else {})

    def inspect(self, history):
        self.rows.append(len(history))


def test_groups_have_rates_and_norms_of_their_own(tmp_path: Path) -> None:
    tasks = [TwoGroupsTask(rate) for rate in (1e-9, 0.01)]
    start = tasks[0].module.bias.clone()
    histories = [fit_line(tmp_path / str(i), task)[1] for i, task in enumerate(tasks)]
    moved = [float((task.module.bias - start).abs().detach()) for task in tasks]
    assert moved[0] < 1e-6 < 1e-2 < moved[1]
    train = [row for row in histories[0] if row["split"] == "train"]
    assert all(row["gradient_norm_weight"] > 0 for row in train)
    assert not any("gradient_norm_" in row for row in train), "a group without a name"
    # A number that begins late is the mean over the steps that have it.
    assert ["late" in row for row in train] == [row["loops_seen"] > 36 for row in train]
    assert {row["late"] for row in train if "late" in row} == {3.0}
    assert len(tasks[0].rows) == len(train)


def test_each_group_is_clipped_by_itself() -> None:
    large, small = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    fabric = launch_fabric()
    optimizer = make_optimizer(
        [ParameterGroup([large], 0.1, name="large"), ParameterGroup([small], 0.1, name="small")]
    )
    optimizer = fabric.setup_optimizers(optimizer)
    large.grad, small.grad = torch.full((4,), 50.0), torch.full((4,), 0.1)
    norms = clip_gradients(fabric, optimizer)
    assert {n: float(v) for n, v in norms.items()} == pytest.approx(
        {"gradient_norm_large": 100, "gradient_norm_small": 0.2}
    )
    assert float(large.grad.norm()) == pytest.approx(MAX_GRADIENT_NORM, rel=1e-4)
    # A group that rests is not changed, nor does its optimiser count a step.
    assert clip_gradients(fabric, optimizer, ["large"]).keys() == {"gradient_norm_small"}
    optimizer.step()
    assert not large.any()
    assert small.any()
    assert large not in optimizer.optimizer.state
    assert float(small.grad.norm()) == pytest.approx(0.2)


def test_the_seed_matters(tmp_path: Path) -> None:
    one, two = (fit_line(tmp_path / str(seed), seed=seed)[0] for seed in (1, 2))
    assert not torch.equal(one, two)


def test_a_loss_that_is_not_finite_stops_and_names_step_loops_and_checkpoint(
    tmp_path: Path,
) -> None:
    longer = TRAINING.model_copy(update={"loops": 80})
    with pytest.raises(FloatingPointError, match="loss is nan") as stopped:
        fit_line(tmp_path, DamagedTask(), training=longer, seed=0)
    step = next(i for i in range(15, 20) if 7 in shuffled_rows(i, 20, 4, seed=0))
    message = str(stopped.value)
    assert f"at step {step} ({4 * step} loops seen)" in message
    assert ", ".join(IDS[row] for row in shuffled_rows(step, 20, 4, seed=0)) in message
    (last,) = tmp_path.glob("*/last.pt")
    assert f"resumes from the last checkpoint, {last}" in message
    assert "A lower learning rate starts the training anew" in message
    saved = torch.load(last, weights_only=True)
    assert all(weight.isfinite().all() for weight in saved["model"].values())


def test_fewer_loops_than_a_batch(tmp_path: Path) -> None:
    _, history = fit_line(tmp_path, LineTask(loop_ids=IDS[:3]))
    assert history[-1]["loops_seen"] >= 64


# File, text and what replaces it; without a text, a line at the end of the file.
EDITS = {
    "a help text": ("techloop/cli.py", "", 'ANOTHER_HELP = "text"'),
    "a docstring": ("techloop/training/loop.py", '"""The one training loop', '"""The only loop'),
    "a comment": ("techloop/training/loop.py", "# Resume.", "# Resume, if there is a checkpoint."),
    "a plotting colour": ("techloop/reporting/plots.py", "", 'ANOTHER_COLOUR = "#123456"'),
    "a constant of the loss": (
        "techloop/training/decoder_losses.py",
        "TONALITY_WEIGHT = 2.5, 8.0, 12.0",
        "TONALITY_WEIGHT = 2.5, 8.0, 13.0",
    ),
    "a constant of the network": (
        "techloop/models/audio_vae.py",
        "SIGMA_FLOOR = 0.05",
        "SIGMA_FLOOR = 0.06",
    ),
}
FINGERPRINTS = """
from techloop.closure import code_fingerprint

for module in ("audio_vae", "latent_vae", "latents"):
    print(code_fingerprint(f"techloop.training.{module}"))
"""


@pytest.fixture(scope="module")
def code_after(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Fingerprints of the code of both tasks, and of shards of latents, after each of `EDITS`."""
    top = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "techloop", top / "techloop")

    def fingerprints() -> list[str]:
        command = [sys.executable, "-B", "-c", FINGERPRINTS]
        ran = subprocess.run(command, cwd=top, check=True, capture_output=True, text=True)
        return ran.stdout.split()

    after = {"nothing": fingerprints()}
    for name, (file, old, new) in EDITS.items():
        path, text = top / file, (top / file).read_text()
        assert old in text, (file, old)
        path.write_text(text.replace(old, new) if old else f"{text}{new}\n")
        after[name] = fingerprints()
        path.write_text(text)
    return after


@pytest.mark.parametrize("edit", ["a help text", "a docstring", "a comment", "a plotting colour"])
def test_an_edit_that_changes_no_result_moves_no_checkpoint(
    code_after: dict[str, list[str]], edit: str
) -> None:
    assert code_after[edit] == code_after["nothing"]


def test_an_edited_constant_moves_the_checkpoints_of_what_uses_it(
    code_after: dict[str, list[str]],
) -> None:
    audio_vae, latent_vae, latents = code_after["nothing"]
    loss = code_after["a constant of the loss"]
    assert loss[0] != audio_vae
    assert loss[1:] == [latent_vae, latents]
    network = code_after["a constant of the network"]
    assert not set(network) & {audio_vae, latent_vae, latents}


def test_the_checkpoint_folder_follows_identity_and_code_of_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "techloop.training.checkpoint.code_fingerprint", lambda name: asked.append(name) or name
    )
    fabric = launch_fabric()
    folder = checkpoint_of(LineTask(), fabric, tmp_path).folder
    assert asked == [__name__]
    assert checkpoint_of(LineTask(), fabric, tmp_path).folder == folder
    assert checkpoint_of(LineTask(identity={"a": 2}), fabric, tmp_path).folder != folder
    monkeypatch.setattr("techloop.training.checkpoint.code_fingerprint", lambda name: "edited")
    assert checkpoint_of(LineTask(), fabric, tmp_path).folder != folder


def test_an_epoch_sees_each_loop_once() -> None:
    epoch = [row for step in range(5) for row in shuffled_rows(step, 20, 4, seed=0)]
    again = [row for step in range(5, 10) for row in shuffled_rows(step, 20, 4, seed=0)]
    assert sorted(epoch) == sorted(again) == list(range(20))
    assert epoch != again
    assert shuffled_rows(0, 20, 4, seed=0) == epoch[:4]


def test_schedules() -> None:
    rates = [learning_rate_share(i / 1_000) for i in range(1_000)]
    peak = int(np.argmax(rates))
    assert 10 < peak < 30
    assert rates[0] < 0.1
    assert rates[-1] < 1e-5
    assert max(rates) > 0.99
    assert [penalty_share(s, 100) for s in (0, 50, 100, 200)] == [0, 0.5, 1, 1]
    assert penalty_share(0, 0) == 1


def test_another_speed_is_another_pitch_and_nothing_else() -> None:
    turns, samples = 100, GRID.samples
    x = torch.cos(2 * math.pi * turns * torch.arange(samples, dtype=torch.double) / samples)
    faster = change_speed(x[None].float(), 25_600)
    t = torch.arange(25_600, dtype=torch.double) / 25_600
    torch.testing.assert_close(
        faster[0], torch.cos(2 * math.pi * turns * t).float(), atol=1e-5, rtol=0
    )
    back = change_speed(change_speed(x[None].float(), 36_864), samples)
    torch.testing.assert_close(back[0], x.float(), atol=1e-5, rtol=0)


def test_a_step_sees_parts_of_loops_at_some_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 1_920  # 1 kHz: bin 128 of the long window
    x = torch.cos(2 * math.pi * turns * torch.arange(GRID.samples) / GRID.samples)[None]
    bins = set()
    for seed in range(40):
        crops = random_crops(x, GRID, 60, torch.Generator().manual_seed(seed))
        assert crops.shape == (1, 60 * GRID.hop)
        if crops.any():  # not silenced
            bins.add(int(frame_values(crops, GRID.hop)[0, :1025].mean(-1).argmax()))
    again = random_crops(x, GRID, 60, torch.Generator().manual_seed(39))
    assert torch.equal(again, crops)
    assert len(bins) > 5
    assert 128 / 1.25 - 1 <= min(bins) < 120
    assert 136 < max(bins) <= 128 * 1.25 + 1
    monkeypatch.setattr("techloop.training.augmentation.SILENT_SHARE", 1.0)
    assert not random_crops(x, GRID, 60, torch.Generator().manual_seed(0)).any()


def test_a_crop_closes_without_a_click(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("techloop.training.augmentation.SILENT_SHARE", 0.0)
    t = torch.arange(GRID.samples) / GRID.samples
    x = torch.sin(2 * math.pi * 97 * t)[None] + torch.linspace(0, 1, GRID.samples)
    for seed in range(10):
        crop = random_crops(x, GRID, 48, torch.Generator().manual_seed(seed))[0]
        steps = (crop - crop.roll(1)).abs()
        # Where the loop itself wraps, this ramp jumps by 1; the crop's own end must not.
        assert steps[0] < 3 * steps.median() + 1e-3


def test_a_crop_is_a_part_of_its_loop() -> None:
    """A loop whose samples are all different says where each part of it is from."""
    x = torch.linspace(-1, 1, GRID.samples)[None]
    firsts = set()
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        crop = random_crops(x, GRID, 48, generator)[0]
        inside = crop[GRID.hop :]
        if len(crop) == 48 * GRID.hop and torch.isin(inside, x).all():  # at its own speed
            first = int((x[0] == inside[0]).nonzero())
            expected = x[0].roll(-first)[: len(inside)]
            assert torch.equal(inside, expected)
            firsts.add(first % GRID.hop)
    assert firsts == {0}


def test_a_reader_gives_the_rows_it_is_asked_for(loops_folder: Path) -> None:
    loops = LoopDataset(loops_folder, "train")
    read = loops.reader(torch.device("cpu"))([7, 0, 7])
    assert torch.equal(read, torch.from_numpy(loops.audio([7, 0, 7])))


@pytest.mark.parametrize("regulariser", ["kl", "wae", "wae-gan"])
def test_nothing_in_a_step_waits_for_the_device(
    loops_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, regulariser: str
) -> None:
    """The number of values read from the device does not grow with the steps between two logs."""
    asked = []

    def watch(name: str) -> None:
        real = getattr(torch.Tensor, name)

        def watched(self: torch.Tensor, *args: object) -> object:
            asked.append(name)
            return real(self, *args)

        monkeypatch.setattr(torch.Tensor, name, watched)

    for name in ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__"):
        watch(name)
    counts, logs = [], []
    for loops in (40, 120):
        asked.clear()
        logs.clear()
        every = ("loops", "validate_every_loops", "checkpoint_every_loops")
        cadence = dict.fromkeys(every, loops)
        params = small_params().train_audio_vae
        params = params.model_copy(update={"training": TRAINING.model_copy(update=cadence)})
        train_audio_vae(
            loops_folder,
            tmp_path / str(loops),
            launch_fabric(),
            params=params,
            cell=params.cell("kl").model_copy(update={"regulariser": regulariser}),
            seed=0,
            log=lambda metrics, seen: logs.append(seen),
            checkpoints=tmp_path,
        )
        # Permutations of an epoch, drawn on the CPU, are lists in the end.
        counts.append(len([name for name in asked if name != "tolist"]))
        assert len(logs) == 6
    assert counts[0] == counts[1] > 0


def test_latent_metrics_of_known_posteriors() -> None:
    torch.manual_seed(0)
    mu, sigma = torch.randn(20, 4, 50), torch.full((20, 4, 50), 0.1)
    summary = latent_summary(mu * math.sqrt(0.99), sigma)
    metrics = flat_metrics(summary.metrics(125.0))
    expected = 4 * -math.log(0.1)  # E[mu^2] + sigma^2 = 1
    assert metrics["kl_nats_per_frame"] == pytest.approx(expected, rel=0.02)
    assert metrics["bits_per_second"] == pytest.approx(expected / math.log(2) * 125, rel=0.02)
    assert metrics["active_units"] == 4
    assert abs(metrics["mmd"]) < 0.02
    assert summary.kl_per_dimension == pytest.approx([expected / 4] * 4, rel=0.05)
    with pytest.warns(UserWarning, match="only 0 of 4 latent dimensions"):
        collapsed = latent_summary(0 * mu, sigma / 0.1).metrics(125.0)
    assert collapsed["kl_nats_per_frame"].value == 0


def test_an_audio_vae_folder(audio_vae_folder: Path) -> None:
    assert sorted(p.name for p in audio_vae_folder.iterdir()) == [
        "config.json", "dimensions.json", "history.csv", "history.json", "metrics.json",
        "model.safetensors",
    ]  # fmt: skip
    history = pd.read_csv(audio_vae_folder / "history.csv")
    assert history["loops_seen"].max() == 96
    validation = history[history["split"] == "validation"]
    assert validation["log_distance"].iloc[-1] < validation["log_distance"].iloc[0]
    metrics = read_metrics(audio_vae_folder / "metrics.json")
    assert metrics["log_distance"].value == pytest.approx(validation["log_distance"].iloc[-1])
    assert metrics["log_distance"].metric.better == "lower"
    assert metrics["active_units"].metric.better == "higher"
    assert metrics["kl_nats_per_frame"].metric.better == ""
    assert metrics["kl_nats_per_frame"].metric.unit == "nats/frame"
    assert not any("dim" in name for name in metrics)
    assert AudioVAE.load(audio_vae_folder).latent_dim == 4
    assert not list((audio_vae_folder.parent / "checkpoints").glob("*/last.pt"))


def test_the_rate_of_each_dimension_is_one_vector(audio_vae_folder: Path) -> None:
    content = json.loads((audio_vae_folder / "dimensions.json").read_text())
    assert content["metric"] == {
        "name": "kl_nats_per_dimension",
        "label": "KL to the prior",
        "unit": "nats/frame",
    }
    validation = pd.read_csv(audio_vae_folder / "history.csv").query("split == 'validation'")
    last = [validation[f"kl_nats_dim_{i:02d}"].iloc[-1] for i in range(4)]
    assert content["values"] == pytest.approx(last)
    metrics = read_metrics(audio_vae_folder / "metrics.json")
    assert sum(content["values"]) == pytest.approx(metrics["kl_nats_per_frame"].value)
    assert list(read_dimensions(audio_vae_folder)) == [f"kl_nats_dim_{i:02d}" for i in range(4)]


@pytest.mark.parametrize("folder", ["audio_vae_folder", "latent_vae_folder"])
def test_every_metric_of_a_history_is_explained(
    request: pytest.FixtureRequest, folder: str
) -> None:
    path: Path = request.getfixturevalue(folder)
    columns = list(pd.read_csv(path / "history.csv"))
    meaning = json.loads((path / "history.json").read_text())
    others = {"loops_seen", "split", *(f"kl_nats_dim_{i:02d}" for i in range(4))}
    assert list(meaning) == [name for name in columns if name not in others]
    metrics = read_metrics(path / "metrics.json")
    assert set(metrics) - {"parameters", "loops_seen"} <= set(meaning)
    for name in set(metrics) & set(meaning):
        metric = metrics[name].metric
        expected = {"label": metric.label, "unit": metric.unit, "better": metric.better}
        assert meaning[name] == expected


def test_finished_trainings_stay_for_a_day(loops_folder: Path, tmp_path: Path) -> None:
    first, second = (
        small_params().train_audio_vae.cell("kl").model_copy(update={"weight": weight})
        for weight in (0.01, 0.02)
    )
    train_small_audio_vae(loops_folder, tmp_path / "vae", first)
    [finished] = tmp_path.glob("checkpoints/*/finished.pt")
    os.utime(finished, (0, time.time() - 86_500))
    logs = []
    train_small_audio_vae(loops_folder, tmp_path / "vae", first, log=lambda *log: logs.append(log))
    assert not logs, "its own finished training is reused however old it is"
    train_small_audio_vae(loops_folder, tmp_path / "vae", second)
    assert not finished.exists()
    assert len(list(tmp_path.glob("checkpoints/*"))) == 1


def test_training_is_reproducible_and_survives_an_interruption(
    loops_folder: Path, audio_vae_folder: Path, tmp_path: Path
) -> None:
    def cut(metrics, seen):
        if seen >= 64:
            raise PowerCut

    with pytest.raises(PowerCut):
        train_small_audio_vae(loops_folder, tmp_path / "vae", log=cut)
    assert not (tmp_path / "vae").exists()
    train_small_audio_vae(loops_folder, tmp_path / "vae")
    for file in ("model.safetensors", "history.csv", "metrics.json", "config.json", "history.json"):
        assert (tmp_path / "vae" / file).read_bytes() == (audio_vae_folder / file).read_bytes()


@pytest.mark.parametrize("regulariser", ["wae", "wae-gan"])
def test_wae_has_another_penalty(
    loops_folder: Path, audio_vae_folder: Path, tmp_path: Path, regulariser: str
) -> None:
    cell = (
        small_params()
        .train_audio_vae.cell("wae")
        .model_copy(update={"regulariser": regulariser, "warmup_loops": 0})
    )
    train_small_audio_vae(loops_folder, tmp_path / "wae", cell)
    penalty = [
        pd.read_csv(folder / "history.csv")["penalty"].iloc[0]
        for folder in (audio_vae_folder, tmp_path / "wae")
    ]
    assert penalty[0] > 2 * penalty[1] > 0  # nats of 4 dimensions against a discrepancy
    assert AudioVAE.load(tmp_path / "wae").latent_dim == 4  # the discriminator is not saved


def test_the_loss_trains_discriminator_and_encoder_against_each_other() -> None:
    """The discriminator learns to tell frames from the prior, the encoder to prevent it."""
    torch.manual_seed(0)
    both = LatentDiscriminator(AudioVAE(GRID, latent_dim=4, channels=16, blocks=1))
    x = 0.1 * torch.randn(2, 60 * GRID.hop)
    *_, loss = both(x, torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(math.log(2), abs=0.1)
    loss.backward()
    for part, sign in ((both.discriminator, -1), (both.vae.encoder, 1)):
        parameters = [p for p in part.parameters() if p.grad is not None]
        assert parameters
        with torch.no_grad():
            before = [p.clone() for p in parameters]
            size = sum(p.grad.square().sum() for p in parameters).sqrt()
            for p in parameters:
                p -= 0.01 * p.grad / size
            *_, after = both(x, torch.Generator().manual_seed(0))
            assert (after - loss).item() * sign > 0
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)


ODD_LOOPS = {
    "silence": torch.zeros(4, GRID.samples),
    "clipped": torch.sin(torch.arange(4 * GRID.samples) / 20).mul(5).clamp(-1, 1).view(4, -1),
    "constant": torch.full((4, GRID.samples), 0.9),
    "impulse": torch.eye(4, GRID.samples).roll(5_000, 1),
    "noise": torch.rand(4, GRID.samples, generator=torch.Generator().manual_seed(0)) * 2 - 1,
}


@pytest.mark.parametrize("name", ODD_LOOPS)
def test_odd_loops_give_finite_numbers_and_bounded_gradients(
    audio_vae_folder: Path, name: str
) -> None:
    vae, x = AudioVAE.load(audio_vae_folder), ODD_LOOPS[name]
    y = vae.reconstruct(x, torch.Generator().manual_seed(0))
    assert y.isfinite().all()
    assert y.abs().max() <= 1
    crops = random_crops(x, GRID, 60, torch.Generator().manual_seed(1))
    cell = small_params().train_audio_vae.cell("kl")
    loss = audio_vae_loss(vae, crops, cell, torch.Generator().manual_seed(1), 1_000)["loss"]
    assert loss.isfinite()
    loss.backward()
    before = nn.utils.clip_grad_norm_(vae.parameters(), MAX_GRADIENT_NORM)
    assert before.isfinite()
    after = torch.stack([p.grad.norm() for p in vae.parameters() if p.grad is not None]).norm()
    assert after <= 1.001 * MAX_GRADIENT_NORM


def test_silence_stays_silent(loops_folder: Path, tmp_path: Path) -> None:
    params = small_params().train_audio_vae
    training = params.training.model_copy(update={"loops": 800, "validate_every_loops": 800})
    size = params.model.model_copy(update={"latent_dim": 16})
    params = params.model_copy(update={"training": training, "model": size})
    train_small_audio_vae(loops_folder, tmp_path / "vae", params.cell("kl"), params=params)
    vae = AudioVAE.load(tmp_path / "vae")
    silence = torch.zeros(1, GRID.samples)
    assert vae.reconstruct(silence, torch.Generator().manual_seed(0)).abs().max() < 1e-3  # -60 dB


@pytest.mark.parametrize("cell", ["kl-mean-16", "kl-sample-4", "kl-posterior-1"])
def test_latent_vaes_of_each_objective(latents_folder: Path, tmp_path: Path, cell: str) -> None:
    metrics = train_small_latent_vae(latents_folder, tmp_path / cell, cell)
    history = pd.read_csv(tmp_path / cell / "history.csv")
    bound = history.loc[history["split"] == "validation", "bound_nats_per_frame"]
    assert bound.iloc[-1] < bound.iloc[0]
    vae = LatentVAE.load(tmp_path / cell)
    assert vae.length == int(cell.split("-")[-1])
    assert metrics["rate_nats_per_loop"].value > 0
    assert metrics["decoded_log_distance"].metric.better == "lower"
    assert metrics["bound_nats_per_frame"].metric.better == ""
    assert (tmp_path / cell / "audio_vae" / "model.safetensors").exists()
    train_small_latent_vae(latents_folder, tmp_path / "again", cell)
    same = [(tmp_path / n / "model.safetensors").read_bytes() for n in (cell, "again")]
    assert same[0] == same[1]


def test_loops_are_seen_from_each_of_their_beats() -> None:
    mu = torch.arange(240.0).expand(64, 2, 240)
    a, b = random_rotation(mu, mu + 0.5, GRID, torch.Generator().manual_seed(0))
    assert torch.equal(b, a + 0.5)
    assert set(a[:, 0, 0].tolist()) == {0, 60, 120, 180}
    assert torch.equal((a.diff(dim=2) % 240), torch.ones(64, 2, 239))


def test_the_prior_of_a_trained_folder_is_of_its_training_loops(
    latents_folder: Path, latent_vae_folder: Path
) -> None:
    vae, latents = LatentVAE.load(latent_vae_folder), LatentDataset(latents_folder, "train")
    with torch.no_grad():
        mean, std = vae.encode(latents.mu, latents.sigma)
        torch.testing.assert_close(vae.prior_mean, mean.mean(0), atol=1e-4, rtol=1e-3)
        variance = mean.var(0, correction=0) + std.square().mean(0)
        covariance = vae.prior_factor @ vae.prior_factor.T
        diagonal = covariance.diagonal().view_as(variance)
        torch.testing.assert_close(diagonal, variance, atol=1e-4, rtol=1e-3)


def test_latents_beside_another_model(latents_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(latents_folder, tmp_path / "latents"))
    config = read_json(folder / "audio_vae" / "config.json")
    write_json(folder / "audio_vae" / "config.json", {**config, "seed": 99})
    with pytest.raises(ValueError, match="files of two runs are mixed"):
        train_small_latent_vae(folder, tmp_path / "vae", "kl-posterior-4")
    assert not (tmp_path / "vae").exists()
