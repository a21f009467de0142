"""DC offset and loudness of loops."""

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from pyloudnorm import Meter

PEAK = 0.99  # the highest sample a normalised loop may have


def remove_dc(x: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """A loop without its mean: a constant is inaudible, but it takes headroom and can click."""
    centred: np.ndarray = x - x.mean(dtype=np.float64).astype(x.dtype)
    return centred


@functools.cache
def _meter(sample_rate_hz: int) -> "Meter":
    """A loudness meter, cached: designing its filters costs more than using them."""
    from pyloudnorm import Meter  # a late import, as it takes a second or two

    return Meter(sample_rate_hz)


def loop_loudness_lufs(x: Float[np.ndarray, " samples"], sample_rate_hz: int) -> float:
    """Integrated loudness of a loop that repeats, in LUFS; -inf where it is silent.

    Gating blocks (400 ms, three quarters overlapping) wrap around, so that all samples count
    alike, and a loop shorter than a block has a loudness too.

    References:
        ITU-R BS.1770-4, by pyloudnorm.
    """
    # At least 1.2 s, so that the transient of the filters does not matter.
    once = math.ceil(1.2 * sample_rate_hz / len(x)) * len(x)
    circle = np.resize(x, once + round(0.3 * sample_rate_hz))
    return float(_meter(sample_rate_hz).integrated_loudness(circle))


def loudness_gain_db(peak: float, loudness_lufs: float, target_lufs: float) -> float:
    """The gain in dB that brings a loop to `target_lufs`, less where its peak would exceed `PEAK`.

    Args:
        peak: the largest magnitude of a sample, above 0.
        loudness_lufs: of the loop as it is.
        target_lufs: of the loop as it should be.
    """
    return min(target_lufs - loudness_lufs, 20 * math.log10(PEAK / peak))
