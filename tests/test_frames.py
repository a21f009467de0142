import pytest
import torch

from techloop.audio.frames import (
    band_tonality,
    fine_structure,
    frame_values,
    split_values,
    values_per_frame,
)
from techloop.audio.spectral import circular_stft
from tests.helpers.sounds import FRAMES, HOP, SAMPLES, partials


def log_spectrum(x: torch.Tensor, window: int) -> torch.Tensor:
    return (circular_stft(x, window, HOP).abs() + 1e-3).log()


@pytest.mark.parametrize("hop", [32, 64, 128])
def test_values_are_the_transforms_of_the_library_and_tonalities(hop: int) -> None:
    x = 0.1 * torch.randn(2, hop * 20)
    values = frame_values(x, hop)
    assert values.shape == (2, values_per_frame(hop), 20)
    long, short, tonality = split_values(values)
    for part, window in ((long, 16 * hop), (short, 4 * hop)):
        amplitude = circular_stft(x, window, hop).abs()
        torch.testing.assert_close(part, (amplitude + 1e-3).log(), atol=1e-4, rtol=1e-4)
    assert tonality.shape == (2, 8, 20)


@pytest.mark.parametrize("k", [1, -7])
def test_values_rotate_with_the_loop(k: int) -> None:
    x = 0.1 * torch.randn(1, SAMPLES)
    a, b = frame_values(x.roll(k * HOP, -1), HOP), frame_values(x, HOP).roll(k, -1)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_tones_are_tonal_and_noise_is_not() -> None:
    torch.manual_seed(0)
    many = [250.0 * i + 100 for i in range(32)]  # partials in every band
    chord, noise = partials(*many), 0.1 * torch.randn(SAMPLES)
    tonality = band_tonality(log_spectrum(torch.stack([chord, noise]), 1024))
    assert tonality[0].min() > 0.9
    assert tonality[1].mean().abs() < 0.05
    assert tonality[1].abs().max() < 0.6
    high = partials(*many[16:])  # tones above 4 kHz, noise below
    low = torch.fft.rfft(noise)
    low[len(low) // 2 :] = 0
    mixed = high + torch.fft.irfft(low, n=SAMPLES)
    bands = band_tonality(log_spectrum(mixed[None], 1024))[0].mean(1)
    assert bands[5:].min() > 0.8
    assert bands[:3].max() < 0.2


def test_tonality_hears_when_a_tone_stops() -> None:
    chord = partials(*(250.0 * i + 100 for i in range(32)), samples=4 * SAMPLES)
    half = chord * (torch.arange(4 * SAMPLES) < 2 * SAMPLES)
    noisy = half + 1e-2 * torch.randn(4 * SAMPLES)
    tonality = band_tonality(log_spectrum(noisy[None], 1024))[0].mean(0)
    assert tonality[20 : 2 * FRAMES - 20].min() > 0.6
    assert tonality[2 * FRAMES + 20 : -20].abs().max() < 0.4


def test_silence_is_not_tonal() -> None:
    assert band_tonality(log_spectrum(torch.zeros(1, SAMPLES), 1024)).abs().max() < 1e-3


def test_fine_structure_does_not_depend_on_level_and_tilt() -> None:
    spectrum = log_spectrum(partials(220, 440)[None], 2048)
    fine = fine_structure(spectrum)
    assert fine.shape == spectrum.shape
    ramp = torch.linspace(0, 3, spectrum.shape[1])[:, None]
    inside = slice(20, -20)
    changed = fine_structure(spectrum + 2 + ramp)
    torch.testing.assert_close(changed[:, inside], fine[:, inside], atol=1e-4, rtol=1e-4)
    assert fine[:, inside].std() > 0.1
