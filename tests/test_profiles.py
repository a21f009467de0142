"""Profiles are valid, and change nothing else in params.yaml."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from techloop.cli import app
from techloop.params import load_params
from techloop.pipeline.profiles import use_profile
from tests.helpers.params import ROOT

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
NAMES = ("laptop", "evening", "studio")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A folder with params.yaml and the profiles."""
    (tmp_path / "params.yaml").write_text(TEXT, encoding="utf-8")
    (tmp_path / "profiles").mkdir()
    for name in NAMES:
        text = (ROOT / "profiles" / f"{name}.yaml").read_text(encoding="utf-8")
        (tmp_path / "profiles" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def leaves(values: dict, within: str = "") -> Iterator[str]:
    """Keys of a profile; a cell of its own counts as one."""
    for key, value in values.items():
        place = f"{within}{key}"
        if isinstance(value, dict) and "regulariser" not in value:
            yield from leaves(value, f"{place}.")
        else:
            yield place


def test_the_repository_has_the_laptop_profile(top: Path) -> None:
    assert use_profile("laptop", top) == []
    assert (top / "params.yaml").read_text(encoding="utf-8") == TEXT


def test_profiles_have_the_same_keys() -> None:
    files = [YAML(typ="safe").load(ROOT / "profiles" / f"{name}.yaml") for name in NAMES]
    laptop, *others = (list(leaves(values)) for values in files)
    assert len(laptop) > 20
    assert others == [laptop] * len(others)


def test_studio_is_valid_and_laptop_undoes_it_exactly(top: Path) -> None:
    changes = use_profile("studio", top)
    assert "train_audio_vae.training.batch_size: 4 -> 32" in changes
    assert "train_audio_vae.cells.wae-gan: new" in changes
    studio, laptop = load_params(top / "params.yaml"), load_params(ROOT / "params.yaml")
    assert studio.train_audio_vae.model.channels > laptop.train_audio_vae.model.channels
    assert {"kl", "wae", "wae-gan"} == set(studio.train_audio_vae.cells)
    assert {c.length for c in studio.train_latent_vae.cells.values()} == {1, 4, 16, 60}
    assert set(laptop.train_latent_vae.cells) < set(studio.train_latent_vae.cells)
    text = (top / "params.yaml").read_text(encoding="utf-8")
    comments = [line.partition("# ")[2] for line in TEXT.splitlines() if "# " in line]
    assert [line.partition("# ")[2] for line in text.splitlines() if "# " in line] == comments
    assert use_profile("studio", top) == []
    assert len(use_profile("laptop", top)) == len(changes)
    assert (top / "params.yaml").read_text(encoding="utf-8") == TEXT


def test_evening_trains_the_laptops_models_longer(top: Path) -> None:
    use_profile("evening", top)
    evening, laptop = load_params(top / "params.yaml"), load_params(ROOT / "params.yaml")
    for stage in ("train_audio_vae", "finetune_decoder", "train_latent_vae"):
        long, short = getattr(evening, stage), getattr(laptop, stage)
        assert long.training.loops > 2 * short.training.loops
        assert set(long.cells) >= set(short.cells)
    assert evening.train_audio_vae.model == laptop.train_audio_vae.model
    # Seconds per loop of two cores, by the header of the profile.
    seconds_per_loop = {
        "train_audio_vae": 0.1 / 4,
        "finetune_decoder": 0.45 / 8,
        "train_latent_vae": 36 / 14_000,
    }
    seconds = sum(
        cost * getattr(evening, stage).training.loops * len(getattr(evening, stage).cells)
        for stage, cost in seconds_per_loop.items()
    )
    assert seconds + 15 * 60 < 2.5 * 3600
    use_profile("studio", top)
    use_profile("laptop", top)
    assert (top / "params.yaml").read_text(encoding="utf-8") == TEXT


def test_a_users_own_changes_stay(top: Path) -> None:
    cell = "{regulariser: kl, objective: posterior, length: 2, plays: audio_vae/kl}"
    own = f"    mine: {cell}  # a try\n"
    text = TEXT.replace("seed: 0\n", "seed: 7  # mine\n").replace(
        "    kl-mean-16:", f"{own}    kl-mean-16:"
    )
    (top / "params.yaml").write_text(text, encoding="utf-8")
    use_profile("studio", top)
    changed = (top / "params.yaml").read_text(encoding="utf-8")
    assert "seed: 7  # mine\n" in changed
    assert own in changed
    use_profile("laptop", top)
    assert (top / "params.yaml").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (
            "train_audio_vae: {modell: {channels: 8}}\n",
            r"`train_audio_vae\.modell` is (no|not a) known key",
        ),
        ("train_audio_vae: {crop_fraction: 2}\n", "less than or equal to 1"),
        ("train_audio_vae: {cells: {wae: }}\n", "one of kl, the cells of train_audio_vae"),
        ("seed: [\n", "(no|not) valid YAML"),
        ("", "no sections"),
    ],
)
def test_a_wrong_profile_changes_nothing(top: Path, profile: str, message: str) -> None:
    (top / "profiles" / "mine.yaml").write_text(profile, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        use_profile("mine", top)
    assert (top / "params.yaml").read_text(encoding="utf-8") == TEXT


def test_the_command(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(top)
    ended = CliRunner().invoke(app, ["profile", "desktop"])
    assert ended.exit_code == 1
    assert "profile 'desktop' does not exist; profiles has evening, laptop, studio" in ended.stderr
    ended = CliRunner().invoke(app, ["profile", "studio"])
    assert ended.exit_code == 0
    assert "prepare_loops.synth.loops: 2000 -> 40000" in ended.stdout
    assert (
        "has the sizes of studio already" in CliRunner().invoke(app, ["profile", "studio"]).stdout
    )
    (top / "params.yaml").unlink()
    ended = CliRunner().invoke(app, ["profile", "studio"])
    assert ended.exit_code == 1
    assert "params.yaml is not there; run from the top" in ended.stderr
