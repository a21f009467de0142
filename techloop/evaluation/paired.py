"""Two decoders on the same loops: how much better is the second, and how sure is that.

Each function gives differences by metric, the second decoder's number less the first's, with their
deviation by a paired bootstrap: each resample draws the same loops of both. Which sign is better
says the metric (`better`). Distances to the training loops have `TrainingDistances.paired`.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from torch import Tensor

from techloop.evaluation.metrics.bootstrap import Estimate, paired_difference
from techloop.evaluation.metrics.fidelity import (
    DETAIL_MOMENTS,
    FINE_STRUCTURE,
    METRICS,
    fine_structure,
)
from techloop.evaluation.metrics.tonality import (
    FEWEST,
    NOISY_BELOW,
    TONAL_ABOVE,
    TONALITY_CORRELATION,
    TONALITY_NOISY,
    TONALITY_TONAL,
    correlation,
)
from techloop.metric import Metric


def paired_errors(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], *, seed: int = 0
) -> dict[Metric, Estimate]:
    """Differences of `fidelity.METRICS`.

    Args:
        first, second: `loop_errors` of the same loops in one order, through each decoder.
        seed: of the bootstrap.

    Raises:
        ValueError: they are not of the same loops, or are empty.
    """
    differences = {}
    for metric in METRICS:
        if metric == FINE_STRUCTURE:
            a, b = (_moments(errors) for errors in (first, second))
            differences[metric] = paired_difference(a, b, fine_structure, seed=seed)
        else:
            a, b = (errors[metric.name].numpy() for errors in (first, second))
            differences[metric] = paired_difference(a, b, seed=seed)
    return differences


def paired_tonality(
    original: Float[np.ndarray, " n"],
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    *,
    seed: int = 0,
) -> dict[Metric, Estimate]:
    """Differences of `tonality.METRICS`; nan where they are of fewer than five loops.

    Args:
        original: `tonality` of the originals.
        first, second: of the same loops in one order, through each decoder. Loops without a value
            of one of the three are left out.
        seed: of the bootstrap.
    """
    values = np.stack([original, first, second], 1).astype(np.float64)
    values = values[np.isfinite(values).all(1)]
    noisy, tonal = values[:, 0] < NOISY_BELOW, values[:, 0] > TONAL_ABOVE
    differences = dict.fromkeys(
        (TONALITY_CORRELATION, TONALITY_NOISY, TONALITY_TONAL), Estimate(np.nan, np.nan)
    )
    if len(values) >= FEWEST:
        differences[TONALITY_CORRELATION] = paired_difference(
            values[:, [0, 1]], values[:, [0, 2]], correlation, seed=seed
        )
    for metric, rows in ((TONALITY_NOISY, values[noisy]), (TONALITY_TONAL, values[tonal])):
        if len(rows) >= FEWEST:
            differences[metric] = paired_difference(rows[:, 1], rows[:, 2], seed=seed)
    return differences


def _moments(errors: Mapping[str, Tensor]) -> Float[np.ndarray, "n three"]:
    return np.stack([errors[name].numpy() for name in DETAIL_MOMENTS], 1)
