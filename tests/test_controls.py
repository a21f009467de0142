"""Controls: does the loop that comes out move the way its name says?"""

from pathlib import Path

import numpy as np
import pytest
import torch

from techloop.artifacts import read_json, write_json
from techloop.audio.descriptors import UNITS, loop_descriptors
from techloop.data.datasets import LoopDataset
from techloop.evaluation.controls import (
    NAMES,
    Control,
    displacement,
    evaluate_controls,
    find_controls,
    load_controls,
    separated,
)
from techloop.instrument import Instrument
from tests.helpers.datasets import contents


@pytest.fixture(scope="module")
def instrument(latent_vae_folder: Path) -> Instrument:
    return Instrument.load(latent_vae_folder)


@pytest.fixture(scope="module")
def folder(
    instrument: Instrument, loops_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("controls") / "controls"
    loops = LoopDataset(loops_folder, "test")
    evaluate_controls(instrument, loops, folder, loops=96, probes=8, seed=0)
    return folder


@pytest.mark.parametrize("name", ["brighter", "noisier", "bassier"])
def test_a_trained_model_moves_that_way(name: str, folder: Path, instrument: Instrument) -> None:
    """On loops that neither direction nor gain were found from."""
    controls = load_controls(folder / "controls.json", instrument)
    heard = []
    for units in (-3.0, 0.0, 3.0):
        audio = instrument.generate(16, 99, displacement(controls, {name: units}))
        values = loop_descriptors(torch.from_numpy(audio), instrument.grid)[NAMES[name]]
        heard.append(float(values.mean()))
    assert heard[0] < heard[1] < heard[2]
    told = controls[name]
    assert 0 < told.low <= told.gains[told.descriptor] <= told.high
    # About as far as the gain says; the way is not a straight line.
    assert heard[2] - heard[0] == pytest.approx(6 * told.gains[told.descriptor], rel=0.6)


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
    found = separated(slopes)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)

    def leakage(directions: np.ndarray) -> np.ndarray:
        rises = slopes @ directions.T
        return np.abs(rises - np.diag(np.diag(rises))).sum(0) / np.diag(rises)

    assert (np.diag(slopes @ found.T) > 0).all()
    assert (leakage(found) < 0.5 * leakage(plain)).all()
    # What has nothing to do with one another is left as it is, and so is one alone.
    apart = np.eye(3, 5) * [[1.0], [2.0], [3.0]]
    np.testing.assert_allclose(separated(apart), np.eye(3, 5), atol=1e-12)
    np.testing.assert_allclose(separated(slopes[:1]), plain[:1])


def test_the_folder_is_whole_and_the_same_again(
    folder: Path, instrument: Instrument, loops_folder: Path, tmp_path: Path
) -> None:
    loops = LoopDataset(loops_folder, "test")
    metrics = evaluate_controls(instrument, loops, tmp_path / "a", loops=96, probes=8, seed=0)
    assert contents(tmp_path / "a") == contents(folder)
    items = read_json(folder / "items.json")
    files = {item["file"] for item in items} | {"items.json", "metrics.json", "controls.json"}
    assert files == set(contents(folder))
    assert metrics["gain_sd_brighter"] > 0
    assert metrics["leakage_sd_brighter"] > 0


def test_what_no_loop_differs_in_has_no_control(
    instrument: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        instrument, "render", lambda points: np.zeros((len(points), instrument.grid.samples), "f4")
    )
    assert find_controls(instrument, loops=8, probes=2, seed=0) == {}
    with pytest.raises(ValueError, match="8 loops and 2 probes"):
        find_controls(instrument, loops=7, probes=2, seed=0)


def test_settings_that_mean_nothing_are_refused() -> None:
    control = Control("centroid_hz", np.ones((1, 1)), dict.fromkeys(UNITS, 0.0), 0.0, 0.0)
    with pytest.raises(ValueError, match="no control `faster`; this model has brighter"):
        displacement({"brighter": control}, {"faster": 1.0})
    for units in (5.1, -9.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="too far"):
            displacement({"brighter": control}, {"brighter": units})


def test_controls_of_another_model_are_refused(
    folder: Path, instrument: Instrument, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="is not there"):
        load_controls(tmp_path / "controls.json", instrument)
    held = read_json(folder / "controls.json")
    write_json(tmp_path / "other.json", held | {"latent_vae": "0123"})
    with pytest.raises(ValueError, match="measured on latent VAE 0123"):
        load_controls(tmp_path / "other.json", instrument)
    held["controls"]["brighter"]["direction"] = [[1.0]]
    write_json(tmp_path / "damaged.json", held)
    with pytest.raises(ValueError, match=r"`brighter` has the shape \(1, 1\)"):
        load_controls(tmp_path / "damaged.json", instrument)
