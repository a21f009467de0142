"""Which latent dimension moves with which descriptor, and what a linear probe reads from all."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats

from techloop.audio.descriptors import FRAME_DESCRIPTORS, LABELS, frame_descriptors
from techloop.data.datasets import LatentDataset, LoopDataset
from techloop.evaluation.metrics.correlation import (
    Correlation,
    benjamini_hochberg,
    loop_correlation,
    ranked,
)
from techloop.evaluation.metrics.disentanglement import (
    DCI_SCORE,
    MIG,
    dci,
    mutual_information_gap,
)
from techloop.evaluation.metrics.probes import (
    FACTOR_R2,
    FOLDS,
    MEAN_FACTOR_R2,
    MEAN_PROBE_R2,
    PROBE_R2,
    factor_probe,
    frame_probe,
    loop_codes,
    mean_r2,
)
from techloop.evaluation.result import Evaluation
from techloop.metric import Measurement, Metric, by_name

FALSE_DISCOVERY_RATE = 0.05
BATCH = 32

LOOPS = Metric("loops", "loops")
MEAN_STRONGEST = Metric(
    "mean_strongest_spearman", "mean strongest Spearman correlation", better="higher"
)
STRONGEST = Metric("spearman", "strongest Spearman correlation")  # per descriptor, with its sign
SIGNIFICANT_SHARE = Metric("significant_share", "share of significant correlations")


@torch.inference_mode()
def evaluate_descriptors(
    loops: LoopDataset, latents: LatentDataset, *, loops_used: int, bootstrap: int, seed: int
) -> Evaluation:
    """Correlations of the audio VAE's posterior means with frame descriptors, and probes.

    `spearman_<descriptor>` is the strongest correlation of any dimension; `significant_share` is
    over all pairs; `probe_r2_<descriptor>` is of all dimensions together. Where the loops have
    ground-truth factors (columns `factor_<name>`), there are also `factor_r2_<name>`, and `mig` and
    the three of `dci` on `loop_codes`; their baseline is a random rotation, which mixes all codes.

    With two loops significance is nan; R² is nan with fewer than `FOLDS` loops, of a factor with
    fewer than twice as many.

    Args:
        loops: the test split.
        latents: of the same split: row by row the same loops.
        loops_used: at most this many loops, sampled by `seed`.
        bootstrap: resamples of the loops.
        seed: of the sample, the resamples, the rotation and the forests.

    Returns:
        The metrics; arrays `spearman` and `significant` (dimensions, descriptors); tables
        `correlations` and `probes`.

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
    curves = _frame_curves(loops, rows)
    mu = latents.mu[torch.from_numpy(rows)].numpy()
    spearman = loop_correlation(ranked(mu), ranked(curves), bootstrap=bootstrap, rng=rng)
    pearson = loop_correlation(mu, curves, bootstrap=bootstrap, rng=rng)
    q = benjamini_hochberg(spearman.p)
    significant = q < FALSE_DISCOVERY_RATE
    probes = dict(zip(FRAME_DESCRIPTORS, frame_probe(mu, curves), strict=True))

    metrics = [LOOPS.measured(float(len(rows))), *_strongest(spearman.value)]
    share = float("nan") if np.isnan(q).all() else significant.mean()
    metrics += [SIGNIFICANT_SHARE.measured(share), MEAN_PROBE_R2.measured(mean_r2(probes.values()))]
    metrics += [PROBE_R2.of(n, LABELS[n]).measured(r2) for n, r2 in probes.items()]

    factors = loops.index.iloc[rows].filter(regex="^factor_")
    factor_r2 = {
        column.removeprefix("factor_"): factor_probe(mu, factors[column].to_numpy(float))
        for column in factors.columns
    }
    if factor_r2:
        metrics.append(MEAN_FACTOR_R2.measured(mean_r2(factor_r2.values())))
        metrics += [FACTOR_R2.of(n, _words(n)).measured(r2) for n, r2 in factor_r2.items()]
        metrics += _disentanglement(loop_codes(mu), factors.to_numpy(float), rng, seed)

    return Evaluation(
        by_name(*metrics),
        arrays={"spearman": spearman.value, "significant": significant},
        facts={
            "loops": len(rows),
            "folds": FOLDS,
            "false_discovery_rate": FALSE_DISCOVERY_RATE,
            "descriptors": {name: LABELS[name] for name in FRAME_DESCRIPTORS},
            "factors": {name: _words(name) for name in factor_r2},
        },
        tables={
            "correlations": _correlation_table(spearman, pearson, q),
            "probes": _probe_table({"descriptor": probes, "factor": factor_r2}),
        },
    )


def _frame_curves(loops: LoopDataset, rows: np.ndarray) -> Float[np.ndarray, "n k frames"]:
    """`FRAME_DESCRIPTORS` of some loops."""
    parts = [
        frame_descriptors(batch, loops.grid.sample_rate_hz, loops.grid.hop)
        for batch in torch.split(torch.from_numpy(loops.audio(rows)), BATCH)
    ]
    curves = [torch.cat([part[name] for part in parts]).numpy() for name in FRAME_DESCRIPTORS]
    return np.stack(curves, 1)


def _strongest(spearman: Float[np.ndarray, "d k"]) -> list[Measurement]:
    """Per descriptor, the strongest correlation of any dimension, after the mean of their sizes."""
    defined = np.nan_to_num(spearman)
    strongest = np.abs(defined).argmax(0)
    mean = np.abs(defined).max(0).mean()
    return [MEAN_STRONGEST.measured(mean)] + [
        STRONGEST.of(name, LABELS[name]).measured(spearman[strongest[k], k])
        for k, name in enumerate(FRAME_DESCRIPTORS)
    ]


def _disentanglement(
    codes: Float[np.ndarray, "n d"],
    factors: Float[np.ndarray, "n k"],
    rng: np.random.Generator,
    seed: int,
) -> list[Measurement]:
    """MIG and DCI of the codes, beside those of the codes after a random rotation."""
    rotated = codes @ stats.ortho_group.rvs(codes.shape[1], random_state=rng)
    gap, gap_rotated = (mutual_information_gap(c, factors) for c in (codes, rotated))
    scores, scores_rotated = (dci(c, factors, seed)._asdict() for c in (codes, rotated))
    return [MIG.measured(gap, rotated=gap_rotated)] + [
        DCI_SCORE.of(name, name).measured(score, rotated=scores_rotated[name])
        for name, score in scores.items()
    ]


def _correlation_table(spearman: Correlation, pearson: Correlation, q: np.ndarray) -> pd.DataFrame:
    """One row per pair of dimension and descriptor."""
    return pd.DataFrame(
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
        for k, name in enumerate(FRAME_DESCRIPTORS)
    )


def _probe_table(probes: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """One row per probe."""
    return pd.DataFrame(
        {"kind": kind, "name": name, "r2": r2}
        for kind, values in probes.items()
        for name, r2 in values.items()
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
