"""Evaluation of a tuned decoder: in pairs with the one before, on the same latents and noise."""

import copy

import numpy as np
import pytest
import torch

from techloop.data.columns import HELD_OUT
from techloop.data.datasets import LoopDataset
from techloop.evaluation.decoder import HEADLINES, SHOWN, change_of, evaluate_decoder
from techloop.evaluation.reconstruction import evaluate_reconstruction
from techloop.metric import flat_metrics
from techloop.models.audio_vae import AudioVAE
from tests.helpers.datasets import GRID, contents, kicks, write_loops

SPLITS = ["train"] * 8 + ["validation"] * 3 + ["test"] * 7


@pytest.fixture(scope="module")
def loops(tmp_path_factory):
    """Kicks; over those of the test split, from hiss alone to a chord alone."""
    t, rng = np.arange(GRID.samples) / GRID.sample_rate_hz, np.random.default_rng(0)
    audio = kicks(len(SPLITS))
    chord = sum(np.sin(2 * np.pi * hz * t + hz) for hz in (3125, 4375, 5625))
    for loop, share in zip(audio[-7:], np.linspace(0, 1, 7), strict=True):
        loop += 0.1 * (share * chord + (1 - share) * rng.standard_normal(GRID.samples))
    return write_loops(tmp_path_factory.mktemp("decoder") / "loops", audio, SPLITS)


@pytest.fixture(scope="module")
def before():
    torch.manual_seed(0)
    return AudioVAE(GRID, latent_dim=4, channels=16, blocks=1).eval()


@pytest.fixture(scope="module")
def after(before):
    """The same with another decoder."""
    tuned = copy.deepcopy(before)
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in tuned.refiner.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    return tuned


def sets(folder):
    return LoopDataset(folder, "train"), LoopDataset(folder, HELD_OUT)


def evaluated(before, after, folder, *, loops_used=10, examples=2):
    return evaluate_decoder(
        before, after, *sets(folder), loops_used=loops_used, examples=examples, seed=0
    )


@pytest.fixture(scope="module")
def evaluation(before, after, loops):
    return evaluated(before, after, loops)


def test_both_decoders_have_the_numbers_of_the_evaluation_of_reconstructions(
    evaluation, before, after, loops
):
    """Also when each is evaluated alone: same loops, same latents, same noise."""
    metrics = flat_metrics(evaluation.metrics)
    alone = {
        name: flat_metrics(
            evaluate_reconstruction(vae, *sets(loops), loops_used=10, examples=1, seed=0).metrics
        )
        for name, vae in (("before", before), ("after", after))
    }
    assert set(alone["after"]) < set(metrics)
    for name, value in alone["after"].items():
        assert metrics[name] == pytest.approx(value, nan_ok=True), name
    values = set(evaluation.metrics) & set(alone["before"])
    compared = {name for name in values if f"before_{name}" in metrics}
    assert values - compared == {"loops", "held_out_loops"}
    for name in compared:
        assert metrics[f"before_{name}"] == pytest.approx(alone["before"][name], nan_ok=True), name


def test_what_the_changes_mean(evaluation):
    for headline in HEADLINES:
        change = evaluation.metrics[f"change_{headline.name}"]
        own = evaluation.metrics[headline.name]
        assert change.metric == change_of(headline)
        assert (change.metric.unit, change.metric.better) == (own.metric.unit, own.metric.better)
        assert change.baselines == {}
        difference = own.value - own.baselines["before"]
        assert change.value == pytest.approx(difference, abs=1e-4, rel=1e-4), headline.name
        assert change.interval[0] < change.value < change.interval[1]
    assert {name for name in evaluation.metrics if name.startswith("change_")} == {
        f"change_{headline.name}" for headline in HEADLINES
    }


def test_a_decoder_that_was_not_tuned_changes_nothing(before, loops):
    evaluation = evaluated(before, copy.deepcopy(before), loops)
    for headline in HEADLINES:
        change = evaluation.metrics[f"change_{headline.name}"]
        assert (change.value, *change.interval) == (0, 0, 0), headline.name
    np.testing.assert_array_equal(evaluation.arrays["before_db"], evaluation.arrays["after_db"])


def test_arrays_and_sounds_are_of_all_three(evaluation, tmp_path):
    evaluation.write(tmp_path / "cell", GRID)
    examples = ("best", "worst", "noise", "tone", "kick")
    wavs = [f"{example}-{kind}.wav" for example in examples for kind in SHOWN]
    assert [sound.file for sound in evaluation.sounds] == wavs
    files = {"metrics.json", "arrays.npz", "facts.json", "sounds.json"}
    assert set(contents(tmp_path / "cell")) == files | set(wavs)
    arrays, facts = evaluation.arrays, evaluation.facts
    assert [view["kind"] for view in facts["close_ups"]] == ["noise", "tone", "kick"]
    views = {view["kind"]: view for view in facts["close_ups"]}
    assert views["noise"]["name"] == "made/011"
    assert views["tone"]["name"] == "made/017"
    assert views["tone"]["tonality"]["original"] == np.nanmax(arrays["tonality_original"]) > 0.5
    assert views["noise"]["tonality"]["original"] == np.nanmin(arrays["tonality_original"]) < 0.1
    for view in views.values():
        levels = arrays[f"close_up_{view['kind']}_db"]
        assert len(levels) == 3
        named = {s.facts["name"] for s in evaluation.sounds if s.facts["example"] == view["kind"]}
        assert named == {view["name"]}
    # Lines of the chord stand in the original, and in neither of the others.
    bins = [round(hz * 1024 / GRID.sample_rate_hz) for hz in (3125, 4375, 5625)]
    original, first, second = arrays["close_up_tone_db"][:, bins].mean((1, 2))
    assert original > -30 > max(first, second)
    assert not np.array_equal(*arrays["close_up_tone_db"][1:])
    for kind in SHOWN:
        assert arrays[f"{kind}_db"].shape == (2, 64, GRID.frames)
        assert len(arrays[f"tonality_{kind}"]) == facts["loops"] == 7
    errors = {s.file: s.facts.get("log_mel_l1_db") for s in evaluation.sounds}
    assert errors["best-original.wav"] is None
    for i, example in enumerate(("best", "worst")):
        for kind in ("before", "after"):
            error = np.abs(arrays["original_db"][i] - arrays[f"{kind}_db"][i]).mean()
            assert errors[f"{example}-{kind}.wav"] == pytest.approx(error, rel=1e-5)
    assert errors["best-after.wav"] <= errors["worst-after.wav"]


def test_the_same_again(evaluation, before, after, loops, tmp_path):
    for name, measured in (("a", evaluation), ("b", evaluated(before, after, loops))):
        measured.write(tmp_path / name, GRID)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_decoder_of_another_audio_vae_is_refused(before, loops):
    torch.manual_seed(2)
    for other in (
        AudioVAE(GRID, latent_dim=4, channels=16, blocks=1).eval(),
        AudioVAE(GRID, latent_dim=5, channels=16, blocks=1).eval(),
    ):
        with pytest.raises(ValueError, match="belongs to another audio VAE"):
            evaluated(before, other, loops)
    with pytest.raises(ValueError, match="takes two or more"):
        evaluated(before, before, loops, loops_used=1)


def test_the_small_world(loops_folder, audio_vae_folder, decoder_folder):
    """What the trainings write can be evaluated: the encoder is unchanged to the bit."""
    vaes = [AudioVAE.load(folder) for folder in (audio_vae_folder, decoder_folder)]
    evaluation = evaluated(*vaes, loops_folder, loops_used=12, examples=1)
    change = evaluation.metrics["change_multi_log"]
    assert np.isfinite([change.value, *change.interval]).all()
    assert change.value != 0
