"""Vocoder: loops to log amplitudes at two resolutions, and amplitudes without phases back to loops.

    loop -> |STFT|, window of 16 hops, lower half of the band: resolves partials
         -> |STFT|, window of 4 hops, whole band: resolves attacks
    both -> phases locked to the spectral peaks -> a few projections onto both -> loop

A latent without phases can be predicted by a second model, and commutes with rotation. Everything
here is circular: rotating the loop by a hop rotates the frames by one, and vice versa. No phase
depends on a position in the loop.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from techloop.audio.spectral import circular_istft, circular_stft, hann

LONG, SHORT = 16, 4  # windows, in hops: 128 ms resolve 8 Hz, 32 ms resolve drum strokes
LOG_FLOOR = 1e-3  # epsilon of log amplitudes (unscaled: a full-scale sine has window / 4)
PROJECTIONS = 2  # onto both spectrograms; more do not help with predicted ones
MOMENTUM = 0.99
PARABOLA = 1 / (2 * math.pi * 0.25645)  # offset of a peak in bins, per slope of log amplitude: Hann
SMOOTH_BINS = 31  # bins of the long window (242 Hz); finer details are fine structure


def values_per_frame(hop: int) -> int:
    """Log amplitudes per frame: the long window's in half of the band, and all the short one's."""
    return (LONG * hop // 4 + 1) + (SHORT * hop // 2 + 1)


def split_windows(spectrum: Float[Tensor, "b v frames"]) -> tuple[Tensor, Tensor]:
    """The part of the long window and that of the short one."""
    low = (spectrum.shape[1] - 2) * LONG // (LONG + 2 * SHORT) + 1
    return spectrum[:, :low], spectrum[:, low:]


def log_amplitudes(
    x: Float[Tensor, "b samples"],
    hop: int,
    first: Tensor | None = None,
    frames: int | None = None,
) -> Float[Tensor, "b v frames"]:
    """Log amplitudes of loops at both windows, `log(|STFT| + 1e-3)`, Hann, unscaled.

    Args:
        x: loops of whole hops.
        hop: samples per frame; frame t is centred on sample `t * hop`.
        first: `(b,)`, first frame to compute of each loop; 0 by default.
        frames: how many frames to compute, going around the circle; all by default.

    Raises:
        ValueError: the loops are not a whole number of hops long.
    """
    samples = x.shape[-1]
    if samples % hop:
        raise ValueError(f"a circle of {samples} samples is not a whole number of hops of {hop}")
    frames = samples // hop if frames is None else frames
    start = torch.zeros(len(x), dtype=torch.long, device=x.device) if first is None else first
    parts = []
    for window, bins in ((LONG * hop, LONG * hop // 4 + 1), (SHORT * hop, SHORT * hop // 2 + 1)):
        reach = torch.arange((frames - 1) * hop + window, device=x.device) - window // 2
        part = x.float().gather(1, (start[:, None] * hop + reach) % samples)
        framed = part.unfold(1, window, hop) * hann(window, x.device)
        parts.append((torch.fft.rfft(framed)[..., :bins].abs() + LOG_FLOOR).log())
    return torch.cat(parts, -1).mT


def fine_structure(
    spectrum: Float[Tensor, "b v frames"],
) -> Float[Tensor, "b low frames"]:
    """The long window's part minus its running mean over `SMOOTH_BINS` bins."""
    low = split_windows(spectrum)[0].mT
    smooth = F.avg_pool1d(low, SMOOTH_BINS, 1, SMOOTH_BINS // 2, count_include_pad=False)
    return (low - smooth).mT


def synthesise(spectrum: Float[Tensor, "b v frames"]) -> Float[Tensor, "b samples"]:
    """Loops with approximately these log amplitudes (see `log_amplitudes`).

    Phases start locked to the peaks of the long window's spectrum (see `locked_phases`). Then the
    loops are projected onto the amplitudes of each window in turn, with momentum.

    References:
        Griffin & Lim, Signal estimation from modified short-time Fourier transform, 1984;
        Perraudin et al., A fast Griffin-Lim algorithm, 2013, for the momentum.
    """
    hop = (split_windows(spectrum)[1].shape[1] - 1) * 2 // SHORT
    long, short = LONG * hop, SHORT * hop
    fine, coarse = (
        (part.float().exp() - LOG_FLOOR).clamp(LOG_FLOOR / 100, 16 * window).mT  # never infinite
        for part, window in zip(split_windows(spectrum), (long, short), strict=True)
    )
    low = fine.shape[-1]
    # In the upper half of the band, which the long window lacks, the short one's are stretched.
    stretched = F.interpolate(coarse, size=long // 2 + 1, mode="linear", align_corners=True)
    start = torch.cat([fine, stretched[..., low:] * math.sqrt(LONG / SHORT)], -1)
    x = _from_frames(torch.polar(start, locked_phases(start, long, hop)), long, hop)
    before: dict[int, Tensor] = {}

    def project(x: Tensor, window: int, target: Tensor) -> Tensor:
        spectrum = _to_frames(x, window, hop)
        ahead = spectrum + MOMENTUM * (spectrum - before.get(window, spectrum))
        before[window] = spectrum
        given = ahead[..., : target.shape[-1]]  # the bins that have a target
        given = given * (target / given.abs().clamp_min(1e-8))
        return _from_frames(torch.cat([given, spectrum[..., target.shape[-1] :]], -1), window, hop)

    for _ in range(PROJECTIONS):
        x = project(x, short, coarse)
        x = project(x, long, fine)
    x = project(x, short, coarse)  # the last word on levels and attacks is the short window's
    # Predicted amplitudes are those of no real sound, so projections lose a little of the power.
    power = _to_frames(x, short, hop).abs().square().sum((1, 2)).clamp_min(1e-12)
    return x * (coarse.square().sum((1, 2)) / power).sqrt().clamp(0.5, 2)[:, None]


def locked_phases(
    amplitudes: Float[Tensor, "b frames bins"], window: int, hop: int
) -> Float[Tensor, "b frames bins"]:
    """Phases that make each spectral peak a steady partial, in radians, window-centred.

    A bin has the frequency of its nearest peak, which is refined by the slope of the log amplitude
    as for a Gaussian window. Phases accumulate along the circle; a small correction of the
    frequency closes it. A bin's phase is zero where the bin is loudest, so no phase depends on a
    position in the loop: rotating the frames rotates the phases.

    References:
        Průša et al., A noniterative method for reconstruction of phase from STFT magnitude, 2017,
        equation 10; Laroche & Dolson, Improved phase vocoder time-scale modification of audio,
        1999, for the locking.
    """
    bins = amplitudes.shape[-1]
    k = torch.arange(bins, device=amplitudes.device)
    level = amplitudes.log()
    slope = torch.zeros_like(level)
    slope[..., 1:-1] = (level[..., 2:] - level[..., :-2]) / 2
    offset = (PARABOLA * slope).clamp(-2, 2)
    peak = torch.zeros_like(level, dtype=torch.bool)
    peak[..., 1:-1] = (level[..., 1:-1] > level[..., 2:]) & (level[..., 1:-1] >= level[..., :-2])
    below = torch.where(peak, k, 0).cummax(-1).values
    above = torch.where(peak, k, bins - 1).flip(-1).cummin(-1).values.flip(-1)
    nearest = torch.where(k - below <= above - k, below, above)
    # In turns per hop, and in double precision, so that sums over long loops stay exact.
    turns = hop * (nearest + offset.gather(-1, nearest).double()) / window
    step = (turns + turns.roll(-1, 1)) / 2
    missing = step.sum(1, keepdim=True)
    step = step - (missing - missing.round()) / step.shape[1]
    phase = step.cumsum(1).roll(1, 1)
    phase[:, 0] = 0
    phase = phase - phase.gather(1, amplitudes.argmax(1, keepdim=True))
    # Zero at the centre of the window: neighbouring bins alternate when counted from its start.
    return (2 * math.pi * (phase - phase.floor() + k / 2)).float()


def _to_frames(x: Tensor, window: int, hop: int) -> Tensor:
    return circular_stft(x, window, hop).mT


def _from_frames(spectrum: Tensor, window: int, hop: int) -> Tensor:
    return circular_istft(spectrum.mT, window, hop)
