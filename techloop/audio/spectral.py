"""Spectra of loops: a loop is a circle, so every window wraps around."""

import math
from functools import lru_cache

import torch
from jaxtyping import Complex, Float
from torch import Tensor

CHROMA_RANGE_HZ = (60.0, 4000.0)


def wrap(x: Float[Tensor, "... t"], before: int, after: int) -> Float[Tensor, "... u"]:
    """`x` continued around the circle past both ends; a negative count cuts samples off."""
    t = x.shape[-1]
    if min(before, after) >= 0 and max(before, after) <= t:
        return torch.cat([x[..., t - before :], x, x[..., :after]], -1)
    return x[..., torch.arange(-before, t + after, device=x.device) % t]


@lru_cache(maxsize=64)
def whole_hop(samples: int, window: int) -> int:
    """The largest hop of at most a quarter window that divides `samples`."""
    return next(hop for hop in range(window // 4, 0, -1) if samples % hop == 0)


@lru_cache(maxsize=32)
def hann(window: int, device: torch.device) -> Float[Tensor, " window"]:
    """The periodic Hann window."""
    with torch.inference_mode(False):  # the cached tensor may be used in training later
        return torch.hann_window(window, device=device)


def circular_stft(
    x: Float[Tensor, "b samples"], window: int, hop: int
) -> Complex[Tensor, "b bins frames"]:
    """Short-time Fourier transform (Hann, unscaled) of loops; frame t is centred on sample t * hop.

    Rotating the loop by k hops rotates the frames by k.

    Returns:
        `(b, window // 2 + 1, samples // hop)`.

    Raises:
        ValueError: the loop is not a whole number of hops.
    """
    samples = x.shape[-1]
    if samples % hop:
        raise ValueError(f"a circle of {samples} samples is not a whole number of hops of {hop}")
    padded = wrap(x.float(), window // 2, window // 2 - hop)
    return torch.stft(
        padded, window, hop, window=hann(window, x.device), center=False, return_complex=True
    )


def circular_istft(
    spectrum: Complex[Tensor, "b bins frames"], window: int, hop: int
) -> Float[Tensor, "b samples"]:
    """The inverse of `circular_stft`: loops whose transform is nearest (least squares).

    Raises:
        ValueError: the window is not an even number of hops, or fewer than four.
    """
    parts = window // hop
    if window % hop or parts % 2 or parts < 4:
        raise ValueError(f"a window of {window} samples is not 4, 6, ... hops of {hop}")
    taper = hann(window, spectrum.device)
    frames = torch.fft.irfft(spectrum.mT, n=window) * (taper * (hop / taper.square().sum()))
    pieces = frames.unflatten(-1, (parts, hop))
    out = torch.zeros_like(pieces[:, :, 0])
    for i in range(parts):  # frame t reaches from half a window before its centre to half behind
        out += pieces[:, :, i].roll(i - parts // 2, 1)
    return out.flatten(1)


@lru_cache(maxsize=8)
def mel_filterbank(
    sample_rate_hz: int, window: int, mels: int, low_hz: float = 30.0
) -> Float[Tensor, "mels bins"]:
    """Triangular filters on the HTK mel scale, normalised by their width (Slaney), by torchaudio.

    Args:
        sample_rate_hz: of the loops.
        window: of the transform, in samples.
        mels: how many filters.
        low_hz: lower edge of the first filter; the upper edge of the last is half the sample rate.
    """
    from torchaudio.functional import melscale_fbanks

    with torch.inference_mode(False):  # the cached tensor may be used in training later
        filters: Tensor = melscale_fbanks(
            window // 2 + 1, low_hz, sample_rate_hz / 2, mels, sample_rate_hz, norm="slaney"
        )
        return filters.T


@lru_cache(maxsize=4)
def chroma_filterbank(sample_rate_hz: int, window: int) -> Float[Tensor, "twelve bins"]:
    """Weights of the bins for each pitch class, starting at C; linear between two semitones.

    Bins outside `CHROMA_RANGE_HZ` have none.

    References:
        Fujishima, Realtime chord recognition of musical sound, 1999 (pitch class profile).
    """
    with torch.inference_mode(False):  # the cached tensor may be used in training later
        low_hz, high_hz = CHROMA_RANGE_HZ
        hz = torch.arange(window // 2 + 1) * (sample_rate_hz / window)
        semitone = 12 * (hz.clamp_min(1) / 440).log2() + 9
        away = (semitone - torch.arange(12)[:, None] + 6) % 12 - 6
        return (1 - away.abs()).clamp_min(0) * ((hz >= low_hz) & (hz <= high_hz))


def log_mel(
    x: Float[Tensor, "b samples"],
    sample_rate_hz: int,
    window: int = 1024,
    hop: int = 128,
    mels: int = 64,
    floor_db: float = -100.0,
) -> Float[Tensor, "b mels frames"]:
    """Mel power in dB relative to a full-scale sine, at least `floor_db`."""
    spectrum = torch.view_as_real(circular_stft(x, window, hop))
    filters = mel_filterbank(sample_rate_hz, window, mels).to(x.device)
    weights = filters / filters.sum(-1, keepdim=True)
    power = weights @ spectrum.square().sum(-1) / (window / 4) ** 2
    return 10 * torch.log10(power.clamp_min(10 ** (floor_db / 10)))


def k_weights(hz: Float[Tensor, " bins"]) -> Float[Tensor, " bins"]:
    """Power gain of the K-weighting: the two biquads of BS.1770-4, given at 48 kHz."""
    z = torch.exp(-2j * math.pi * hz.double() / 48_000)
    shelf = (1.53512485958697 - 2.69169618940638 * z + 1.19839281085285 * z**2) / (
        1 - 1.69065929318241 * z + 0.73248077421585 * z**2
    )
    high_pass = (1 - 2 * z + z**2) / (1 - 1.99004745483398 * z + 0.99007225036621 * z**2)
    return (shelf * high_pass).abs().square().float()
