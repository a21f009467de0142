import pytest
import torch

from techloop.audio.frames import fine_structure, frame_values, split_values
from techloop.audio.spectral import circular_istft, circular_stft
from techloop.audio.vocoder import locate_partials, phases, polar, tones
from tests.helpers.sounds import HOP, SAMPLES, partials


@pytest.fixture(scope="module")
def loops() -> torch.Tensor:
    """A chord with a click in it, and noise."""
    torch.manual_seed(0)
    chord = partials(220, 277, 330, 1_100)
    chord[3_000] += 0.5
    return torch.stack([chord, 0.1 * torch.randn(SAMPLES)])


def long_window(x: torch.Tensor) -> torch.Tensor:
    return split_values(frame_values(x, HOP))[0]


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
        frame_values(torch.zeros(1, 1_000), HOP)


@pytest.mark.parametrize("k", [1, 7, -13])
def test_tones_rotate_with_the_frames(loops: torch.Tensor, k: int) -> None:
    spectrum = long_window(loops)
    a, b = tones(spectrum).roll(k * HOP, -1), tones(spectrum.roll(k, -1))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert a.std() > 0.01


def test_partials_keep_their_frequencies_and_their_level() -> None:
    for hz in ((441.7,), (1_003.0, 5_511.0)):
        x = partials(*hz)
        before, after = (torch.fft.rfft(v).abs() for v in (x, tones(long_window(x[None]))[0]))
        top = before.topk(len(hz)).indices.sort().values
        assert torch.equal(after.topk(len(hz)).indices.sort().values, top)
        torch.testing.assert_close(after[top], before[top], rtol=0.05, atol=0)


def test_noise_becomes_steady() -> None:
    """What a tone is, phases make; what is not, has to be told apart (see the refiner)."""
    torch.manual_seed(1)
    level = (0.1 * torch.ones(1, 1025, 60)).log()
    x = tones(level + 0.3 * torch.randn(1, 1025, 1))
    fine = fine_structure(long_window(x))
    product = (fine * fine.roll(16, -1)).mean() / fine.square().mean()
    assert product > 0.9


def test_phases_of_a_steady_partial_are_those_of_its_stft() -> None:
    """Oracle: the phases of the STFT itself, up to one phase that they share."""
    truth = circular_stft(partials(1_000)[None], 2048, HOP)
    locked = torch.polar(torch.ones(truth.shape), phases(truth.abs(), 2048, HOP))
    peak = int(truth.abs()[0, :, 0].argmax())
    for bin_ in (peak - 1, peak, peak + 1):
        turned = (truth / truth.abs() * locked.conj())[0, bin_]
        assert (turned - turned[0]).abs().max() < 0.05


@pytest.mark.parametrize("hz", [1_000.0, 1_003.0, 1_006.5, 3_337.0])
def test_the_frequency_of_every_bin_that_a_partial_dominates(hz: float) -> None:
    samples = 16_000  # one second: partials at whole hertz, and at halves if twice as long
    x = partials(hz, samples=2 * samples)[None]
    amplitude = circular_stft(x, 2048, HOP).abs()
    at = round(hz * 2048 / 16_000)
    frequency, _ = locate_partials(amplitude)
    measured = frequency[0, at - 1 : at + 2] * 16_000 / 2048
    assert (measured - hz).abs().max() < 0.8  # a tenth of a bin


def test_polar_is_that_of_the_library() -> None:
    amplitude, phase = torch.rand(2, 5, 3), torch.randn(2, 5, 3)
    torch.testing.assert_close(polar(amplitude, phase), torch.polar(amplitude, phase))


def test_silence_stays_silent_and_full_scale_finite() -> None:
    assert tones(long_window(torch.zeros(1, SAMPLES))).abs().max() < 1e-4
    square = partials(100)[None].sign()
    assert tones(long_window(square)).isfinite().all()


def test_gradients_pass_through_amplitudes(loops: torch.Tensor) -> None:
    spectrum = long_window(loops).requires_grad_()
    power = tones(spectrum).square().sum()
    power.backward()
    assert spectrum.grad is not None
    # Twice as loud in nepers is twice the power: the gradient's sum is the derivative by the level.
    assert spectrum.grad.sum().item() == pytest.approx(2 * power.item(), rel=0.05)
