"""Tonality of the high band: is what one hears above 3 kHz noise, as of hats, or tones."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool1d

from techloop.audio.spectral import circular_stft
from techloop.evaluation.metrics.bootstrap import Estimate, bootstrap, mean
from techloop.grid import Grid
from techloop.metric import Metric

WINDOW = 1024  # samples
SMOOTH = 31  # bins of the running mean
RANGE_HZ = (3000.0, 8000.0)
AUDIBLE_DB = -58.0  # mean power of the band's bins, re that of a full-scale sine in its bin
EPSILON = 1e-3  # added to amplitudes, whose scale is that of `circular_stft`

NOISY_BELOW, TONAL_ABOVE = 0.05, 0.4
FEWEST = 5  # loops that a correlation, or a mean over noisy or tonal ones, takes

_BASELINES = ("before", "noise", "other_loop")
TONALITY_CORRELATION = Metric(
    "tonality_correlation",
    "tonality above 3 kHz, correlation with the originals'",
    better="higher",
    baselines=_BASELINES,
)
# Best at the originals' value.
TONALITY_NOISY = Metric(
    "tonality_noisy",
    "tonality above 3 kHz where the original is noise",
    better="lower",
    baselines=(*_BASELINES, "original"),
)
TONALITY_TONAL = Metric(
    "tonality_tonal",
    "tonality above 3 kHz where the original is tonal",
    better="higher",
    baselines=(*_BASELINES, "original"),
)
METRICS = (TONALITY_CORRELATION, TONALITY_NOISY, TONALITY_TONAL)


def tonality(x: Float[Tensor, "n samples"], grid: Grid) -> Float[Tensor, " n"]:
    """How steady the fine structure of each loop is from 3 to 8 kHz: noise about 0, steady tones 1.

    The fine structure is the log amplitude spectrum (window 1,024, a frame per hop, eps 1e-3) less
    its running mean over 31 bins, in the bins from 3 kHz up to 8 kHz or half the sample rate. Two
    frames one window apart share no sample; the cosine of their fine structures says whether the
    same lines stand in both. Tonality is its mean around the circle over the pairs in which both
    frames are audible: mean power of the band's bins at least `AUDIBLE_DB`.

    Noise has no lines that stay. Tones that are shorter than two windows (128 ms at 16 kHz), or
    glide, count as noise.

    Returns:
        Between -1 and 1; nan for a loop without an audible pair. Rotating a loop by whole hops
        does not change it, and a louder loop differs only by what becomes audible.

    Raises:
        ValueError: see `frame_tonality`.
    """
    values: Tensor = frame_tonality(x, grid).nanmean(1)
    return values


def frame_tonality(x: Float[Tensor, "n samples"], grid: Grid) -> Float[Tensor, "n frames"]:
    """The cosine of each frame's fine structure with that of the frame one window later.

    Returns:
        Between -1 and 1; nan where one of the two frames is not audible. See `tonality`.

    Raises:
        ValueError: a sample rate whose half is 3 kHz or less, or a loop of fewer than four windows.
    """
    lag = -(-WINDOW // grid.hop)  # one window, in whole hops
    low, high = (int(hz * WINDOW / grid.sample_rate_hz) for hz in RANGE_HZ)
    band = slice(low, min(high, WINDOW // 2))
    if band.start >= band.stop:
        raise ValueError(
            f"a sample rate of {grid.sample_rate_hz} Hz has no band from {RANGE_HZ[0]:g} Hz on"
        )
    if x.shape[-1] < 4 * WINDOW:
        raise ValueError(f"tonality takes loops of {4 * WINDOW} samples, got {x.shape[-1]}")
    amplitude = circular_stft(x, WINDOW, grid.hop).abs().mT
    spectrum = (amplitude + EPSILON).log()
    smooth = avg_pool1d(spectrum, SMOOTH, 1, SMOOTH // 2, count_include_pad=False)
    detail = (spectrum - smooth)[..., band]
    norm, later = detail.norm(dim=2), detail.roll(-lag, 1)
    cosine = (detail * later).sum(2) / (norm * norm.roll(-lag, 1)).clamp_min(1e-6)
    power_db = 10 * (amplitude[..., band].square().mean(2) / (WINDOW / 4) ** 2).log10()
    audible = power_db >= AUDIBLE_DB
    values: Tensor = torch.where(audible & audible.roll(-lag, 1), cosine, torch.nan)
    return values


def tonality_scores(
    original: Float[np.ndarray, " n"], reconstruction: Float[np.ndarray, " m"], *, seed: int = 0
) -> dict[Metric, Estimate]:
    """Do reconstructions have tones where their originals do, and noise where these have noise?

    Args:
        original, reconstruction: `tonality` of the same loops. A loop without a value of one of
            them is left out.
        seed: of the bootstrap over loops.

    Returns:
        `TONALITY_CORRELATION`: Pearson's, between originals and reconstructions over loops.
        `TONALITY_NOISY`, `TONALITY_TONAL`: mean of the reconstructions whose original is below
        0.05, and above 0.4. Each is nan where it is of fewer than five loops, the correlation also
        where all loops have one value.

    Raises:
        ValueError: they are not of the same loops.
    """
    if original.shape != reconstruction.shape:
        raise ValueError(
            f"tonality of {len(original)} originals against {len(reconstruction)} reconstructions"
        )
    pairs = np.stack([original, reconstruction], 1).astype(np.float64)
    pairs = pairs[np.isfinite(pairs).all(1)]
    undefined = Estimate(np.nan, np.nan)

    def score(rows: np.ndarray, of_both: bool) -> Estimate:
        if len(rows) < FEWEST:
            return undefined
        if of_both:
            return bootstrap(rows, correlation, seed=seed)
        return bootstrap(rows[:, 1], mean, seed=seed)

    return {
        TONALITY_CORRELATION: score(pairs, True),
        TONALITY_NOISY: score(pairs[pairs[:, 0] < NOISY_BELOW], False),
        TONALITY_TONAL: score(pairs[pairs[:, 0] > TONAL_ABOVE], False),
    }


def correlation(
    pairs: Float[np.ndarray, "n two"], counts: Int[np.ndarray, "times n"]
) -> Float[np.ndarray, " times"]:
    """Pearson's correlation of two values per loop, a `Statistic`; nan where one is constant."""
    weights = counts / counts.sum(1, keepdims=True)
    x, y = (pairs - pairs.mean(0)).T
    xy = weights @ (x * y) - (weights @ x) * (weights @ y)
    xx, yy = (weights @ v**2 - (weights @ v) ** 2 for v in (x, y))
    constant = np.minimum(xx, yy) <= 1e-12
    values: np.ndarray = np.where(constant, np.nan, xy / np.sqrt(np.where(constant, 1, xx * yy)))
    return values
