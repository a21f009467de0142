"""What the audio VAE sees of a frame of a loop: amplitudes at two windows, and how tonal bands are.

    loop -> log |STFT|, window of 16 hops: resolves partials
         -> log |STFT|, window of 4 hops: resolves attacks
         -> tonality of 8 bands: tells a steady tone from noise

Everything is circular: rotating the loop by a hop rotates the frames by one.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from techloop.audio.spectral import circular_stft, wrap

LONG, MIDDLE, SHORT = 16, 8, 4  # windows, in hops: at 16 kHz 8, 16 and 31 Hz per bin
LOG_FLOOR = 1e-3  # epsilon of log amplitudes (unscaled: a full-scale sine has window / 4)
SMOOTH_BINS = 31  # finer details of a spectrum than its running mean over these are fine structure
BANDS = 8  # of equal width, whose tonality is measured
POOLED_FRAMES = 9  # as many as a middle window spans, over which the tonality is averaged
DETAIL_FLOOR = 1e-2  # mean square of log amplitudes; where details are smaller, nothing is tonal


def values_per_frame(hop: int) -> int:
    """Numbers per frame: log amplitudes of the long and of the short window, and tonalities."""
    return (LONG * hop // 2 + 1) + (SHORT * hop // 2 + 1) + BANDS


def split_values(values: Float[Tensor, "b v frames"]) -> tuple[Tensor, Tensor, Tensor]:
    """The parts: log amplitudes of the long window, those of the short one, and tonalities."""
    short = (values.shape[1] - BANDS - 2) * SHORT // (LONG + SHORT) + 1
    long = values.shape[1] - BANDS - short
    return values[:, :long], values[:, long:-BANDS], values[:, -BANDS:]


def frame_values(x: Float[Tensor, "b samples"], hop: int) -> Float[Tensor, "b v frames"]:
    """Log amplitudes of loops, `log(|STFT| + 1e-3)` (Hann, unscaled), and their `band_tonality`.

    Args:
        x: loops of whole hops.
        hop: samples per frame; frame t is centred on sample `t * hop`.

    Raises:
        ValueError: the loops are not a whole number of hops long.
    """
    long, middle, short = (
        (circular_stft(x, window * hop, hop).abs() + LOG_FLOOR).log()
        for window in (LONG, MIDDLE, SHORT)
    )
    return torch.cat([long, short, band_tonality(middle)], 1)


def fine_structure(spectrum: Float[Tensor, "b bins frames"]) -> Float[Tensor, "b bins frames"]:
    """A log spectrum minus its running mean over `SMOOTH_BINS` bins."""
    smooth = F.avg_pool1d(spectrum.mT, SMOOTH_BINS, 1, SMOOTH_BINS // 2, count_include_pad=False).mT
    return spectrum - smooth


def band_tonality(spectrum: Float[Tensor, "b bins frames"]) -> Float[Tensor, "b bands frames"]:
    """How tonal each of 8 bands is: about 1 for steady partials, about 0 for noise.

    The correlation, over the bins of a band and some neighbouring frames, of the fine structure
    half a window before a frame with that half a window after it. The two windows do not overlap,
    so noise has another fine structure in each, and a tone the same.

    Args:
        spectrum: log amplitudes of the middle window.
    """
    fine = fine_structure(spectrum)[:, :-1].unflatten(1, (BANDS, -1))
    before, after = fine.roll(MIDDLE // 2, -1), fine.roll(-MIDDLE // 2, -1)
    product, *squares = (
        _pooled((a * b).mean(2)) for a, b in ((before, after), (before, before), (after, after))
    )
    return product / ((squares[0] * squares[1]).sqrt() + DETAIL_FLOOR)


def _pooled(x: Float[Tensor, "b bands frames"]) -> Float[Tensor, "b bands frames"]:
    """Means over `POOLED_FRAMES` frames around the circle."""
    return F.avg_pool1d(wrap(x, POOLED_FRAMES // 2, POOLED_FRAMES // 2), POOLED_FRAMES, 1)
