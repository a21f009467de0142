"""What a linear probe reads from latents; no loop is on both sides of a cross-validation."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from techloop.metric import Metric

FOLDS = 5
RIDGE_ALPHAS = np.logspace(-2, 4, 13)

PROBE_R2 = Metric("probe_r2", "R² of a linear probe", better="higher")  # per frame descriptor
MEAN_PROBE_R2 = Metric("mean_probe_r2", "mean R² of linear probes", better="higher")
FACTOR_R2 = Metric("factor_r2", "R² of a linear probe", better="higher")  # per ground-truth factor
MEAN_FACTOR_R2 = Metric(
    "mean_factor_r2", "mean R² of linear probes, ground-truth factors", better="higher"
)


def ridge_probe(
    features: Float[np.ndarray, "n f"],
    targets: Float[np.ndarray, "n k"],
    groups: Int[np.ndarray, " n"],
) -> Float[np.ndarray, " k"]:
    """R² of a ridge regression on rows of groups it has not seen, pooled over `FOLDS` folds.

    1: all of a target's variance can be read linearly; 0 or less: no better than its mean. The
    penalty is chosen within each training part. nan for a constant target, which has no variance
    to explain, and for all where there are fewer groups than folds.

    References:
        Alain & Bengio, Understanding intermediate layers using linear classifier probes, 2016.
    """
    if len(np.unique(groups)) < FOLDS:
        return np.full(targets.shape[1], np.nan)
    predicted = np.empty(targets.shape)
    for train, test in GroupKFold(FOLDS).split(features, groups=groups):
        model = make_pipeline(StandardScaler(), RidgeCV(RIDGE_ALPHAS, alpha_per_target=True))
        scale = StandardScaler().fit(targets[train])
        model.fit(features[train], scale.transform(targets[train]))
        predicted[test] = scale.inverse_transform(
            model.predict(features[test]).reshape(len(test), -1)
        )
    error = ((targets - predicted) ** 2).sum(0)
    total = ((targets - targets.mean(0)) ** 2).sum(0)
    constant = targets.std(0) <= 1e-9 * (1 + np.abs(targets).max(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(constant, np.nan, 1 - error / total)


def frame_probe(
    mu: Float[np.ndarray, "n d t"], curves: Float[np.ndarray, "n k t"]
) -> Float[np.ndarray, " k"]:
    """R² of a probe from the latents of a frame to each curve's value in it; groups are loops."""
    groups = np.repeat(np.arange(len(mu)), mu.shape[2])
    return ridge_probe(_frames(mu), _frames(curves), groups)


def factor_probe(mu: Float[np.ndarray, "n d t"], factor: Float[np.ndarray, " n"]) -> float:
    """R² of a probe from a loop's latents, as `loop_codes`, to one value of the loop.

    Loops without the value (nan) are left out; nan for fewer than twice `FOLDS` with it.
    """
    defined = np.isfinite(factor)
    if defined.sum() < 2 * FOLDS:
        return float("nan")
    features = loop_codes(mu)[defined]
    return float(ridge_probe(features, factor[defined][:, None], np.arange(defined.sum()))[0])


def mean_r2(values: Iterable[float]) -> float:
    """Mean of R², negative ones as 0 and undefined ones left out; nan where all are undefined."""
    defined = [max(v, 0.0) for v in values if np.isfinite(v)]
    return float(np.mean(defined)) if defined else float("nan")


def loop_codes(mu: Float[np.ndarray, "n d t"]) -> Float[np.ndarray, "n e"]:
    """A loop's latents as one row: mean and deviation over time, each standardised over loops."""
    codes = np.concatenate([mu.mean(2), mu.std(2)], 1).astype(np.float64)
    deviation = codes.std(0)
    standardised: np.ndarray = (codes - codes.mean(0)) / np.where(deviation > 0, deviation, 1)
    return standardised


def _frames(values: Float[np.ndarray, "n c t"]) -> Float[np.ndarray, "frames c"]:
    """One row per frame."""
    return values.transpose(0, 2, 1).reshape(-1, values.shape[1]).astype(np.float64)
