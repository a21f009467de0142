"""Which latent dimension moves with which descriptor, and what a linear probe reads from all.

Frames of one loop are not independent, loops are: intervals come from a bootstrap over loops, and
no loop is on both sides of a cross-validation.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import stats
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from techloop.artifacts import atomic_folder, write_json
from techloop.audio.descriptors import LABELS, frame_descriptors
from techloop.data.datasets import LatentDataset, LoopDataset
from techloop.reporting.plots import correlation_heatmap, probe_bars

FALSE_DISCOVERY_RATE = 0.05
CONFIDENCE = 0.95
FOLDS = 5
BINS = 8  # of equal counts, for mutual information
TREES = 100
RIDGE_ALPHAS = np.logspace(-2, 4, 13)
BATCH = 32


@dataclass(frozen=True)
class Correlation:
    """Correlations of dimensions (rows) with descriptors (columns).

    Attributes:
        value: the coefficient, nan where one of the two is constant.
        low, high: ends of the 95 % percentile interval of the bootstrap; nan of two loops.
        p: two-sided p-value of no correlation; nan of two loops.
    """

    value: Float[np.ndarray, "d k"]
    low: Float[np.ndarray, "d k"]
    high: Float[np.ndarray, "d k"]
    p: Float[np.ndarray, "d k"]


@torch.inference_mode()
def evaluate_descriptors(
    loops: LoopDataset,
    latents: LatentDataset,
    folder: str | Path,
    *,
    loops_used: int,
    bootstrap: int,
    seed: int,
) -> dict[str, float]:
    """Correlations of VAE 1's posterior means with descriptors, and probes, in `folder`.

    Args:
        loops: the test split.
        latents: of the same split: row by row the same loops.
        folder: is replaced; gets metrics.json, items.json, correlations.csv, probes.csv, PNGs.
        loops_used: at most so many loops, drawn by `seed`.
        bootstrap: resamples of the loops.
        seed: of the draws.

    Returns:
        What metrics.json holds: `spearman_<descriptor>`, the strongest of any dimension with its
        sign; `significant_share` of all pairs; `probe_r2_<descriptor>` of all dimensions together;
        `factor_r2_<factor>` where ground truth exists; means of the three over their kind; with
        ground truth also `mig` and the three of `dci`, of what a loop's latents are on average and
        how much they move, and of the same after a random rotation (`rotated_`), which mixes all.
        Two loops have no significance, and fewer than `FOLDS` no R² (of a factor: fewer than twice
        as many): nan.

    Raises:
        ValueError: the two are not of the same loops, or fewer than two.
    """
    if loops.index["loop_id"].tolist() != latents.index["loop_id"].tolist():
        raise ValueError(
            f"{latents.folder} is not of the loops in {loops.folder}: their indices differ. "
            "`dvc repro` extracts them again."
        )
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(loops))[:loops_used])
    audio = torch.from_numpy(loops.audio(rows))
    parts = [
        frame_descriptors(b, loops.grid.sample_rate_hz, loops.grid.hop) for b in audio.split(BATCH)
    ]
    names = list(parts[0])
    values = np.stack([torch.cat([p[n] for p in parts]).numpy() for n in names], 1)
    mu = latents.mu[torch.from_numpy(rows)].numpy()

    spearman = loop_correlation(ranked(mu), ranked(values), bootstrap=bootstrap, rng=rng)
    pearson = loop_correlation(mu, values, bootstrap=bootstrap, rng=rng)
    q = benjamini_hochberg(spearman.p)
    significant = q < FALSE_DISCOVERY_RATE
    groups = np.repeat(np.arange(len(rows)), mu.shape[2])
    probe = dict(zip(names, ridge_probe(_frames(mu), _frames(values), groups), strict=True))
    table = loops.index.iloc[rows]
    factors = {
        column.removeprefix("factor_"): factor_probe(mu, table[column].to_numpy(float))
        for column in table.columns
        if column.startswith("factor_")
    }

    strongest = np.nanmax(np.abs(np.nan_to_num(spearman.value)), 0)
    at = np.abs(np.nan_to_num(spearman.value)).argmax(0)
    metrics = {"loops": float(len(rows)), "mean_strongest_spearman": float(strongest.mean())}
    metrics |= {f"spearman_{n}": float(spearman.value[at[j], j]) for j, n in enumerate(names)}
    untested = np.isnan(q).all()
    metrics["significant_share"] = float("nan") if untested else float(significant.mean())
    metrics["mean_probe_r2"] = _mean(probe)
    metrics |= {f"probe_r2_{n}": v for n, v in probe.items()}
    if factors:
        metrics["mean_factor_r2"] = _mean(factors)
        metrics |= {f"factor_r2_{n}": v for n, v in factors.items()}

        codes, truth = _codes(mu), table.filter(regex="^factor_").to_numpy(float)
        turn = stats.ortho_group.rvs(codes.shape[1], random_state=rng) if codes.shape[1] > 1 else 1
        for prefix, code in (("", codes), ("rotated_", codes @ turn)):
            metrics[f"{prefix}mig"] = mutual_information_gap(code, truth)
            metrics |= {f"{prefix}dci_{n}": v for n, v in dci(code, truth, seed).items()}

    order = readable_order(spearman.value)
    panels = {"frame descriptors": {LABELS[n]: v for n, v in probe.items()}}
    if factors:
        panels["ground-truth factors of a loop"] = {
            n.replace("_", " "): v for n, v in factors.items()
        }
    with atomic_folder(folder) as new:
        correlation_heatmap(
            new / "correlations.png",
            spearman.value[order],
            significant[order],
            [f"z{d}" for d in order],
            [LABELS[n] for n in names],
            "Spearman correlation",
        )
        probe_bars(new / "probes.png", panels)
        probes = [{"kind": "descriptor", "name": n, "r2": v} for n, v in probe.items()]
        probes += [{"kind": "factor", "name": n, "r2": v} for n, v in factors.items()]
        _write_table(new / "correlations.csv", _table(spearman, pearson, q, names))
        _write_table(new / "probes.csv", probes)
        write_json(new / "items.json", _items(len(rows), bool(factors)))
        write_json(new / "metrics.json", metrics)
    return metrics


def ranked(values: Float[np.ndarray, "n c t"]) -> Float[np.ndarray, "n c t"]:
    """Each channel's values replaced by their ranks among all loops' frames; ties share a rank."""
    n, c, t = values.shape
    ranks = stats.rankdata(values.transpose(1, 0, 2).reshape(c, n * t), axis=1)
    return ranks.reshape(c, n, t).transpose(1, 0, 2)


def loop_correlation(
    x: Float[np.ndarray, "n d t"],
    y: Float[np.ndarray, "m k s"],
    *,
    bootstrap: int,
    rng: np.random.Generator,
) -> Correlation:
    """Pearson's correlation over all frames of all loops; of ranks, it is Spearman's.

    Loops are drawn with replacement for the intervals (a cluster bootstrap; ranks stay those of
    the whole sample). The p-value is of Fisher's z over its bootstrap standard error, against
    Student's t with a degree of freedom a loop, less one. A constant channel gives nan throughout.
    Two loops are resampled into hardly anything else: they have no interval and no p-value, nan.

    Raises:
        ValueError: fewer than two loops, shapes that do not match, or values that are not finite.

    References:
        Fisher, 1921; Field & Welsh, Bootstrapping clustered data, 2007.
    """
    if len(x) < 2 or x.shape[::2] != y.shape[::2]:
        raise ValueError(
            f"correlation takes two loops or more, the same in both: {x.shape} and {y.shape}"
        )
    x, y = _standardised(x), _standardised(y)
    n = len(x)
    draws = rng.multinomial(n, np.full(n, 1 / n), size=bootstrap)
    weights = np.concatenate([np.ones((1, n)), draws]) / n  # the first is the sample itself

    def mean(per_loop: np.ndarray) -> np.ndarray:
        return np.tensordot(weights, per_loop, 1)

    mx, my = mean(x.mean(2)), mean(y.mean(2))
    vx = mean((x**2).mean(2)) - mx**2
    vy = mean((y**2).mean(2)) - my**2
    cross = mean(np.einsum("ndt,nkt->ndk", x, y) / x.shape[2])
    covariance = cross - mx[:, :, None] * my[:, None, :]
    scale = np.sqrt(vx.clip(0)[:, :, None] * vy.clip(0)[:, None, :])
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.clip(np.where(scale > 1e-9, covariance / scale, np.nan), -1, 1)
        # A draw of loops in which one of the two happens to be constant says nothing.
        r = np.where(np.isnan(r), r[0], r)
        if n == 2:
            unknown = np.full_like(r[0], np.nan)
            return Correlation(r[0], unknown, unknown, unknown)
        z = np.arctanh(r.clip(-1 + 1e-12, 1 - 1e-12))
        t = z[0] / z[1:].std(0, ddof=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(r[1:], [tail, 1 - tail], axis=0)
    p = 2 * stats.t.sf(np.abs(t), n - 1)
    return Correlation(r[0], low, high, np.where(np.isnan(r[0]), np.nan, p))


def benjamini_hochberg(p: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Adjusted p-values: below a, and a share a of those called significant is false on average.

    All values are one family. nan, where there was nothing to test, stays nan and does not count.

    Raises:
        ValueError: a value outside [0, 1].

    References:
        Benjamini & Hochberg, Controlling the false discovery rate, 1995.
    """
    tested = ~np.isnan(p)
    if np.any((p[tested] < 0) | (p[tested] > 1)):
        raise ValueError("p-values lie between 0 and 1")
    q = np.full(p.shape, np.nan)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return q


def ridge_probe(
    features: Float[np.ndarray, "n f"],
    targets: Float[np.ndarray, "n k"],
    groups: Int[np.ndarray, " n"],
) -> Float[np.ndarray, " k"]:
    """R² of a ridge regression on rows of groups it has not seen, pooled over five folds.

    1: all of a target's variance is read off linearly; 0 or less: no better than its mean. The
    penalty is chosen within each training part. A constant target has no variance to explain, and
    fewer groups than folds are not enough to hold some out: nan.

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


def factor_probe(mu: Float[np.ndarray, "n d t"], factor: Float[np.ndarray, " n"]) -> float:
    """R² of a probe from a loop's latents, their mean and deviation over time, to a factor of it.

    Loops without the factor (nan) are left out; fewer than ten with it: nan.
    """
    known = np.isfinite(factor)
    if known.sum() < 2 * FOLDS:
        return float("nan")
    features = _codes(mu)[known]
    return float(ridge_probe(features, factor[known][:, None], np.arange(known.sum()))[0])


def mutual_information_gap(
    codes: Float[np.ndarray, "n d"], factors: Float[np.ndarray, "n k"]
) -> float:
    """How much more the best code tells of a factor than the second best, 0 to 1 (1: one alone).

    Mean over factors of the difference of the two mutual informations, over the factor's entropy.
    Codes are cut into `BINS` of equal counts, and so are factors with more values than that.
    Factors that are not known of all rows or constant are left out; none is left, there is but one
    code, or there are fewer rows than `BINS` squared: nan.

    References:
        Chen et al., Isolating sources of disentanglement in VAEs, 2018, equation 6.
    """
    n, d = codes.shape
    usable = _usable(factors)
    if d < 2 or n < BINS**2 or not usable.any():
        return float("nan")
    cells = [_one_hot(column) for column in codes.T]
    gaps = []
    for factor in factors[:, usable].T:
        states = _one_hot(factor)
        share = states.mean(0)
        entropy = -(share * np.log(share)).sum()
        told = np.sort([_mutual_information(cell, states) for cell in cells])
        gaps.append((told[-1] - told[-2]) / entropy)
    return float(np.mean(gaps))


def dci(
    codes: Float[np.ndarray, "n d"], factors: Float[np.ndarray, "n k"], seed: int
) -> dict[str, float]:
    """Disentanglement, completeness and informativeness, each 0 to 1 (1: best).

    A random forest predicts each factor from all codes; how much each code counts in it is the
    importance R. `disentanglement`: does a code count for one factor alone; `completeness`: does a
    factor rest on one code alone; both 1 - entropy of R over the other axis, weighted by what each
    counts. `informativeness`: mean R² of rows out of the bag, those below 0 as 0. Factors that are
    not known of all rows or constant are left out; fewer than two are left, or two codes, or fewer
    than 20 rows: nan.

    References:
        Eastwood & Williams, A framework for the quantitative evaluation of disentangled
        representations, 2018, section 2.
    """
    usable = _usable(factors)
    names = ("disentanglement", "completeness", "informativeness")
    if codes.shape[1] < 2 or usable.sum() < 2 or len(codes) < 20:
        return dict.fromkeys(names, float("nan"))
    importance, scores = [], []
    for factor in factors[:, usable].T:
        forest = RandomForestRegressor(TREES, oob_score=True, random_state=seed)
        forest.fit(codes, (factor - factor.mean()) / factor.std())
        importance.append(forest.feature_importances_)
        scores.append(max(forest.oob_score_, 0.0))
    r = np.stack(importance, 1) + 1e-12
    d, k = r.shape
    by_code, by_factor = r / r.sum(1, keepdims=True), r / r.sum(0)
    alone = 1 + (by_code * np.log(by_code)).sum(1) / np.log(k)
    whole = 1 + (by_factor * np.log(by_factor)).sum(0) / np.log(d)
    values = (np.average(alone, weights=r.sum(1)), whole.mean(), np.mean(scores))
    return dict(zip(names, map(float, values), strict=True))


def readable_order(values: Float[np.ndarray, "d k"]) -> list[int]:
    """Dimensions sorted for the eye: by the descriptor each follows most, the strongest first."""
    size = np.abs(np.nan_to_num(values))
    best = size.argmax(1)
    return sorted(range(len(values)), key=lambda d: (best[d], -size[d, best[d]], d))


def _codes(mu: Float[np.ndarray, "n d t"]) -> Float[np.ndarray, "n e"]:
    """A loop's latents as one row: mean and deviation over time, each standardised over loops."""
    codes = np.concatenate([mu.mean(2), mu.std(2)], 1).astype(np.float64)
    deviation = codes.std(0)
    return (codes - codes.mean(0)) / np.where(deviation > 0, deviation, 1)


def _usable(factors: np.ndarray) -> np.ndarray:
    """Which factors are known of all rows and vary."""
    return np.isfinite(factors).all(0) & (np.ptp(np.nan_to_num(factors), axis=0) > 0)


def _one_hot(values: np.ndarray) -> np.ndarray:
    """Which of `BINS` bins of equal counts each value is in, or which value it is; no empty one."""
    states = np.unique(values, return_inverse=True)[1]
    if states.max() >= BINS:
        edges = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])
        states = np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1]
    return np.eye(states.max() + 1)[states]


def _mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """In nats, of two variables given as one-hot rows."""
    joint = a.T @ b / len(a)
    apart = np.outer(joint.sum(1), joint.sum(0))
    return float((joint * np.log(np.where(joint > 0, joint / apart, 1))).sum())


def _standardised(values: np.ndarray) -> np.ndarray:
    """Each channel with mean 0 and deviation 1 over loops and frames; a constant one stays 0."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("correlation of values that are NaN or infinite")
    deviation = values - values.mean((0, 2), keepdims=True)
    scale = deviation.std((0, 2), keepdims=True)
    constant = scale <= 1e-9 * (1 + np.abs(values).max((0, 2), keepdims=True))
    return np.where(constant, 0.0, deviation / np.where(constant, 1, scale))


def _frames(values: np.ndarray) -> np.ndarray:
    """`(n, c, t)` as `(n * t, c)`."""
    return values.transpose(0, 2, 1).reshape(-1, values.shape[1]).astype(np.float64)


def _mean(values: dict[str, float]) -> float:
    """Mean of R², those below 0 as 0 and undefined ones left out; nan of none."""
    defined = [max(v, 0.0) for v in values.values() if np.isfinite(v)]
    return float(np.mean(defined)) if defined else float("nan")


def _table(
    spearman: Correlation, pearson: Correlation, q: np.ndarray, names: list[str]
) -> list[dict[str, object]]:
    """One row a pair of dimension and descriptor."""
    return [
        {
            "dimension": d,
            "descriptor": name,
            "spearman": spearman.value[d, k],
            "spearman_low": spearman.low[d, k],
            "spearman_high": spearman.high[d, k],
            "pearson": pearson.value[d, k],
            "pearson_low": pearson.low[d, k],
            "pearson_high": pearson.high[d, k],
            "p": spearman.p[d, k],
            "q": q[d, k],
        }
        for d in range(len(spearman.value))
        for k, name in enumerate(names)
    ]


def _write_table(path: Path, rows: list[dict[str, object]]) -> None:
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def _items(loops: int, factors: bool) -> list[dict[str, object]]:
    probes = (
        "Share of the variance that a ridge regression from VAE 1's latents explains on loops it "
        "has not seen (five folds): of descriptors frame by frame"
    )
    if factors:
        probes += ", and of the synthesiser's own settings from a loop's latents over time"
    if loops < FOLDS:
        probes += f". {loops} loops are too few for that"
    dots = (
        "A dot: not significant at a false discovery rate of 5 % (bootstrap over loops, "
        "Benjamini-Hochberg)."
        if loops > 2
        else "A dot: not tested, two loops are too few for that."
    )
    return [
        {
            "kind": "figure",
            "file": "correlations.png",
            "title": "Latent dimensions and acoustic descriptors",
            "caption": f"Spearman correlation over the frames of {loops} test loops, dimensions "
            f"ordered by the descriptor each follows most. {dots}",
        },
        {
            "kind": "figure",
            "file": "probes.png",
            "title": "What a linear probe reads from the latents",
            "caption": probes + ".",
        },
        {
            "kind": "table",
            "file": "correlations.csv",
            "title": "All correlations",
            "caption": "With 95 % intervals of the bootstrap over loops; p and its "
            "Benjamini-Hochberg adjustment q are of Spearman's.",
        },
        {"kind": "table", "file": "probes.csv", "title": "All probes", "caption": "Held-out R²."},
    ]
