import json
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from techloop.artifacts import read_json, write_json
from techloop.audio.vocoder import values_per_frame
from techloop.data.datasets import LatentDataset, LoopDataset
from techloop.models.audio_vae import AudioVAE
from techloop.models.discriminators import LatentDiscriminator
from techloop.models.latent_vae import LatentVAE
from techloop.params import Training
from techloop.training import audio_vae as training_of_audio_vae
from techloop.training.audio_vae import change_speed, random_spectra, train_audio_vae
from techloop.training.latent_vae import rotated
from techloop.training.latents import latent_metrics
from techloop.training.loop import GRADIENT_NORM, batch_rows, fit, schedule, warm_up
from techloop.training.losses import gaussian_kl, rate, spectrogram_distance
from tests.helpers.params import GRID, small_params, train_small_audio_vae, train_small_latent_vae

TRAINING = Training(
    loops=64, batch_size=4, learning_rate=0.01, validate_every_loops=16, checkpoint_every_loops=16
)
IDS = [f"loop {i}" for i in range(20)]


class PowerCut(Exception):
    pass


def line(
    checkpoints: Path, fail_at: int | None = None, *, step_fails: bool = False, **kwargs
) -> tuple[nn.Module, list]:
    """Fit y = w x to noisy targets, all randomness from the step's generator."""
    torch.manual_seed(0)
    model, logged = nn.Linear(3, 1), []

    def step(net, rows, draw, seen):
        if seen == fail_at or step_fails:
            raise PowerCut
        x = torch.tensor(rows)[:, None] / 20 + torch.randn(len(rows), 3, generator=draw)
        return {"loss": (net(x) - x.sum(1, keepdim=True)).square().mean()}

    told = {"ids": IDS, "training": TRAINING, "seed": 1, "identity": {"a": 1}} | kwargs
    history = fit(
        model,
        step,
        lambda net: {"weight": float(net.weight.sum())},
        log=lambda metrics, seen: logged.append((seen, dict(metrics))),
        checkpoints=checkpoints,
        **told,
    )
    return model, history


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, history = line(tmp_path / "a")
    with pytest.raises(PowerCut):
        line(tmp_path / "b", fail_at=44)
    assert len(list((tmp_path / "b").glob("*/last.pt"))) == 1
    resumed, history_resumed = line(tmp_path / "b")
    assert torch.equal(whole.weight, resumed.weight)
    assert history == history_resumed


def test_a_finished_training_is_not_lost_if_what_follows_it_fails(tmp_path: Path) -> None:
    whole, history = line(tmp_path)
    assert [p.name for p in tmp_path.glob("*/*")] == ["finished.pt"]
    again, history_again = line(tmp_path, fail_at=None, step_fails=True)
    assert torch.equal(whole.weight, again.weight)
    assert history == history_again


def test_another_identity_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(PowerCut):
        line(tmp_path, fail_at=44)
    with pytest.raises(PowerCut):
        line(tmp_path, fail_at=0, identity={"a": 2})
    line(tmp_path, fail_at=0)  # resumed: step 0 does not come again


def test_it_learns_and_keeps_a_history(tmp_path: Path) -> None:
    _, history = line(tmp_path, training=TRAINING.model_copy(update={"loops": 4_000}))
    train = [row["loss"] for row in history if row["split"] == "train"]
    assert train[-1] < 0.05 * train[0]
    assert [r["loops_seen"] for r in history if r["split"] == "validation"] == list(
        range(16, 4_001, 16)
    )


def test_the_seed_matters(tmp_path: Path) -> None:
    one, two = (line(tmp_path / str(seed), seed=seed)[0].weight for seed in (1, 2))
    assert not torch.equal(one, two)


def test_a_loss_that_is_no_number_stops_and_names_step_loops_and_checkpoint(
    tmp_path: Path,
) -> None:
    model = nn.Linear(1, 1)

    def step(net, rows, draw, seen):  # row 7 is damaged, and seen in the fourth epoch only
        x = torch.tensor([[math.nan if row == 7 and seen >= 60 else row / 20] for row in rows])
        return {"loss": net(x).square().mean()}

    longer = TRAINING.model_copy(update={"loops": 80})
    with pytest.raises(FloatingPointError, match="loss is nan") as stopped:
        fit(model, step, lambda net: {}, ids=IDS, training=longer, seed=0, identity={},
            log=lambda m, s: None, checkpoints=tmp_path)  # fmt: skip
    at = next(i for i in range(15, 20) if 7 in batch_rows(i, 20, 4, seed=0))
    said = str(stopped.value)
    assert f"at step {at} ({4 * at} loops seen)" in said
    assert ", ".join(IDS[row] for row in batch_rows(at, 20, 4, seed=0)) in said
    (last,) = tmp_path.glob("*/last.pt")
    assert str(last) in said
    saved = torch.load(last, weights_only=True)
    assert all(weight.isfinite().all() for weight in saved["model"].values())


def test_fewer_loops_than_a_batch(tmp_path: Path) -> None:
    _, history = line(tmp_path, ids=IDS[:3])
    assert history[-1]["loops_seen"] >= 64


def test_an_epoch_sees_each_loop_once() -> None:
    epoch = [row for step in range(5) for row in batch_rows(step, 20, 4, seed=0)]
    again = [row for step in range(5, 10) for row in batch_rows(step, 20, 4, seed=0)]
    assert sorted(epoch) == sorted(again) == list(range(20))
    assert epoch != again
    assert batch_rows(0, 20, 4, seed=0) == epoch[:4]


def test_schedules() -> None:
    rates = [schedule(i / 1_000) for i in range(1_000)]
    peak = int(np.argmax(rates))
    assert 10 < peak < 30
    assert rates[0] < 0.1
    assert rates[-1] < 1e-5
    assert max(rates) > 0.99
    assert [warm_up(s, 100) for s in (0, 50, 100, 200)] == [0, 0.5, 1, 1]
    assert warm_up(0, 0) == 1


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
        spectrum = random_spectra(x, GRID, 60, torch.Generator().manual_seed(seed))
        assert spectrum.shape == (1, values_per_frame(GRID.hop), 60)
        if spectrum.max() > 0:  # not silenced
            bins.add(int(spectrum[0, :513].mean(-1).argmax()))
    again = random_spectra(x, GRID, 60, torch.Generator().manual_seed(39))
    assert torch.equal(again, spectrum)
    assert len(bins) > 5
    assert 128 / 1.25 - 1 <= min(bins) < 120
    assert 136 < max(bins) <= 128 * 1.25 + 1
    monkeypatch.setattr(training_of_audio_vae, "SILENT_SHARE", 1.0)
    silent = random_spectra(x, GRID, 60, torch.Generator().manual_seed(0))
    torch.testing.assert_close(silent, torch.full_like(silent, math.log(1e-3)))


def test_a_reader_gives_the_rows_it_is_asked_for(loops_folder: Path) -> None:
    loops = LoopDataset(loops_folder, "train")
    read = loops.reader(torch.device("cpu"))([7, 0, 7])
    assert torch.equal(read, torch.from_numpy(loops.audio([7, 0, 7])))


@pytest.mark.parametrize("regulariser", ["kl", "wae", "wae-gan"])
def test_nothing_in_a_step_waits_for_the_device(
    loops_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, regulariser: str
) -> None:
    """However many steps lie between two logs, as many numbers are asked for (and waited for)."""
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
    metrics = latent_metrics(mu * math.sqrt(0.99), sigma, 125.0)
    expected = 4 * -math.log(0.1)  # E[mu^2] + sigma^2 = 1
    assert metrics["kl_nats_per_frame"] == pytest.approx(expected, rel=0.02)
    assert metrics["bits_per_second"] == pytest.approx(expected / math.log(2) * 125, rel=0.02)
    assert metrics["active_units"] == 4
    assert abs(metrics["mmd"]) < 0.02
    with pytest.warns(UserWarning, match="only 0 of 4 latent dimensions"):
        collapsed = latent_metrics(0 * mu, sigma / 0.1, 125.0)
    assert collapsed["kl_nats_per_frame"] == 0


def test_an_audio_vae_folder(audio_vae_folder: Path) -> None:
    assert sorted(p.name for p in audio_vae_folder.iterdir()) == [
        "config.json", "history.csv", "metrics.json", "model.safetensors"
    ]  # fmt: skip
    history = pd.read_csv(audio_vae_folder / "history.csv")
    assert history["loops_seen"].max() == 96
    validation = history[history["split"] == "validation"]
    assert validation["log_distance"].iloc[-1] < validation["log_distance"].iloc[0]
    metrics = json.loads((audio_vae_folder / "metrics.json").read_text())
    assert metrics["log_distance"] == pytest.approx(validation["log_distance"].iloc[-1])
    assert AudioVAE.load(audio_vae_folder).latent_dim == 4
    assert not list((audio_vae_folder.parent / "checkpoints").glob("*/last.pt"))


def test_what_a_training_came_to_is_kept_for_a_day(loops_folder: Path, tmp_path: Path) -> None:
    first, second = (
        small_params().train_audio_vae.cell("kl").model_copy(update={"weight": weight})
        for weight in (0.01, 0.02)
    )
    train_small_audio_vae(loops_folder, tmp_path / "vae", first)
    [kept] = tmp_path.glob("checkpoints/*/finished.pt")
    os.utime(kept, (0, time.time() - 86_500))
    began = []
    train_small_audio_vae(loops_folder, tmp_path / "vae", first, log=lambda *told: began.append(1))
    assert not began, "whatever came after it took its time"
    train_small_audio_vae(loops_folder, tmp_path / "vae", second)
    assert not kept.exists()
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
    for file in ("model.safetensors", "history.csv", "metrics.json", "config.json"):
        assert (tmp_path / "vae" / file).read_bytes() == (audio_vae_folder / file).read_bytes()


@pytest.mark.parametrize("regulariser", ["wae", "wae-gan"])
def test_wae_is_another_objective(
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
    assert AudioVAE.load(tmp_path / "wae").latent_dim == 4  # and no discriminator is kept


def test_the_contest_teaches_both() -> None:
    """The discriminator learns to tell frames from the prior, the encoder to prevent it."""
    torch.manual_seed(0)
    contest = LatentDiscriminator(AudioVAE(GRID, latent_dim=4, channels=16, blocks=1))
    spectrum = torch.randn(2, values_per_frame(GRID.hop), 60)
    draw = torch.Generator().manual_seed(0)
    *_, loss = contest(spectrum, draw)
    assert loss.item() == pytest.approx(math.log(2), abs=0.1)
    loss.backward()
    for part, sign in ((contest.discriminator, -1), (contest.vae.encoder, 1)):
        parameters = [p for p in part.parameters() if p.grad is not None]
        assert parameters
        with torch.no_grad():
            before = [p.clone() for p in parameters]
            size = sum(p.grad.square().sum() for p in parameters).sqrt()
            for p in parameters:
                p -= 0.01 * p.grad / size
            *_, after = contest(spectrum, torch.Generator().manual_seed(0))
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
    y = vae.decode(vae.encode(x)[0])
    assert y.isfinite().all()
    assert y.abs().max() <= 1
    spectrum = random_spectra(x, GRID, 60, torch.Generator().manual_seed(1))
    predicted, mu, sigma = vae(spectrum, torch.Generator().manual_seed(1))
    loss = sum(spectrogram_distance(spectrum, predicted)) + 0.01 * rate(gaussian_kl(mu, sigma))
    loss.backward()
    before = nn.utils.clip_grad_norm_(vae.parameters(), GRADIENT_NORM)
    assert before.isfinite()
    after = torch.stack([p.grad.norm() for p in vae.parameters() if p.grad is not None]).norm()
    assert after <= 1.001 * GRADIENT_NORM


def test_silence_stays_silent(loops_folder: Path, tmp_path: Path) -> None:
    params = small_params().train_audio_vae
    training = params.training.model_copy(update={"loops": 800, "validate_every_loops": 800})
    size = params.model.model_copy(update={"latent_dim": 16})
    params = params.model_copy(update={"training": training, "model": size})
    train_small_audio_vae(loops_folder, tmp_path / "vae", params.cell("kl"), params=params)
    vae = AudioVAE.load(tmp_path / "vae")
    silence = torch.zeros(1, GRID.samples)
    assert vae.decode(vae.encode(silence)[0]).abs().max() < 1e-3  # -60 dB


@pytest.mark.parametrize("cell", ["kl-mean-16", "kl-sample-4", "kl-posterior-1"])
def test_latent_vaes_of_each_objective(latents_folder: Path, tmp_path: Path, cell: str) -> None:
    metrics = train_small_latent_vae(latents_folder, tmp_path / cell, cell)
    history = pd.read_csv(tmp_path / cell / "history.csv")
    bound = history.loc[history["split"] == "validation", "bound_nats_per_frame"]
    assert bound.iloc[-1] < bound.iloc[0]
    vae = LatentVAE.load(tmp_path / cell)
    assert vae.length == int(cell.split("-")[-1])
    assert metrics["rate_nats_per_loop"] > 0
    assert (tmp_path / cell / "audio_vae" / "model.safetensors").exists()
    train_small_latent_vae(latents_folder, tmp_path / "again", cell)
    same = [(tmp_path / n / "model.safetensors").read_bytes() for n in (cell, "again")]
    assert same[0] == same[1]


def test_loops_are_seen_from_each_of_their_beats() -> None:
    mu = torch.arange(240.0).expand(64, 2, 240)
    a, b = rotated(mu, mu + 0.5, GRID, torch.Generator().manual_seed(0))
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
        found = (vae.prior_factor @ vae.prior_factor.T).diagonal().view_as(variance)
        torch.testing.assert_close(found, variance, atol=1e-4, rtol=1e-3)


def test_latents_beside_another_model(latents_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(latents_folder, tmp_path / "latents"))
    config = read_json(folder / "audio_vae" / "config.json")
    write_json(folder / "audio_vae" / "config.json", {**config, "seed": 99})
    with pytest.raises(ValueError, match="files of two runs are mixed"):
        train_small_latent_vae(folder, tmp_path / "vae", "kl-posterior-4")
    assert not (tmp_path / "vae").exists()
