"""Finds the controls of an instrument, and measures what they do.

Ridge regressions predict the descriptors of a rendered loop from the noise that the prior turns
into points. A control goes where its own descriptor rises and those of the other controls stay, as
far as both can be had. What it changes is then measured on other loops.
"""

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import RidgeCV
from torch import Tensor
from tqdm import tqdm

from techloop.audio.descriptors import LABELS, UNITS, loop_descriptors
from techloop.controls import Control
from techloop.data.datasets import LoopDataset
from techloop.evaluation.metrics.units import DIFFERENCE_UNITS
from techloop.evaluation.result import Evaluation
from techloop.instrument import Instrument
from techloop.metric import Metric, by_name

LOOP_DESCRIPTORS = tuple(UNITS)
CONTROLS = {  # the descriptor that each raises
    "louder": "loudness_db",
    "brighter": "centroid_hz",
    "noisier": "flatness",
    "bassier": "low_db",
    "denser": "onset_density",
    "punchier": "onset_strength",
}
RIDGE_ALPHAS = np.logspace(0, 5, 16)
LEAKAGE_ALLOWANCE = 0.3  # see `separate_directions`
RESAMPLINGS = 1000
BATCH = 32

LOOPS = Metric("loops", "loops of the regression")
PROBES = Metric("probes", "loops measured on")
# Per control. A gain is the change per unit, which is one standard deviation of the prior.
GAIN = Metric("gain", "gain")
GAIN_SD = Metric("gain_sd", "gain over deviation of real loops", better="higher")
LEAKAGE_SD = Metric("leakage_sd", "leakage over deviation of real loops", better="lower")


def evaluate_controls(
    instrument: Instrument, real: LoopDataset, *, loops: int, probes: int, seed: int
) -> tuple[Evaluation, dict[str, Control]]:
    """The controls of an instrument, and their gains in standard deviations of real loops.

    Per control, the metrics are `gain_<control>`, in the unit of its descriptor;
    `gain_sd_<control>`, in standard deviations of real loops; and `leakage_sd_<control>`, the root
    mean square gain of all other descriptors, in the same measure.

    Args:
        instrument: both VAEs.
        real: the test split, for the standard deviation of each descriptor.
        loops, probes, seed: see `find_controls`; at most `loops` real loops are used.

    Returns:
        What was measured, and the controls by name.

    Raises:
        ValueError: loops of another grid, or too few loops or probes.
    """
    if real.grid != instrument.grid:
        raise ValueError(f"the loops are on {real.grid}, the instrument on {instrument.grid}")
    controls = find_controls(instrument, loops=loops, probes=probes, seed=seed)
    rows = np.sort(np.random.default_rng(seed).permutation(len(real))[:loops])
    deviation = _descriptors(torch.from_numpy(real.audio(rows)), instrument).std(0)
    scale = np.where(deviation > 0, deviation, np.nan)
    gains = np.array(
        [[control.gains[d] for d in LOOP_DESCRIPTORS] for control in controls.values()]
    )
    relative = gains.reshape(len(controls), len(LOOP_DESCRIPTORS)) / scale
    metrics = [LOOPS.measured(float(loops)), PROBES.measured(float(probes))]
    for (name, control), row in zip(controls.items(), relative, strict=True):
        own = LOOP_DESCRIPTORS.index(control.descriptor)
        leakage = np.sqrt(np.nanmean(np.delete(row, own) ** 2))
        unit = DIFFERENCE_UNITS[control.descriptor]
        metrics += [
            GAIN.of(name, name, unit).measured(control.gains[control.descriptor]),
            GAIN_SD.of(name, name).measured(row[own]),
            LEAKAGE_SD.of(name, name).measured(leakage),
        ]
    evaluation = Evaluation(
        by_name(*metrics),
        arrays={"relative_gains": relative},
        facts={
            "loops": loops,
            "probes": probes,
            "controls": {name: control.descriptor for name, control in controls.items()},
            "descriptors": LABELS,
        },
    )
    return evaluation, controls


def find_controls(
    instrument: Instrument, *, loops: int, probes: int, seed: int
) -> dict[str, Control]:
    """The controls `CONTROLS` of an instrument.

    Args:
        instrument: both VAEs.
        loops: sampled from the prior for the regression.
        probes: further loops to measure on, each moved by one unit in both directions.
        seed: of the samples.

    Returns:
        By name. A descriptor that is the same in all loops has neither a direction nor a control.

    Raises:
        ValueError: fewer than eight loops or two probes.

    References:
        Härkönen et al., GANSpace, 2020, for directions found after training; Shen et al.,
        InterFaceGAN, 2020, section 2.2, for a linear model of an attribute in the latent space, and
        2.3 for directions that leave other attributes alone.
    """
    if loops < 8 or probes < 2:
        raise ValueError(f"controls take 8 loops and 2 probes or more, got {loops} and {probes}")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(loops + probes, *instrument.point_shape, generator=generator)
    regression, base = noise[:loops], noise[loops:]
    values = _rendered_descriptors(instrument, regression, "loops of the regression")
    values = values[:, [LOOP_DESCRIPTORS.index(descriptor) for descriptor in CONTROLS.values()]]
    varies = np.ptp(values, 0) > 1e-9 * (1 + np.abs(values).max(0))
    if not varies.any():
        return {}
    targets = values[:, varies] / values[:, varies].std(0)
    # With a single target the coefficients would be a vector, hence atleast_2d.
    ridge = RidgeCV(RIDGE_ALPHAS, alpha_per_target=targets.shape[1] > 1)
    slopes = np.atleast_2d(ridge.fit(regression.flatten(1).numpy(), targets).coef_)
    names = [name for name, varying in zip(CONTROLS, varies, strict=True) if varying]
    directions = separate_directions(slopes)
    return {
        name: _measure(instrument, CONTROLS[name], direction, base, seed)
        for name, direction in zip(names, tqdm(directions, "controls"), strict=True)
    }


def separate_directions(slopes: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "k n"]:
    """Directions of norm 1 that each raise one value, and the others as little as possible.

    Among all x of one length, the k-th direction maximises s_k x, the rise of its own value, over
    sum_j (s_j x)^2 + `LEAKAGE_ALLOWANCE` mean_j |s_j|^2 |x|^2. With an allowance of 0 the other
    values would stay where they are at any cost to its own; with a large one, the direction is s_k.

    Args:
        slopes: the gradient of each value.
    """
    gram = slopes @ slopes.T
    penalty = gram + LEAKAGE_ALLOWANCE * gram.trace() / len(gram) * np.eye(len(gram))
    directions = np.linalg.solve(penalty, slopes)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions


def _measure(
    instrument: Instrument,
    descriptor: str,
    direction: Float[np.ndarray, " n"],
    base: Float[Tensor, "probes d length"],
    seed: int,
) -> Control:
    """A control: half the difference of loops moved by one unit forwards and backwards."""
    step = torch.from_numpy(direction).float().view(instrument.point_shape)
    up, down = (_rendered_descriptors(instrument, base + sign * step) for sign in (1, -1))
    change = (up - down) / 2
    own = change[:, LOOP_DESCRIPTORS.index(descriptor)]
    resampled = np.random.default_rng(seed).integers(len(base), size=(RESAMPLINGS, len(base)))
    low, high = np.quantile(own[resampled].mean(1), [0.025, 0.975])
    gains = dict(zip(LOOP_DESCRIPTORS, change.mean(0).tolist(), strict=True))
    return Control(descriptor, step.numpy(), gains, float(low), float(high))


def _rendered_descriptors(
    instrument: Instrument, noise: Float[Tensor, "n d length"], label: str = ""
) -> Float[np.ndarray, "n descriptors"]:
    """Loop descriptors of the loops that the prior makes of this noise."""
    batches = [
        _descriptors(torch.from_numpy(instrument.render(instrument.sample_prior(part))), instrument)
        for part in tqdm(torch.split(noise, BATCH), label, disable=not label)
    ]
    return np.concatenate(batches)


@torch.inference_mode()
def _descriptors(
    audio: Float[Tensor, "n samples"], instrument: Instrument
) -> Float[np.ndarray, "n descriptors"]:
    batches = [loop_descriptors(b, instrument.grid).values() for b in torch.split(audio, BATCH)]
    return np.concatenate([torch.stack(list(b), 1).double().numpy() for b in batches])
