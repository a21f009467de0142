import math

import pytest
import torch

from techloop.audio.spectral import circular_istft, circular_stft
from techloop.audio.vocoder import (
    fine_structure,
    locked_phases,
    log_amplitudes,
    synthesise,
    values_per_frame,
)
from techloop.training.losses import spectral_distance

HOP, FRAMES = 128, 60
SAMPLES = HOP * FRAMES
LOW = 513  # bins of the long window, up to half of the band


def partials(*hz: float, samples: int = SAMPLES) -> torch.Tensor:
    """A chord of partials that make whole cycles in the loop."""
    t = torch.arange(samples, dtype=torch.double) / samples
    turns = [round(f * samples / 16_000) for f in hz]
    return torch.stack([0.1 * torch.cos(2 * math.pi * n * t + n) for n in turns]).sum(0).float()


@pytest.fixture(scope="module")
def loops() -> torch.Tensor:
    """A chord with a click in it, and noise."""
    torch.manual_seed(0)
    chord = partials(220, 277, 330, 1_100)
    chord[3_000] += 0.5
    return torch.stack([chord, 0.1 * torch.randn(SAMPLES)])


@pytest.mark.parametrize("window", [512, 2048])
def test_the_inverse_of_a_circular_stft(loops: torch.Tensor, window: int) -> None:
    again = circular_istft(circular_stft(loops, window, HOP), window, HOP)
    torch.testing.assert_close(again, loops, atol=1e-6, rtol=1e-5)


def test_the_inverse_of_a_circle_shorter_than_its_window() -> None:
    x = torch.randn(1, 5 * HOP)
    again = circular_istft(circular_stft(x, 2048, HOP), 2048, HOP)
    torch.testing.assert_close(again, x, atol=1e-6, rtol=1e-5)


def test_windows_that_are_not_whole_hops() -> None:
    with pytest.raises(ValueError, match=r"500 samples is not 4, 6, ... hops of 128"):
        circular_istft(torch.zeros(1, 251, 4, dtype=torch.cfloat), 500, HOP)
    with pytest.raises(ValueError, match="not a whole number of hops"):
        log_amplitudes(torch.zeros(1, 1_000), HOP)


def test_analysis_is_the_stft_of_the_library(loops: torch.Tensor) -> None:
    amplitudes = log_amplitudes(loops, HOP)
    assert amplitudes.shape == (2, values_per_frame(HOP), FRAMES)
    long = (circular_stft(loops, 2048, HOP).abs() + 1e-3).log()
    short = (circular_stft(loops, 512, HOP).abs() + 1e-3).log()
    torch.testing.assert_close(amplitudes[:, :LOW], long[:, :LOW], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(amplitudes[:, LOW:], short, atol=1e-4, rtol=1e-4)


def test_frames_of_a_part_are_those_of_the_whole_loop(loops: torch.Tensor) -> None:
    whole, first = log_amplitudes(loops, HOP), torch.tensor([50, 3])
    part = log_amplitudes(loops, HOP, first, 20)
    for i, at in enumerate(first.tolist()):
        torch.testing.assert_close(part[i], whole[i].roll(-at, -1)[:, :20], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 7, -13])
def test_synthesis_rotates_with_the_frames(loops: torch.Tensor, k: int) -> None:
    spectrum = log_amplitudes(loops, HOP)
    a, b = synthesise(spectrum).roll(k * HOP, -1), synthesise(spectrum.roll(k, -1))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert a.std() > 0.01


def test_synthesis_keeps_the_power_of_the_amplitudes(loops: torch.Tensor) -> None:
    target = log_amplitudes(loops, HOP)
    target[:, LOW:] = target[:, LOW:].mean(2, keepdim=True)  # amplitudes that no sound has
    for wanted, actual in zip(target, log_amplitudes(synthesise(target), HOP), strict=True):
        power = [(part[LOW:].exp() - 1e-3).square().sum().item() for part in (wanted, actual)]
        assert power[1] == pytest.approx(power[0], rel=1e-2)


@torch.no_grad()
def test_synthesis_sounds_the_same_with_other_phases(loops: torch.Tensor) -> None:
    again = synthesise(log_amplitudes(loops, HOP))
    apart = [
        sum(spectral_distance(x[None], y[None])).item() for x, y in zip(loops, again, strict=True)
    ]
    assert apart[0] < 0.6
    assert apart[1] < 1.0  # the log term of independent noises alone is 0.7
    unlike = sum(spectral_distance(loops[:1], again[1:])).item()
    assert unlike > 2 * apart[0]


def test_a_partial_keeps_its_frequency() -> None:
    x = partials(441.7)
    spectrum = torch.fft.rfft(synthesise(log_amplitudes(x[None], HOP))[0]).abs()
    assert int(spectrum.argmax()) == int(torch.fft.rfft(x).abs().argmax())


def test_phases_of_a_steady_partial_are_those_of_its_stft() -> None:
    """Oracle: the phases of the STFT itself, up to one phase that they share."""
    truth = circular_stft(partials(1_000)[None], 2048, HOP).mT
    locked = torch.polar(torch.ones(truth.shape), locked_phases(truth.abs(), 2048, HOP))
    peak = int(truth.abs()[0, 0].argmax())
    for bin_ in (peak - 1, peak, peak + 1):
        turned = (truth / truth.abs() * locked.conj())[0, :, bin_]
        assert (turned - turned[0]).abs().max() < 0.05


def test_a_peak_between_bins_keeps_its_frequency() -> None:
    """Also at bins with a whole number of turns per hop, every 16th of a window of 16 hops."""
    for middle in (12.5, 15.5):
        at = middle + 0.05 * (-1.0) ** torch.arange(FRAMES)[:, None]
        level = -math.pi * 0.25645 * (torch.arange(1025) - at) ** 2  # as of a Gaussian window
        phase = locked_phases(level.clamp_min(-60).exp()[None], 2048, HOP)[0]
        step = phase.diff(dim=0)[:, round(middle) - 1] / (2 * math.pi)
        wrong = (step - middle / 16 + 0.5) % 1 - 0.5
        assert wrong.abs().max() < 0.02


def test_silence_stays_silent_and_full_scale_finite() -> None:
    assert synthesise(log_amplitudes(torch.zeros(1, SAMPLES), HOP)).abs().max() < 1e-4
    square = partials(100)[None].sign()
    assert synthesise(log_amplitudes(square, HOP)).isfinite().all()


def test_fine_structure_does_not_depend_on_level_and_tilt() -> None:
    spectrum = log_amplitudes(partials(220, 440)[None], HOP)
    fine = fine_structure(spectrum)
    assert fine.shape == (1, LOW, FRAMES)
    ramp = torch.linspace(0, 3, spectrum.shape[1])[:, None]
    inside = slice(20, LOW - 20)
    changed = fine_structure(spectrum + 2 + ramp)
    torch.testing.assert_close(changed[:, inside], fine[:, inside], atol=1e-4, rtol=1e-4)
    assert fine[:, inside].std() > 0.1
