from pathlib import Path

import pytest

from techloop.data.loops import PreparationConfig
from techloop.params import load_params
from tests.helpers.params import ROOT

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")


def load(tmp_path: Path, text: str):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_params(path)


def test_the_repositorys_own(tmp_path: Path) -> None:
    params = load(tmp_path, TEXT)
    assert params.beat_grid().frames == 240
    assert set(params.train_audio_vae.cells) == {"kl", "wae"}
    for cell in params.train_latent_vae.cells.values():
        assert cell.regulariser in params.train_audio_vae.cells
        params.beat_grid().check_length(cell.length)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`seed` is missing"):
        load(tmp_path, TEXT.replace("seed: 0\n", ""))


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`grid\.tempo` is no known key"):
        load(tmp_path, TEXT.replace("  bpm: 125\n", "  bpm: 125\n  tempo: 125\n"))


def test_a_wrong_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`prepare_loops\.source` is 'tape'.*'folder' or 'fsld'"):
        load(tmp_path, TEXT.replace("source: synth", "source: tape"))


def test_an_impossible_grid(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nearest tempi"):
        load(tmp_path, TEXT.replace("bpm: 125", "bpm: 126"))


def test_what_would_be_noticed_late(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kl-posterior-1`: length: 7 does not divide the 240"):
        load(
            tmp_path,
            TEXT.replace("objective: posterior, length: 1", "objective: posterior, length: 7"),
        )
    with pytest.raises(ValueError, match=r"wae-mean-4\.regulariser` is 'gan', none of kl, wae"):
        load(tmp_path, TEXT.replace("{regulariser: wae", "{regulariser: gan"))


def test_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no valid YAML"):
        load(tmp_path, "seed: [0")
    with pytest.raises(ValueError, match="is not there"):
        load_params(tmp_path / "none.yaml")


def test_cells(tmp_path: Path) -> None:
    section = load(tmp_path, TEXT).train_audio_vae
    assert section.of("wae")["cell"]["regulariser"] == "wae"
    assert "cells" not in section.of("wae")
    with pytest.raises(ValueError, match="'gan' is none of kl, wae"):
        section.cell("gan")


def test_the_recipe_of_the_repository_is_the_librarys() -> None:
    params = load_params(ROOT / "params.yaml")
    told = params.prepare_loops.recipe.model_dump()
    assert PreparationConfig(params.beat_grid(), **told) == PreparationConfig(params.beat_grid())
