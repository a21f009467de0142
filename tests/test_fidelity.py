"""Fidelity: perfect, degenerate, formulas as oracles, more noise is never better."""

import numpy as np
import pytest
import torch

from techloop.evaluation.metrics.fidelity import METRICS, reconstruction_metrics
from techloop.training.losses import spectral_distance
from tests.helpers.datasets import GRID, kicks

CENTS = (0, 100, 300, 1200)


@pytest.fixture(scope="module")
def audio():
    return torch.from_numpy(kicks(4))


def test_the_same_is_perfect(audio):
    metrics = reconstruction_metrics(audio, audio, GRID)
    assert metrics.pop("fine_structure") == pytest.approx(1)
    assert metrics.pop("chroma_similarity") == pytest.approx(1)
    assert metrics == pytest.approx(dict.fromkeys(metrics, 0), abs=1e-6)


def test_silence_against_loops_and_against_itself(audio):
    silence = torch.zeros_like(audio)
    metrics = reconstruction_metrics(audio, silence, GRID)
    assert metrics["multi_lin"] == pytest.approx(1, abs=1e-4)
    assert metrics["fine_structure"] == metrics["chroma_similarity"] == 0
    nothing = reconstruction_metrics(silence, silence, GRID)
    assert nothing["spectral_distance"] == nothing["multi_lin"] == nothing["fine_structure"] == 0
    assert np.isnan([nothing["error_centroid_hz"], nothing["chroma_similarity"]]).all()


def test_spectral_distance_of_a_gain_is_its_logarithm(audio):
    noisy = audio + 0.1 * torch.randn(audio.shape, generator=torch.Generator().manual_seed(0))
    metrics = reconstruction_metrics(noisy, noisy * 0.5, GRID)
    assert metrics["spectral_distance"] == pytest.approx(np.log(2), abs=0.001)
    assert metrics["error_loudness_db"] == pytest.approx(20 * np.log10(2), abs=0.01)
    assert metrics["error_centroid_hz"] == pytest.approx(0, abs=0.5)


def test_distances_are_those_of_losses(audio):
    other = audio.roll(1, 0)
    metrics = reconstruction_metrics(audio, other, GRID)
    per_loop = [spectral_distance(a[None], b[None]) for a, b in zip(audio, other, strict=True)]
    assert metrics["multi_log"] == pytest.approx(float(np.mean([p[0] for p in per_loop])), 1e-4)
    assert metrics["multi_lin"] == pytest.approx(float(np.mean([p[1] for p in per_loop])), 1e-4)
    one_window = spectral_distance(audio, other, [2048])[0]
    assert metrics["spectral_distance"] == pytest.approx(float(one_window), 1e-4)


def test_fine_structure_is_the_correlation_of_details(audio):
    """The definition, in NumPy: running mean over 31 bins, bins 5 to 499."""
    other = audio + 0.05 * torch.randn(audio.shape, generator=torch.Generator().manual_seed(0))

    def detail(x):
        padded = np.concatenate([x[:, -1024:], x, x[:, :1024]], 1)
        frames = np.lib.stride_tricks.sliding_window_view(padded, 2048, 1)[:, ::512][:, :60]
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
        log = np.log(np.abs(np.fft.rfft(frames * window)) + 1e-3)
        smooth = np.stack(
            [log[..., max(k - 15, 0) : k + 16].mean(-1) for k in range(log.shape[-1])], -1
        )
        return (log - smooth)[..., 5:500].ravel()

    a, b = detail(audio.double().numpy()), detail(other.double().numpy())
    expected = a @ b / np.sqrt((a @ a) * (b @ b))
    assert reconstruction_metrics(audio, other, GRID)["fine_structure"] == pytest.approx(
        expected, abs=2e-3
    )


def test_chroma_tells_a_semitone_from_an_octave():
    t = torch.arange(GRID.samples) / GRID.sample_rate_hz
    tone = {cents: 0.3 * torch.sin(2 * torch.pi * 220 * 2 ** (cents / 1200) * t) for cents in CENTS}
    same = {
        cents: reconstruction_metrics(tone[0][None], tone[cents][None], GRID)["chroma_similarity"]
        for cents in CENTS
    }
    assert same[0] == pytest.approx(1)
    assert same[1200] > 0.95
    assert same[100] < 0.3
    assert same[300] < 0.05
    # It ignores loudness.
    quiet = reconstruction_metrics(tone[0][None], 0.01 * tone[0][None], GRID)
    assert quiet["chroma_similarity"] == pytest.approx(1, abs=1e-3)


def test_more_noise_is_never_better(audio):
    noise = torch.randn(audio.shape, generator=torch.Generator().manual_seed(0))
    steps = [reconstruction_metrics(audio, audio + g * noise, GRID) for g in (0.003, 0.03, 0.3)]
    for name in ("spectral_distance", "multi_log", "multi_lin", "log_mel_l1_db", "error_flatness"):
        values = [step[name] for step in steps]
        assert values == sorted(values), name
        assert values[0] < values[-1], name
    for name in ("fine_structure", "chroma_similarity"):
        values = [step[name] for step in steps]
        assert values == sorted(values, reverse=True), name


def test_shapes_that_differ_are_refused(audio):
    with pytest.raises(ValueError, match="against"):
        reconstruction_metrics(audio, audio[:1], GRID)


def test_each_value_has_a_metric_with_its_direction_and_unit(audio):
    values = reconstruction_metrics(audio, audio.roll(1, 0), GRID)
    metrics = {metric.name: metric for metric in METRICS}
    assert set(metrics) == set(values)
    higher = {name for name, metric in metrics.items() if metric.better == "higher"}
    assert higher == {"fine_structure", "chroma_similarity"}
    assert all(metric.better for metric in METRICS)
    units = {name: metric.unit for name, metric in metrics.items() if metric.unit}
    assert units == {
        "log_mel_l1_db": "dB",
        "error_loudness_db": "dB",
        "error_centroid_hz": "Hz",
        "error_bandwidth_hz": "Hz",
        "error_rolloff_hz": "Hz",
        "error_zero_crossing_rate": "1/s",
        "error_onset_strength": "dB",
        "error_low_db": "dB",
        "error_mid_db": "dB",
        "error_high_db": "dB",
    }
