from pathlib import Path

import pytest
from ruamel.yaml import YAML

from techloop.grid import Grid
from techloop.params import Params, load_params
from techloop.preparation_config import PreparationConfig
from tests.helpers.params import ROOT

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")


def load(tmp_path: Path, text: str) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_params(path)


def test_the_repositorys_own(tmp_path: Path) -> None:
    params = load(tmp_path, TEXT)
    assert isinstance(params.grid, Grid)
    assert params.grid.frames == 240
    assert set(params.train_audio_vae.cells) == {"kl", "wae"}
    for cell in params.train_latent_vae.cells.values():
        assert cell.regulariser in params.train_audio_vae.cells
        params.grid.check_length(cell.length)
    assert params.train_latent_vae.cells["kl-posterior-4"].plays == "decoder/kl"


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    params = load(tmp_path, TEXT)
    raw = YAML(typ="safe").load(TEXT)
    assert params.model_dump() == params.model_dump(mode="json") == raw
    assert Params.model_validate(params.model_dump()) == params
    assert params.logged("train_audio_vae", "wae") == {
        "seed": raw["seed"],
        "grid": raw["grid"],
        **{key: value for key, value in raw["train_audio_vae"].items() if key != "cells"},
        "cell": raw["train_audio_vae"]["cells"]["wae"],
    }
    assert params.logged("extract_latents") == {
        "seed": raw["seed"],
        "grid": raw["grid"],
        **raw["extract_latents"],
    }


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`seed` is missing"):
        load(tmp_path, TEXT.replace("seed: 0\n", ""))


@pytest.mark.parametrize(
    ("line", "key"),
    [("  hop: 128 ", "grid.hop"), ("    stretch: resample ", "prepare_loops.recipe.stretch")],
)
def test_a_missing_key_with_a_default_in_python_is_named_too(
    tmp_path: Path, line: str, key: str
) -> None:
    assert line in TEXT
    with pytest.raises(ValueError, match=rf"`{key}` is missing; every key is required"):
        load(tmp_path, TEXT.replace(line, "    # "))


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("  bpm: 125\n", "grid.tempo"),
        ("  recipe: ", "prepare_loops.tempo"),
        ("    max_bpm: 180\n", "prepare_loops.recipe.tempo"),
        ("seed: 0\n", "tempo"),
    ],
)
def test_an_unknown_key_is_named(tmp_path: Path, line: str, key: str) -> None:
    indent = line[: len(line) - len(line.lstrip())]
    with pytest.raises(ValueError, match=rf"`{key}` is not a known key"):
        load(tmp_path, TEXT.replace(line, f"{indent}tempo: 125\n{line}"))


def test_a_wrong_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`prepare_loops\.source` is 'tape'.*'folder' or 'fsld'"):
        load(tmp_path, TEXT.replace("source: synth", "source: tape"))
    with pytest.raises(ValueError, match=r"`prepare_loops\.recipe\.tracker` is 'ear'.*'beat_this'"):
        load(tmp_path, TEXT.replace("tracker: librosa", "tracker: ear"))
    with pytest.raises(ValueError, match=r"`prepare_loops\.recipe`: min_confidence is 2; it must"):
        load(tmp_path, TEXT.replace("min_confidence: 0.2", "min_confidence: 2"))
    with pytest.raises(ValueError, match=r"`grid\.bars` is 1\.5: .*integer"):
        load(tmp_path, TEXT.replace("  bars: 1 ", "  bars: 1.5 "))


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    text = TEXT.replace("source: synth", "source: tape").replace("seed: 0\n", "")
    with pytest.raises(ValueError, match=r"`seed` is missing.* `prepare_loops\.source` is 'tape'"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("bpm", "message"),
    [
        ("126", r"params\.yaml: `grid`: at 126 BPM .* nearest tempi"),
        ("0", r"`grid`: bpm is 0.0; it must be positive"),
        (".nan", r"`grid`: bpm is nan; it must be positive"),
    ],
)
def test_an_impossible_grid(tmp_path: Path, bpm: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, TEXT.replace("bpm: 125", f"bpm: {bpm}"))


def test_what_would_be_noticed_late(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kl-posterior-1`: length: 7 does not divide the 240"):
        load(
            tmp_path,
            TEXT.replace("objective: posterior, length: 1", "objective: posterior, length: 7"),
        )
    message = r"wae-mean-4\.regulariser` is 'gan', which is not one of kl, wae"
    with pytest.raises(ValueError, match=message):
        load(tmp_path, TEXT.replace("{regulariser: wae", "{regulariser: gan"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("regulariser: kl    # the cell", "regulariser: gan   # the cell"),
            r"finetune_decoder\.cells\.kl\.regulariser` is 'gan', which is not one of kl, wae",
        ),
        (
            ("[period, frame]", "[scale, scale]"),
            r"cells\.kl\.discriminators` is scale, scale; list each kind once",
        ),
        (("[period, frame]", "[mel]"), r"discriminators\.0` is 'mel': .*'stft' or 'frame'"),
        (("[period, frame]", "[]"), r"cells\.kl\.discriminators` is \[\]: .*at least 1 item"),
        (("objective: hinge", "objective: wgan"), r"objective` is 'wgan': .*'hinge' or 'least-"),
        (("adversarial: 0.1", "adversarial: -1"), r"weights\.adversarial` is -1: .*equal to 0"),
        (
            ("warmup_loops: 600 ", "warmup_loops: 6000 "),
            r"`finetune_decoder\.warmup_loops` is 6000 of the training's 6000 loops, .* lower it",
        ),
        (
            ("length: 1, plays: decoder/kl", "length: 1, plays: decoder/mine"),
            r"kl-posterior-1\.plays` is 'decoder/mine'; latents of the regulariser kl are played "
            r"by audio_vae/kl or decoder/kl",
        ),
        (
            ("plays: audio_vae/wae", "plays: decoder/kl"),
            r"wae-mean-4\.plays` is 'decoder/kl'; .* wae are played by audio_vae/wae\.",
        ),
    ],
)
def test_a_decoder_that_could_not_be_tuned_or_play(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    assert change[0] in TEXT
    with pytest.raises(ValueError, match=message):
        load(tmp_path, TEXT.replace(*change))


def test_all_contradictions_are_named_at_once(tmp_path: Path) -> None:
    text = TEXT.replace("plays: decoder/kl", "plays: decoder/a").replace(
        "[period, frame]", "[frame, frame]"
    )
    with pytest.raises(ValueError, match=r"frame, frame; list.*posterior-4\.plays.*mean-16\.plays"):
        load(tmp_path, text)


def test_no_cell_leaves_the_decoder_as_it_is(tmp_path: Path) -> None:
    raw = YAML(typ="safe").load(TEXT)
    raw["finetune_decoder"]["cells"] = {}
    for cell in raw["train_latent_vae"]["cells"].values():
        cell["plays"] = f"audio_vae/{cell['regulariser']}"
    file = tmp_path / "params.yaml"
    YAML().dump(raw, file)
    assert load_params(file).finetune_decoder.cells == {}


def test_what_is_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not valid YAML"):
        load(tmp_path, "seed: [0")
    with pytest.raises(ValueError, match="is not there"):
        load_params(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="`the file` is "):
        load(tmp_path, "3")


def test_cells(tmp_path: Path) -> None:
    section = load(tmp_path, TEXT).train_audio_vae
    assert section.cell("wae").regulariser == "wae"
    assert "cells" not in section.logged("wae")
    with pytest.raises(ValueError, match="'gan' is not one of kl, wae"):
        section.cell("gan")


def test_the_recipe_of_the_repository_is_the_librarys() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.prepare_loops.recipe == PreparationConfig()
    assert params.grid == Grid()
