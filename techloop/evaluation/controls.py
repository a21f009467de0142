"""Controls: directions in the top space that make a loop louder, brighter or denser.

Ridge regressions find how each descriptor of the loop that is heard follows from the noise that
the prior turns into points. A control goes where its own descriptor rises and those of the other
controls stay, as far as both can be had; one unit is one deviation of the prior. How far it moves
its descriptor, and all the others with it, is then measured on other loops.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import RidgeCV
from torch import Tensor
from tqdm import tqdm

from techloop.artifacts import atomic_folder, read_json, write_json
from techloop.audio.descriptors import LABELS, UNITS, loop_descriptors
from techloop.data.datasets import LoopDataset
from techloop.instrument import Instrument
from techloop.reporting.plots import control_gains

NAMES = {  # of a control, and what it raises
    "louder": "loudness_db",
    "brighter": "centroid_hz",
    "noisier": "flatness",
    "bassier": "low_db",
    "denser": "onset_density",
    "punchier": "onset_strength",
}
ALPHAS = np.logspace(0, 5, 16)
FREEDOM = 0.3  # what a direction may move the other controls' descriptors by, see `separated`
FURTHEST = 5.0  # deviations of the prior
RESAMPLINGS = 1000
BATCH = 32


@dataclass(frozen=True)
class Control:
    """A direction, and what a step of one unit along it does.

    Attributes:
        descriptor: what it is to raise, a name of `descriptors.UNITS`.
        direction: `(d, length)`, of norm 1, in the prior's noise.
        gains: change of each loop descriptor a unit, in its own unit; means over loops.
        low, high: ends of the 95 % interval of the gain of `descriptor`, over loops.
    """

    descriptor: str
    direction: Float[np.ndarray, "d length"]
    gains: Mapping[str, float]
    low: float
    high: float


def find_controls(
    instrument: Instrument, *, loops: int, probes: int, seed: int
) -> dict[str, Control]:
    """The controls `NAMES` of an instrument.

    Args:
        instrument: both VAEs.
        loops: drawn from the prior for the regression.
        probes: loops drawn to measure on, each moved by one unit either way.
        seed: of the draws.

    Returns:
        By name. A descriptor that no loop differs in has no direction, and no control.

    Raises:
        ValueError: fewer than eight loops or two probes.

    References:
        Härkönen et al., GANSpace, 2020, for directions found after training; Shen et al.,
        InterFaceGAN, 2020, section 2.2, for a linear model of an attribute in the latent space, and
        2.3 for directions that leave other attributes alone.
    """
    if loops < 8 or probes < 2:
        raise ValueError(f"controls take 8 loops and 2 probes or more, got {loops} and {probes}")
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(loops + probes, *instrument.point_shape, generator=draw)
    known, base = noise[:loops], noise[loops:]
    values = _heard(instrument, known, "loops to learn from")
    values = values[:, [list(UNITS).index(descriptor) for descriptor in NAMES.values()]]
    moves = np.ptp(values, 0) > 1e-9 * (1 + np.abs(values).max(0))
    if not moves.any():
        return {}
    targets = values[:, moves] / values[:, moves].std(0)
    # One descriptor alone would come back as a vector.
    ridge = RidgeCV(ALPHAS, alpha_per_target=targets.shape[1] > 1)
    slopes = np.atleast_2d(ridge.fit(known.flatten(1).numpy(), targets).coef_)
    names = [name for name, moved in zip(NAMES, moves, strict=True) if moved]
    found = {}
    for name, direction in zip(names, tqdm(separated(slopes), "controls"), strict=True):
        step = torch.from_numpy(direction).float().view(instrument.point_shape)
        up, down = (_heard(instrument, base + sign * step) for sign in (1, -1))
        change = (up - down) / 2
        own = change[:, list(UNITS).index(NAMES[name])]
        draws = np.random.default_rng(seed).integers(probes, size=(RESAMPLINGS, probes))
        low, high = np.quantile(own[draws].mean(1), [0.025, 0.975])
        gains = dict(zip(UNITS, change.mean(0).tolist(), strict=True))
        found[name] = Control(NAMES[name], step.numpy(), gains, float(low), float(high))
    return found


def separated(slopes: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "k n"]:
    """Directions of norm 1 that each raise one value, and the others as little as may be.

    Of all directions x of one length the k-th is the one in which s_k x, the rise of its own value,
    is largest against sum_j (s_j x)^2 + `FREEDOM` mean_j |s_j|^2 |x|^2. Without freedom the others
    would stay where they are at any cost to its own; with much of it, the direction is s_k.

    Args:
        slopes: the gradient of each value.
    """
    gram = slopes @ slopes.T
    held = gram + FREEDOM * gram.trace() / len(gram) * np.eye(len(gram))
    directions = np.linalg.solve(held, slopes)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def evaluate_controls(
    instrument: Instrument,
    real: LoopDataset,
    folder: str | Path,
    *,
    loops: int,
    probes: int,
    seed: int,
) -> dict[str, float]:
    """`find_controls` into `folder`, with their gains in deviations of real loops.

    Args:
        instrument: both VAEs.
        real: the test split, whose descriptors' deviations tell how much a gain is.
        folder: is replaced; gets controls.json, metrics.json, items.json and controls.png.
        loops, probes, seed: see `find_controls`.

    Returns:
        What metrics.json holds: for each control its `gain_<name>`, in the unit of its descriptor,
        `gain_sd_<name>`, in deviations of real loops, and `leakage_sd_<name>`, the root mean square
        of those of all other descriptors.

    Raises:
        ValueError: loops of another grid, or too few to learn from.
    """
    if real.grid != instrument.grid:
        raise ValueError(f"the loops are on {real.grid}, the instrument on {instrument.grid}")
    controls = find_controls(instrument, loops=loops, probes=probes, seed=seed)
    rows = np.sort(np.random.default_rng(seed).permutation(len(real))[:loops])
    audio = torch.from_numpy(real.audio(rows))
    deviation = _descriptors(audio, instrument).std(0)
    scale = np.where(deviation > 0, deviation, np.nan)
    gains = np.array([[control.gains[d] for d in UNITS] for control in controls.values()])
    relative = gains.reshape(len(controls), len(UNITS)) / scale
    metrics: dict[str, float] = {"loops": float(loops), "probes": float(probes)}
    for (name, control), moved in zip(controls.items(), relative, strict=True):
        own = list(UNITS).index(control.descriptor)
        metrics[f"gain_{name}"] = control.gains[control.descriptor]
        metrics[f"gain_sd_{name}"] = float(moved[own])
        metrics[f"leakage_sd_{name}"] = float(np.sqrt(np.nanmean(np.delete(moved, own) ** 2)))
    with atomic_folder(folder) as new:
        control_gains(
            new / "controls.png",
            relative,
            list(controls),
            list(LABELS.values()),
            [list(UNITS).index(control.descriptor) for control in controls.values()],
        )
        write_json(new / "controls.json", _as_json(controls, instrument.fingerprint))
        write_json(new / "items.json", [_item(loops, probes)])
        write_json(new / "metrics.json", metrics)
    return metrics


def load_controls(path: Path, instrument: Instrument) -> dict[str, Control]:
    """The controls of an instrument, as `evaluate_controls` has written them.

    Raises:
        ValueError: the file is not there, is damaged or of another instrument.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is not there, and holds the directions that a setting goes along. `dvc repro "
            "evaluate_controls` measures them, and `--controls` takes the file from elsewhere."
        )
    held = read_json(path)
    if held.get("latent_vae") != instrument.fingerprint:
        raise ValueError(
            f"{path} was measured on latent VAE {held.get('latent_vae')}, this one is "
            f"{instrument.fingerprint}: its directions would mean nothing here. `dvc repro "
            "evaluate_controls` measures them again."
        )
    found = {}
    for name, told in held["controls"].items():
        direction = np.array(told["direction"], np.float32)
        if direction.shape != instrument.point_shape or not np.isfinite(direction).all():
            raise ValueError(
                f"{path}: the direction of `{name}` has the shape {direction.shape}, or numbers "
                f"that are not finite; a point of this model is {instrument.point_shape}. The file "
                "is damaged: `dvc checkout dvc.yaml` restores it."
            )
        low, high = map(float, told["interval"])
        found[name] = Control(told["descriptor"], direction, told["gains"], low, high)
    return found


def displacement(
    controls: Mapping[str, Control], by: Mapping[str, float]
) -> Float[Tensor, "d length"] | None:
    """How far the prior's noise moves along controls, by so many units each; None by none.

    Raises:
        ValueError: there is no control of a name, or it is to move further than `FURTHEST`.
    """
    total = None
    for name, units in by.items():
        if name not in controls:
            raise ValueError(
                f"there is no control `{name}`; this model has {', '.join(controls) or 'none'}"
            )
        if not abs(units) <= FURTHEST:
            raise ValueError(
                f"{name}={units:g} is too far: a unit is a deviation of the prior, and the model "
                f"has learned nothing beyond {FURTHEST:g} or so. Take -{FURTHEST:g} to "
                f"{FURTHEST:g}."
            )
        step = units * torch.from_numpy(controls[name].direction)
        total = step if total is None else total + step
    return total


def _heard(
    instrument: Instrument, noise: Float[Tensor, "n d length"], label: str = ""
) -> Float[np.ndarray, "n descriptors"]:
    """Loop descriptors of what the prior makes of this noise."""
    parts = [
        _descriptors(torch.from_numpy(instrument.render(instrument.sample_prior(part))), instrument)
        for part in tqdm(noise.split(BATCH), label, disable=not label)
    ]
    return np.concatenate(parts)


@torch.inference_mode()
def _descriptors(audio: Tensor, instrument: Instrument) -> Float[np.ndarray, "n descriptors"]:
    parts = [loop_descriptors(part, instrument.grid).values() for part in audio.split(BATCH)]
    return np.concatenate([torch.stack(list(p), 1).double().numpy() for p in parts])


def _as_json(controls: Mapping[str, Control], fingerprint: str) -> dict[str, Any]:
    return {
        "latent_vae": fingerprint,
        "controls": {
            name: {
                "descriptor": control.descriptor,
                "unit": UNITS[control.descriptor],
                "interval": [control.low, control.high],
                "gains": dict(control.gains),
                "direction": control.direction.tolist(),
            }
            for name, control in controls.items()
        },
    }


def _item(loops: int, probes: int) -> dict[str, object]:
    return {
        "kind": "figure",
        "file": "controls.png",
        "title": "What each control does",
        "caption": "Change of every loop descriptor by one unit (a deviation of the prior) of each "
        "control, in deviations of real test loops, what it is to raise framed; directions learned "
        f"from {loops} loops of the prior, measured on {probes} others.",
    }
