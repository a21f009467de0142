"""Disentanglement: does each code follow one ground-truth factor, and each factor one code?"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from sklearn.ensemble import RandomForestRegressor

from techloop.metric import Metric

BINS = 8  # of equal counts, for mutual information
TREES = 100
DCI_ROWS = 20  # the fewest that a forest is fitted to

MIG = Metric("mig", "mutual information gap", better="higher", baselines=("rotated",))
DCI_SCORE = Metric("dci", "DCI", better="higher", baselines=("rotated",))  # per field of `DCI`


def mutual_information_gap(
    codes: Float[np.ndarray, "n d"], factors: Float[np.ndarray, "n k"]
) -> float:
    """How much more the best code tells of a factor than the second best, 0 to 1 (1: one alone).

    Mean over factors of the difference of the two mutual informations, over the factor's entropy.
    Codes are cut into `BINS` of equal counts, and so are factors with more values than that.
    Factors that are constant or have undefined rows are left out. nan where no factor is left,
    where there is only one code, or fewer rows than `BINS` squared.

    References:
        Chen et al., Isolating sources of disentanglement in VAEs, 2018, equation 6.
    """
    n, d = codes.shape
    usable = _usable(factors)
    if d < 2 or n < BINS**2 or not usable.any():
        return float("nan")
    binned = [_one_hot(column) for column in codes.T]
    gaps = []
    for factor in factors[:, usable].T:
        states = _one_hot(factor)
        share = states.mean(0)
        entropy = -(share * np.log(share)).sum()
        information = np.sort([_mutual_information(code, states) for code in binned])
        gaps.append((information[-1] - information[-2]) / entropy)
    return float(np.mean(gaps))


class DCI(NamedTuple):
    """Three scores from 0 to 1 (1: best).

    Attributes:
        disentanglement: does a code count for one factor alone.
        completeness: does a factor rest on one code alone.
        informativeness: mean R² on rows out of the bag, negative ones as 0.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def dci(codes: Float[np.ndarray, "n d"], factors: Float[np.ndarray, "n k"], seed: int) -> DCI:
    """Disentanglement, completeness and informativeness.

    A random forest predicts each factor from all codes; how much each code counts in it is the
    importance R. Disentanglement and completeness are 1 - entropy of R over factors and over codes,
    the former weighted by how much each code counts. Factors that are constant or have undefined
    rows are left out. All nan where fewer than two factors or codes are left, or there are fewer
    than `DCI_ROWS` rows.

    References:
        Eastwood & Williams, A framework for the quantitative evaluation of disentangled
        representations, 2018, section 2.
    """
    usable = _usable(factors)
    if codes.shape[1] < 2 or usable.sum() < 2 or len(codes) < DCI_ROWS:
        return DCI(float("nan"), float("nan"), float("nan"))
    importance, scores = [], []
    for factor in factors[:, usable].T:
        forest = RandomForestRegressor(TREES, oob_score=True, random_state=seed)
        forest.fit(codes, (factor - factor.mean()) / factor.std())
        importance.append(forest.feature_importances_)
        scores.append(max(forest.oob_score_, 0.0))
    r = np.stack(importance, 1) + 1e-12
    d, k = r.shape
    by_code, by_factor = r / r.sum(1, keepdims=True), r / r.sum(0)
    per_code = 1 + (by_code * np.log(by_code)).sum(1) / np.log(k)
    per_factor = 1 + (by_factor * np.log(by_factor)).sum(0) / np.log(d)
    disentanglement = np.average(per_code, weights=r.sum(1))
    return DCI(float(disentanglement), float(per_factor.mean()), float(np.mean(scores)))


def _usable(factors: Float[np.ndarray, "n k"]) -> Bool[np.ndarray, " k"]:
    """Which factors are defined in all rows and vary."""
    usable: np.ndarray = np.isfinite(factors).all(0) & (np.ptp(np.nan_to_num(factors), axis=0) > 0)
    return usable


def _one_hot(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n states"]:
    """The bin of each value among `BINS` of equal counts, or its own state; none is empty."""
    states = np.unique(values, return_inverse=True)[1]
    if states.max() >= BINS:
        edges = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])
        states = np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1]
    return np.eye(states.max() + 1)[states]


def _mutual_information(a: Float[np.ndarray, "n s"], b: Float[np.ndarray, "n t"]) -> float:
    """In nats, of two variables given as one-hot rows."""
    joint = a.T @ b / len(a)
    independent = np.outer(joint.sum(1), joint.sum(0))
    return float((joint * np.log(np.where(joint > 0, joint / independent, 1))).sum())
