"""Tonality: noise about 0, steady tones about 1, silence undefined; three numbers over loops."""

import numpy as np
import pytest
import torch

from techloop.evaluation.metrics.tonality import (
    FEWEST,
    METRICS,
    TONALITY_CORRELATION,
    TONALITY_NOISY,
    TONALITY_TONAL,
    correlation,
    frame_tonality,
    tonality,
    tonality_scores,
)
from techloop.grid import Grid
from tests.helpers.datasets import GRID, kicks

GRIDS = [
    GRID,
    Grid(hop=96, bpm=125.0),
    Grid(hop=240, bpm=125.0),
    Grid(sample_rate_hz=12_000, hop=96),
    Grid(sample_rate_hz=48_000, hop=384),
]
PARTIALS_HZ = (3200, 3700, 4400, 5100, 5900)  # below half of 12 kHz


def noise(grid=GRID, n=4, seed=0):
    return 0.1 * torch.randn(n, grid.samples, generator=torch.Generator().manual_seed(seed))


def chord(grid=GRID, level=0.1):
    """Steady partials in the high band; whole periods, as a loop of a steady chord has."""
    t = torch.arange(grid.samples, dtype=torch.float64) / grid.samples
    cycles = [round(hz * grid.samples / grid.sample_rate_hz) for hz in PARTIALS_HZ]
    return (level * sum(torch.sin(2 * torch.pi * c * t + c) for c in cycles))[None].float()


def test_frames_say_where_a_loop_is_tonal():
    """A chord in the first half and noise in the second."""
    half = GRID.samples // 2
    loop = torch.cat([chord()[:, :half], noise(n=1)[:, half:]], 1)
    (frames,) = frame_tonality(loop, GRID)
    assert len(frames) == GRID.frames
    middle, edge = GRID.frames // 2, 2 * 8  # frames of a window reach into the other half
    assert frames[edge : middle - edge].min() > 0.9
    assert frames[middle + edge : -edge].mean().abs() < 0.1
    assert float(frames.mean()) == pytest.approx(float(tonality(loop, GRID)))
    assert frame_tonality(torch.zeros_like(loop), GRID).isnan().all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_noise_is_at_zero_and_steady_tones_are_at_one_on_any_grid(grid):
    assert tonality(noise(grid), grid).tolist() == pytest.approx([0] * 4, abs=0.03)
    assert float(tonality(chord(grid), grid)) > 0.95
    both = tonality(chord(grid) + noise(grid, 1), grid)
    assert 0.1 < float(both) < 0.9


def test_it_falls_with_noise_over_tones_and_a_high_pass_does_not_fool_it():
    values = [float(tonality(chord() + g * noise(n=1), GRID)) for g in (0, 0.1, 1, 10)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.2
    # Noise of a steady colour is noise: the running mean takes the envelope.
    spectrum = torch.fft.rfft(noise()) * torch.linspace(0, 1, GRID.samples // 2 + 1) ** 2
    assert tonality(torch.fft.irfft(spectrum), GRID).abs().max() < 0.05


def test_only_the_band_counts():
    """Steady tones below 3 kHz, as loud as may be, make the noise above no more tonal."""
    t = torch.arange(GRID.samples) / GRID.sample_rate_hz
    low = sum(torch.sin(2 * torch.pi * hz * t) for hz in (100, 400, 1000, 2000))
    assert abs(float(tonality(noise(n=1) + 0.2 * low, GRID))) < 0.05
    assert float(tonality(chord() + 0.2 * low, GRID)) > 0.9


def test_the_definition_frame_by_frame():
    """In NumPy: running mean over 31 bins, bins 192 to 511, frames 8 hops apart."""
    audio = chord() + noise(n=1)
    x = audio[0].double().numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    frames = [np.roll(x, 512 - 128 * i)[:1024] for i in range(GRID.frames)]
    log = np.log(np.abs(np.fft.rfft(np.stack(frames) * window)) + 1e-3)
    smooth = np.stack([log[:, max(k - 15, 0) : k + 16].mean(1) for k in range(513)], 1)
    detail = (log - smooth)[:, 192:512]
    pairs = [(detail[i], detail[(i + 8) % GRID.frames]) for i in range(GRID.frames)]
    expected = np.mean([a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs])
    assert float(tonality(audio, GRID)) == pytest.approx(expected, abs=1e-4)


def test_a_rotation_by_hops_changes_nothing():
    audio = torch.cat([chord() * torch.linspace(0, 1, GRID.samples), torch.from_numpy(kicks(3))])
    before = tonality(audio, GRID)
    for hops in (1, 17, 239):
        after = tonality(audio.roll(hops * GRID.hop, 1), GRID)
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_silence_has_none_and_the_level_does_not_matter_while_it_is_audible():
    silence = torch.zeros(1, GRID.samples)
    assert tonality(silence, GRID).isnan().all()
    assert tonality(1e-4 * noise(), GRID).isnan().all()
    half_silent = chord() * (torch.arange(GRID.samples) < GRID.samples // 2)
    assert float(tonality(half_silent, GRID)) > 0.9  # silent frames do not count
    for audio in (noise(), chord()):
        torch.testing.assert_close(
            tonality(audio / 2, GRID), tonality(audio, GRID), atol=0.02, rtol=0
        )
    mixed = tonality(torch.cat([noise(n=1), silence, chord()]), GRID)
    assert mixed.isnan().tolist() == [False, True, False]


def test_invalid_input_is_refused():
    with pytest.raises(ValueError, match="6000 Hz has no band"):
        tonality(torch.zeros(1, 12_000), Grid(sample_rate_hz=6_000, hop=100, bpm=120.0))
    with pytest.raises(ValueError, match="loops of 4096 samples, got 2560"):
        tonality(torch.zeros(1, 2560), GRID)
    with pytest.raises(ValueError, match="3 originals against 4"):
        tonality_scores(np.zeros(3), np.zeros(4))


def test_the_three_numbers():
    original = np.array([0.01, 0.02, 0.03, 0.04, 0.0, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9, np.nan, 0.3])
    guess = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 0.3, 0.4, 0.5, 0.6, 0.7, 0.5, np.nan])
    scores = tonality_scores(original, guess)
    expected = np.corrcoef(original[:11], guess[:11])[0, 1]
    assert scores[TONALITY_CORRELATION].value == pytest.approx(expected)
    assert scores[TONALITY_NOISY].value == pytest.approx(0.3)
    assert scores[TONALITY_TONAL].value == pytest.approx(0.5)
    deviation = np.std([0.3, 0.4, 0.5, 0.6, 0.7]) / np.sqrt(5)
    assert scores[TONALITY_TONAL].deviation == pytest.approx(deviation, rel=0.1)


def test_originals_against_themselves_are_perfect():
    values = np.linspace(0, 0.8, 100)
    scores = tonality_scores(values, values)
    assert scores[TONALITY_CORRELATION] == pytest.approx((1, 0), abs=1e-9)
    assert scores[TONALITY_NOISY].value < 0.05
    assert scores[TONALITY_TONAL].value > 0.4


def test_too_few_loops_have_no_number():
    values = np.array([0.1, 0.2, 0.3, 0.01, 0.9])
    scores = tonality_scores(values, values)
    assert np.isfinite(scores[TONALITY_CORRELATION].value)
    assert np.isnan(scores[TONALITY_NOISY]).all()
    assert np.isnan(scores[TONALITY_TONAL]).all()
    few = tonality_scores(values[: FEWEST - 1], values[: FEWEST - 1])
    assert np.isnan([estimate.value for estimate in few.values()]).all()
    constant = tonality_scores(values, np.full(5, 0.3))
    assert np.isnan(constant[TONALITY_CORRELATION].value)


def test_a_counted_correlation_is_that_of_repeated_loops():
    rng = np.random.default_rng(0)
    pairs, counts = rng.standard_normal((12, 2)), rng.multinomial(12, np.full(12, 1 / 12), 5)
    expected = [np.corrcoef(pairs[np.repeat(np.arange(12), c)].T)[0, 1] for c in counts]
    assert correlation(pairs, counts) == pytest.approx(expected)


def test_directions():
    assert [metric.better for metric in METRICS] == ["higher", "lower", "higher"]
