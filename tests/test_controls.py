"""Controls: does the loop that comes out move the way its name says?"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from techloop.artifacts import read_json, write_json
from techloop.audio.descriptors import UNITS, loop_descriptors
from techloop.controls import Control, controls_json, displacement, load_controls
from techloop.data.datasets import LoopDataset
from techloop.evaluation.controls import (
    CONTROLS,
    evaluate_controls,
    find_controls,
    separate_directions,
)
from techloop.evaluation.metrics.units import DIFFERENCE_UNITS
from techloop.instrument import Instrument
from techloop.metric import flat_metrics, read_metrics
from tests.helpers.datasets import contents


@pytest.fixture(scope="module")
def instrument(latent_vae_folder: Path) -> Instrument:
    return Instrument.load(latent_vae_folder)


@pytest.fixture(scope="module")
def folder(
    instrument: Instrument, loops_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("controls") / "controls"
    write_controls(instrument, loops_folder, folder)
    return folder


def write_controls(instrument: Instrument, loops_folder: Path, folder: Path) -> dict[str, float]:
    """What the stage does; the metrics."""
    loops = LoopDataset(loops_folder, "test")
    evaluation, controls = evaluate_controls(instrument, loops, loops=96, probes=8, seed=0)
    playable = controls_json(controls, instrument.fingerprint)
    evaluation.write(folder, instrument.grid, controls=playable)
    return flat_metrics(evaluation.metrics)


@pytest.mark.parametrize("name", ["brighter", "noisier", "bassier"])
def test_a_trained_model_moves_that_way(name: str, folder: Path, instrument: Instrument) -> None:
    """On loops that neither the regression nor the gain has seen."""
    controls = load_controls(folder / "controls.json", instrument)
    means = []
    for units in (-3.0, 0.0, 3.0):
        audio = instrument.generate(16, 99, displacement(controls, {name: units}))
        values = loop_descriptors(torch.from_numpy(audio), instrument.grid)[CONTROLS[name]]
        means.append(float(values.mean()))
    assert means[0] < means[1] < means[2]
    control = controls[name]
    gain = control.gains[control.descriptor]
    assert 0 < control.low <= gain <= control.high
    # About as far as the gain says; the response is not linear.
    assert means[2] - means[0] == pytest.approx(6 * gain, rel=0.6)


def test_directions_are_unit_steps_of_the_prior(folder: Path, instrument: Instrument) -> None:
    controls = load_controls(folder / "controls.json", instrument)
    for control in controls.values():
        assert np.linalg.norm(control.direction) == pytest.approx(1, abs=1e-5)
        assert set(control.gains) == set(UNITS)
    both = displacement(controls, {"brighter": 1.0, "bassier": -2.0})
    expected = controls["brighter"].direction - 2 * controls["bassier"].direction
    assert both is not None
    np.testing.assert_allclose(both.numpy(), expected, atol=1e-6)
    assert displacement(controls, {}) is None


def test_separated_directions_raise_their_own_and_hardly_the_others() -> None:
    draw = np.random.default_rng(0)
    common, own = draw.standard_normal(50), draw.standard_normal((3, 50))
    slopes = 2 * common + own  # three values that nearly always rise together
    plain = slopes / np.linalg.norm(slopes, axis=1, keepdims=True)
    directions = separate_directions(slopes)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)

    def leakage(directions: np.ndarray) -> np.ndarray:
        rises = slopes @ directions.T
        return np.abs(rises - np.diag(np.diag(rises))).sum(0) / np.diag(rises)

    assert (np.diag(slopes @ directions.T) > 0).all()
    assert (leakage(directions) < 0.5 * leakage(plain)).all()
    # Unrelated slopes stay as they are, and so does a single one.
    apart = np.eye(3, 5) * [[1.0], [2.0], [3.0]]
    np.testing.assert_allclose(separate_directions(apart), np.eye(3, 5), atol=1e-12)
    np.testing.assert_allclose(separate_directions(slopes[:1]), plain[:1])


def test_the_folder_is_complete_and_the_same_again(
    folder: Path, instrument: Instrument, loops_folder: Path, tmp_path: Path
) -> None:
    metrics = write_controls(instrument, loops_folder, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(folder)
    files = {"metrics.json", "arrays.npz", "facts.json", "sounds.json", "controls.json"}
    assert set(contents(folder)) == files
    assert metrics["gain_sd_brighter"] > 0
    assert metrics["leakage_sd_brighter"] > 0


def test_numbers_have_the_unit_and_direction_of_their_kind(folder: Path) -> None:
    metrics = read_metrics(folder / "metrics.json")
    facts = read_json(folder / "facts.json")
    controls: dict[str, str] = facts["controls"]
    kinds = ("gain", "gain_sd", "leakage_sd")
    expected = {f"{kind}_{name}" for kind in kinds for name in controls} | {"loops", "probes"}
    assert set(metrics) == expected
    units = {name: m.metric.unit for name, m in metrics.items() if m.metric.unit}
    assert units == {
        f"gain_{name}": unit for name, d in controls.items() if (unit := DIFFERENCE_UNITS[d])
    }
    assert units["gain_louder"] == "dB"
    directions = {name: m.metric.better for name, m in metrics.items() if m.metric.better}
    assert directions == {f"gain_sd_{name}": "higher" for name in controls} | {
        f"leakage_sd_{name}": "lower" for name in controls
    }


def test_a_descriptor_that_is_the_same_in_all_loops_has_no_control(
    instrument: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        instrument, "render", lambda points: np.zeros((len(points), instrument.grid.samples), "f4")
    )
    assert find_controls(instrument, loops=8, probes=2, seed=0) == {}
    with pytest.raises(ValueError, match="8 loops and 2 probes"):
        find_controls(instrument, loops=7, probes=2, seed=0)


def test_unknown_and_extreme_settings_are_refused() -> None:
    control = Control("centroid_hz", np.ones((1, 1)), dict.fromkeys(UNITS, 0.0), 0.0, 0.0)
    with pytest.raises(ValueError, match="no control `faster`; it has brighter"):
        displacement({"brighter": control}, {"faster": 1.0})
    for units in (5.1, -9.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="too far"):
            displacement({"brighter": control}, {"brighter": units})


def test_controls_of_another_model_are_refused(
    folder: Path, instrument: Instrument, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="is not there"):
        load_controls(tmp_path / "controls.json", instrument)
    content = read_json(folder / "controls.json")
    write_json(tmp_path / "other.json", content | {"latent_vae": "0123"})
    with pytest.raises(ValueError, match="measured on latent VAE 0123"):
        load_controls(tmp_path / "other.json", instrument)
    content["controls"]["brighter"]["direction"] = [[1.0]]
    write_json(tmp_path / "damaged.json", content)
    with pytest.raises(ValueError, match=r"`brighter` has the shape \(1, 1\)"):
        load_controls(tmp_path / "damaged.json", instrument)


def test_playing_takes_no_library_of_the_evaluation() -> None:
    script = "import sys, techloop.controls; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = set(run.stdout.split())
    assert "techloop.controls" in loaded
    assert loaded & {"pandas", "sklearn", "scipy", "matplotlib", "mlflow"} == set()
