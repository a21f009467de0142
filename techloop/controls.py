"""Controls, as they are played: named directions in the noise that the prior turns into points.

`techloop.evaluation.controls` finds them and measures what they do; `controls.json` holds them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from techloop.artifacts import read_json
from techloop.audio.descriptors import UNITS
from techloop.instrument import Instrument

MAX_UNITS = 5.0  # standard deviations of the prior


@dataclass(frozen=True)
class Control:
    """A direction, and what a step of one unit along it does.

    Attributes:
        descriptor: what it is meant to raise, a name of `descriptors.UNITS`.
        direction: of norm 1, in the prior's noise.
        gains: mean change of each loop descriptor per unit, in the descriptor's own unit.
        low, high: ends of the 95 % interval of the gain of `descriptor`, over loops.
    """

    descriptor: str
    direction: Float[np.ndarray, "d length"]
    gains: Mapping[str, float]
    low: float
    high: float


def controls_json(controls: Mapping[str, Control], fingerprint: str) -> dict[str, object]:
    """What `controls.json` holds: the controls by name, and the latent VAE that they belong to."""
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


def load_controls(path: Path, instrument: Instrument) -> dict[str, Control]:
    """The controls of an instrument, by name, from a file that holds `controls_json`.

    Raises:
        ValueError: the file is missing, damaged or of another instrument.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is not there; it holds the directions that `--set` moves along. `dvc repro "
            "evaluate_controls` writes it, or name another file with `--controls`."
        )
    content = read_json(path)
    if content.get("latent_vae") != instrument.fingerprint:
        raise ValueError(
            f"{path} was measured on latent VAE {content.get('latent_vae')}, this one is "
            f"{instrument.fingerprint}: its directions would mean nothing here. `dvc repro "
            "evaluate_controls` measures them again."
        )
    controls = {}
    for name, entry in content["controls"].items():
        direction = np.array(entry["direction"], np.float32)
        if direction.shape != instrument.point_shape or not np.isfinite(direction).all():
            raise ValueError(
                f"{path}: the direction of `{name}` has the shape {direction.shape}, or numbers "
                f"that are not finite; a point of this model is {instrument.point_shape}. The file "
                "is damaged: `dvc checkout dvc.yaml` restores it."
            )
        low, high = map(float, entry["interval"])
        controls[name] = Control(entry["descriptor"], direction, entry["gains"], low, high)
    return controls


def displacement(
    controls: Mapping[str, Control], units: Mapping[str, float]
) -> Float[Tensor, "d length"] | None:
    """How the prior's noise moves when each named control is turned by some units.

    Args:
        controls: of the instrument, by name.
        units: per control, in standard deviations of the prior.

    Returns:
        The sum of the steps; None where `units` is empty.

    Raises:
        ValueError: the instrument lacks a control, or one is turned beyond `MAX_UNITS`.
    """
    total = None
    for name, amount in units.items():
        if name not in controls:
            raise ValueError(
                f"this model has no control `{name}`; it has {', '.join(controls) or 'none'}"
            )
        if not abs(amount) <= MAX_UNITS:
            raise ValueError(
                f"{name}={amount:g} is too far: a unit is a standard deviation of the prior, and "
                f"the model has learned little beyond {MAX_UNITS:g}. Take a value from "
                f"-{MAX_UNITS:g} to {MAX_UNITS:g}."
            )
        step = amount * torch.from_numpy(controls[name].direction)
        total = step if total is None else total + step
    return total
