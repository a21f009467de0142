"""How close loops come to their originals: distances of spectra, detail, chords, descriptors."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool1d

from techloop.audio.descriptors import FRAME_DESCRIPTORS, LABELS, frame_descriptors
from techloop.audio.spectral import chroma_filterbank, circular_stft, log_mel, whole_hop
from techloop.evaluation.features import FLOOR_DB
from techloop.evaluation.metrics.units import DIFFERENCE_UNITS
from techloop.grid import Grid
from techloop.metric import Metric
from techloop.training.losses import WINDOWS, linear_distance, log_distance

REPORTED_WINDOW = 2048  # of the spectral distance at one window
FINE_WINDOW, FINE_SMOOTH, FINE_BINS = 2048, 31, slice(5, 500)
CHROMA_WINDOW = 4096
AUDIBLE_LUFS = -60.0
# Sums over detail that `summarise` correlates; all other errors are averaged over loops.
DETAIL_MOMENTS = ("detail_power", "detail_power_of_guess", "detail_product")

GUESSES = ("silence", "noise", "other_loop")  # baselines that know less than a reconstruction
_BASELINES = ("before", *GUESSES)

SPECTRAL_DISTANCE = Metric(
    "spectral_distance", "spectral distance", better="lower", baselines=_BASELINES
)
MULTI_LOG = Metric("multi_log", "log distance, five windows", better="lower", baselines=_BASELINES)
MULTI_LIN = Metric(
    "multi_lin", "linear distance, five windows", better="lower", baselines=_BASELINES
)
LOG_MEL = Metric("log_mel_l1_db", "log-mel error", "dB", better="lower", baselines=_BASELINES)
CHROMA_SIMILARITY = Metric(
    "chroma_similarity", "chroma similarity", better="higher", baselines=_BASELINES
)
DESCRIPTOR_ERROR = Metric("error", "error", better="lower", baselines=_BASELINES)
FINE_STRUCTURE = Metric("fine_structure", "fine structure", better="higher", baselines=_BASELINES)
METRICS = (
    SPECTRAL_DISTANCE,
    MULTI_LOG,
    MULTI_LIN,
    LOG_MEL,
    CHROMA_SIMILARITY,
    *(DESCRIPTOR_ERROR.of(n, LABELS[n], DIFFERENCE_UNITS[n]) for n in FRAME_DESCRIPTORS),
    FINE_STRUCTURE,
)


def reconstruction_metrics(
    x: Float[Tensor, "n samples"], y: Float[Tensor, "m others"], grid: Grid
) -> dict[str, float]:
    """How far loops `y` are from the originals `x`: the values of `METRICS`, see `summarise`.

    Raises:
        ValueError: `x` and `y` differ in shape, or are not loops (see `frame_descriptors`).
    """
    if x.shape != y.shape:
        raise ValueError(f"loops of shape {tuple(x.shape)} against {tuple(y.shape)}")
    return summarise(loop_errors(comparison_features(x, grid), comparison_features(y, grid)))


def summarise(per_loop: Mapping[str, Float[Tensor, " n"]]) -> dict[str, float]:
    """Means over loops of what `loop_errors` gives; 0 is best except where it says 1.

    * `spectral_distance`: mean |log(a + eps) - log(b + eps)| of STFT amplitudes at one window of
      2,048; the loss of Demerlé & Caillon, as a mean over bins.
    * `multi_log`, `multi_lin`: `losses.log_distance` and `losses.linear_distance` of each loop,
      means over the five windows of `losses.WINDOWS`.
    * `log_mel_l1_db`: mean absolute difference of mel levels above -80 dB re full scale, in dB.
    * `chroma_similarity`: cosine of the power of the twelve pitch classes (window 4,096), frame by
      frame, mean weighted by the original's power: 1 where chords and tuning are preserved. Another
      loop has some as well, as its bass may be in tune. Silence has no chroma: nan for a silent
      original, 0 for a silent guess.
    * `error_<descriptor>`: mean absolute difference of a frame descriptor, in its unit, over the
      frames in which the original has -60 LUFS or more (the centroid of near silence means
      nothing). Loops without such a frame are left out; nan if all are.
    * `fine_structure`: are harmonics reproduced (1) or only envelopes (0)? The correlation, over
      all loops, of log spectra (window 2,048, eps 1e-3) minus their running mean over 31 bins,
      over the bins 5 to 499. 0 where one side has no detail, as silence.

    References:
        Défossez et al., SING, 2018, equation 5; Caillon & Esling, RAVE, 2021, equation 4;
        Demerlé & Caillon, A hierarchical approach to techno loop generation.
    """
    values = {
        name: float(error.nanmean())
        for name, error in per_loop.items()
        if name not in DETAIL_MOMENTS
    }
    moments = np.stack([per_loop[name].numpy() for name in DETAIL_MOMENTS], 1)
    values["fine_structure"] = float(fine_structure(moments, np.ones((1, len(moments)), int))[0])
    return values


def fine_structure(
    moments: Float[np.ndarray, "n three"], counts: Int[np.ndarray, "times n"]
) -> Float[np.ndarray, " times"]:
    """The correlation of detail over loops, see `summarise`; a `Statistic` of `DETAIL_MOMENTS`."""
    weights = counts / counts.sum(1, keepdims=True)
    xx, yy, xy = (weights @ moments.astype(np.float64)).T
    # The detail of a flat spectrum is rounding error, about 1e-6.
    flat = np.minimum(xx, yy) <= 1e-8
    values: np.ndarray = np.where(flat, 0.0, xy / np.sqrt(np.where(flat, 1, xx * yy)))
    return values


def comparison_features(x: Float[Tensor, "n samples"], grid: Grid) -> dict[str, Tensor]:
    """Features by which loops are compared.

    Returns:
        `(n, bins, frames)` amplitudes per window (`amplitude_<window>`), mel levels in dB
        (`log_mel_l1_db`), fine detail of the log spectrum (`detail`; frames before bins), power
        per pitch class (`chroma`); `(n, frames)` frame descriptors by their names.
    """
    features = {f"amplitude_{w}": _amplitude(x, w) for w in WINDOWS}
    features["log_mel_l1_db"] = log_mel(x, grid.sample_rate_hz, hop=grid.hop, floor_db=FLOOR_DB)
    reach = FINE_BINS.stop + FINE_SMOOTH  # higher bins do not count
    spectrum = (features[f"amplitude_{FINE_WINDOW}"][:, :reach] + 1e-3).log().transpose(1, 2)
    smooth = avg_pool1d(spectrum, FINE_SMOOTH, 1, FINE_SMOOTH // 2, count_include_pad=False)
    features["detail"] = (spectrum - smooth)[..., FINE_BINS]
    power = _amplitude(x, CHROMA_WINDOW).square()
    features["chroma"] = chroma_filterbank(grid.sample_rate_hz, CHROMA_WINDOW) @ power
    return features | frame_descriptors(x, grid.sample_rate_hz, grid.hop)


def loop_errors(
    original: Mapping[str, Tensor], guess: Mapping[str, Tensor]
) -> dict[str, Float[Tensor, " n"]]:
    """Errors of each loop by metric, and its `DETAIL_MOMENTS`.

    Args:
        original, guess: `comparison_features` of as many loops each.
    """
    a, b = original, guess
    pairs = [
        (torch.split(a[f"amplitude_{w}"], 1), torch.split(b[f"amplitude_{w}"], 1)) for w in WINDOWS
    ]
    log = torch.stack([torch.stack(list(map(log_distance, *pair))) for pair in pairs])
    linear = torch.stack([torch.stack(list(map(linear_distance, *pair))) for pair in pairs])
    moments = (
        a["detail"].square().mean((1, 2)),
        b["detail"].square().mean((1, 2)),
        (a["detail"] * b["detail"]).mean((1, 2)),
    )
    errors = {
        "spectral_distance": log[WINDOWS.index(REPORTED_WINDOW)],
        "multi_log": log.mean(0),
        "multi_lin": linear.mean(0),
        "log_mel_l1_db": (a["log_mel_l1_db"] - b["log_mel_l1_db"]).abs().mean((1, 2)),
        "chroma_similarity": _chroma_similarity(a["chroma"], b["chroma"]),
        **dict(zip(DETAIL_MOMENTS, moments, strict=True)),
    }
    audible = a["loudness_db"] >= AUDIBLE_LUFS
    for name in FRAME_DESCRIPTORS:
        difference = (a[name] - b[name]).abs()
        errors[f"error_{name}"] = torch.where(audible, difference, torch.nan).nanmean(1)
    return errors


def _chroma_similarity(
    original: Float[Tensor, "n classes frames"], guess: Float[Tensor, "n classes frames"]
) -> Float[Tensor, " n"]:
    """Cosine of the power of pitch classes, mean over frames weighted by the original's power."""
    product = (original * guess).sum(1)
    cosine = product / (original.norm(dim=1) * guess.norm(dim=1)).clamp_min(1e-12)
    weight = original.sum(1)
    mean: Tensor = (cosine * weight).sum(1) / weight.sum(1)
    return mean


def _amplitude(x: Float[Tensor, "n samples"], window: int) -> Float[Tensor, "n bins frames"]:
    spectrum = circular_stft(x, window, whole_hop(x.shape[1], window))
    return (spectrum.real.square() + spectrum.imag.square()).sqrt()
