"""Offset and loudness of loops."""

import functools
import math
from typing import Any

import numpy as np
from jaxtyping import Float

PEAK = 0.99  # the highest sample a normalised loop may have


def remove_dc(x: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """Around zero: a constant is inaudible, but it takes headroom and clicks where it ends."""
    return x - x.mean(dtype=np.float64).astype(x.dtype)


@functools.cache
def _meter(sample_rate_hz: int) -> Any:
    """One meter a rate: designing its filters costs more than using them."""
    import pyloudnorm  # a second or two, which those who only read and write shall not wait for

    return pyloudnorm.Meter(sample_rate_hz)


def loop_loudness_lufs(x: Float[np.ndarray, " samples"], sample_rate_hz: int) -> float:
    """Integrated loudness of a loop as heard when it repeats, in LUFS; -inf where it is silent.

    Gating blocks (400 ms, three quarters overlapping) wrap around, so that no place counts less
    for being near the edge, and a loop shorter than a block has a loudness too.

    References:
        ITU-R BS.1770-4, by pyloudnorm.
    """
    # 1.2 s at least, beside which the start of the filters does not count.
    once = math.ceil(1.2 * sample_rate_hz / len(x)) * len(x)
    circle = np.resize(x, once + round(0.3 * sample_rate_hz))
    return float(_meter(sample_rate_hz).integrated_loudness(circle))


def loudness_gain_db(peak: float, loudness_lufs: float, target_lufs: float) -> float:
    """The gain that reaches a loudness, or as much of it as leaves the peak at `PEAK`, in dB."""
    return min(target_lufs - loudness_lufs, 20 * math.log10(PEAK / peak))
