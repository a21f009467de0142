"""The command: what it writes, and how it ends when something is wrong."""

import json
import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

import techloop
from techloop.artifacts import read_json, write_json
from techloop.audio.io import read_audio
from techloop.audio.wav import write_loop
from techloop.cli import app
from techloop.grid import Grid
from techloop.models.audio_vae import AudioVAE
from techloop.models.base import model_fingerprint
from techloop.models.latent_vae import LatentVAE
from tests.helpers.params import recipe

GRID = Grid()
COMMANDS = ("generate", "reconstruct", "morph", "walk")

PREPARATION = vars(recipe())


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete instrument, untrained and tiny."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("repository") / "data" / "instrument" / "tiny"
    (folder / "audio_vae").mkdir(parents=True)
    AudioVAE(GRID, latent_dim=4, channels=32, blocks=1).save(
        folder / "audio_vae", preparation=PREPARATION
    )
    inner = model_fingerprint(folder / "audio_vae")
    LatentVAE(GRID, audio_latent_dim=4, length=4, latent_dim=3, channels=16, blocks=1).save(
        folder, audio_vae=inner
    )
    return folder


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bars of four-on-the-floor on the grid, the same with other hats, and silence."""
    folder = tmp_path_factory.mktemp("recordings")
    for seed, name in enumerate(("first 125bpm.wav", "second 125bpm.wav")):
        t = np.arange(2 * GRID.samples) / GRID.sample_rate_hz
        noise = np.random.default_rng(seed).standard_normal(t.size)
        kick = np.sin(2 * np.pi * 50 * t) * np.exp(-8 * (t % 0.48))
        hat = (0.1 + 0.2 * seed) * noise * np.exp(-40 * ((t + 0.24) % 0.48))
        write_loop(
            folder / name, (0.7 * kick + hat).astype(np.float32), GRID.sample_rate_hz, 125.0, 8
        )
    write_loop(folder / "silence.wav", np.zeros(30_720, np.float32), 16_000, 125.0, 4)
    (folder / "broken.wav").write_bytes(b"RIFF and nothing else")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def check(wav: Path, bars: int) -> dict:
    """Check a WAV (16 bits, whole bars, loops over its length) and return its JSON file."""
    with wave.open(str(wav)) as file:
        assert (file.getsampwidth(), file.getnchannels()) == (2, 1)
        assert file.getframerate() == GRID.sample_rate_hz
        samples = file.getnframes()
    assert samples == bars * GRID.samples_per_bar
    assert read_audio(wav).tags.loop == (0, samples)
    about = read_json(wav.with_suffix(".json"))
    assert about["bars"] == bars
    assert about["grid"] == {
        "sample_rate_hz": 16_000,
        "hop": 128,
        "bpm": 125.0,
        "beats_per_bar": 4,
        "bars": 1,
    }
    return about


def test_generate(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    result = run("generate", "--loops", 3, "--seed", 5, "--out", out, "--model", model)
    assert result.exit_code == 0, result.output
    names = [f"generate-seed5-{i:02d}-125bpm.wav" for i in range(3)]
    assert sorted(path.name for path in out.glob("*.wav")) == names
    assert result.stdout.split() == [str(out / name) for name in names]
    about = check(out / names[1], bars=1)
    assert about["seed"] == 5
    assert about["command"] == "generate"
    assert about["arguments"] == {"loops": 3, "set": {}}
    assert about["loop"] == 1
    assert about["model"] == "tiny"
    assert about["model_fingerprint"] == model_fingerprint(model)
    assert about["audio_vae_fingerprint"] == model_fingerprint(model / "audio_vae")
    assert about["techloop"]


def test_settings_move_along_controls(model: Path, tmp_path: Path) -> None:
    """The controls come from the file beside the model, or from a named file."""
    home = Path(shutil.copytree(model, tmp_path / "model"))
    direction = np.zeros((3, 4))
    direction[0, 0] = 1
    control = {
        "descriptor": "centroid_hz",
        "interval": [0, 1],
        "gains": {},
        "direction": direction.tolist(),
    }
    controls = {"latent_vae": model_fingerprint(home), "controls": {"brighter": control}}
    write_json(home / "controls.json", controls)
    for name, settings in (("none", ()), ("up", ("--set", "brighter=+1.5"))):
        for command in ("generate", "walk"):
            out = tmp_path / command / name
            result = run(command, *settings, "--out", out, "--model", home)
            assert result.exit_code == 0, result.output
    for command in ("generate", "walk"):
        plain, up = (sorted((tmp_path / command / name).glob("*.wav")) for name in ("none", "up"))
        assert all(a.read_bytes() != b.read_bytes() for a, b in zip(plain, up, strict=True))
    about = read_json(up[0].with_suffix(".json"))
    assert about["arguments"]["set"] == {"brighter": 1.5}

    named = ("--controls", shutil.move(home / "controls.json", tmp_path / "named.json"))
    again = tmp_path / "again"
    result = run("walk", "--set", "brighter=1.5", *named, "--out", again, "--model", home)
    assert result.exit_code == 0, result.output
    assert next(again.glob("*.wav")).read_bytes() == up[0].read_bytes()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("brighter", "is not a control and a number"),
        ("brighter=much", "is not a control and a number"),
        ("brighter=1", "controls.json is not there"),
    ],
)
def test_a_wrong_setting_is_refused(
    setting: str, message: str, model: Path, tmp_path: Path
) -> None:
    result = run("generate", "--set", setting, "--out", tmp_path / "out", "--model", model)
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_seed_is_reproduced_and_another_differs(model: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = tmp_path / name
        run("generate", "--loops", 1, "--seed", seed, "--out", out, "--model", model)
    a, b, c = (next((tmp_path / name).glob("*.wav")).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_reconstruct_takes_every_loop_of_a_recording(
    model: Path, recordings: Path, tmp_path: Path
) -> None:
    file = recordings / "first 125bpm.wav"
    result = run("reconstruct", file, "--out", tmp_path, "--model", model)
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in tmp_path.glob("*.wav"))
    assert names == [f"reconstruct-first 125bpm-bar{bar:02d}-125bpm.wav" for bar in (0, 1)]
    about = check(tmp_path / names[1], bars=1)
    assert about["arguments"] == {"file": file.name}
    assert about["bar"] == 1


def test_morph_and_walk_have_all_bars(model: Path, recordings: Path, tmp_path: Path) -> None:
    ends = [recordings / "first 125bpm.wav", recordings / "second 125bpm.wav"]
    result = run("morph", *ends, "--bars", 3, "--out", tmp_path, "--model", model)
    assert result.exit_code == 0, result.output
    about = check(tmp_path / "morph-first 125bpm-second 125bpm-125bpm.wav", bars=3)
    assert about["arguments"] == {"a": ends[0].name, "b": ends[1].name, "bars": 3}

    result = run("walk", "--bars", 4, "--seed", 2, "--out", tmp_path, "--model", model)
    assert result.exit_code == 0, result.output
    assert check(tmp_path / "walk-seed2-125bpm.wav", bars=4)["seed"] == 2
    assert np.abs(read_audio(tmp_path / "walk-seed2-125bpm.wav").samples).max() > 0


def test_without_a_named_model_the_first_trained_is_used_and_reported(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parents[2])
    result = run("generate", "--loops", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert f"model: {Path('data/instrument/tiny')}" in result.stderr

    monkeypatch.chdir(tmp_path)
    result = run("generate")
    assert result.exit_code == 1
    assert "no model is in" in result.stderr
    assert "dvc repro" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("silence.wav", "gave no loop: silent"),
        ("broken.wav", "gave no loop: unreadable"),
        ("absent.wav", "gave no loop: unreadable"),
    ],
)
def test_a_recording_that_cannot_be_used_gives_its_reason(
    model: Path, recordings: Path, tmp_path: Path, name: str, message: str
) -> None:
    good = recordings / "first 125bpm.wav"
    out = tmp_path / "out"
    for command in (["reconstruct", recordings / name], ["morph", good, recordings / name]):
        result = run(*command, "--out", out, "--model", model)
        assert result.exit_code == 1
        assert message in result.stderr
        assert "nan" not in result.stderr
        assert result.stderr.count("\n") == 1, "one paragraph"
        assert not out.exists()


def test_a_damaged_model_is_named(model: Path, tmp_path: Path) -> None:
    result = run("walk", "--model", tmp_path / "absent", "--out", tmp_path)
    assert result.exit_code == 1
    assert "config.json is not there" in result.stderr
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    config = json.loads((model / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config))
    (damaged / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:1000])
    result = run("walk", "--model", damaged, "--out", tmp_path)
    assert result.exit_code == 1
    assert "truncated" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "--loops", 0),
        ("generate", "--seed", -1),
        ("walk", "--bars", 1),
        ("morph", "only-one.wav"),
        ("play",),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple) -> None:
    assert run(*arguments).exit_code == 2


def test_help_imports_nothing_heavy_and_lists_all_commands(tmp_path: Path) -> None:
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from techloop.cli import app\n"
        "app()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, "--help"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "100"},
    )
    assert all(name in ran.stdout for name in COMMANDS)
    heavy = {"torch", "numpy", "pandas", "scipy", "librosa", "matplotlib", "mlflow", "prefect"}
    loaded = set(ran.stderr.split())
    assert "techloop.cli" in loaded
    assert loaded & heavy == set()


def test_version_and_the_help_of_each_command() -> None:
    assert run("--version").stdout.strip() == techloop.__version__
    for name in COMMANDS:
        text = run(name, "--help").stdout
        assert all(option in text for option in ("--out", "--model"))
        assert ("--seed" in text) == (name in ("generate", "walk"))  # the rest draws nothing


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset of loops with all that `inspect` reads."""
    folder = tmp_path / "loops"
    folder.mkdir()
    index = pd.DataFrame(
        {
            "name": [f"pack/シンセ {i // 2}.wav" for i in range(40)],
            "group": [f"author {i // 10}" for i in range(40)],
            "split": ["train"] * 20 + ["validation"] * 10 + ["test"] * 10,
            "licence": "CC0-1.0",
            "bpm": 120.0 + np.arange(40) // 4,
            "bpm_source": "name",
            "bpm_confidence": np.linspace(0.5, 1, 40),
            "bpm_evidence": "name 125",
            "duration_s": 4.0,
            "loudness_lufs": np.linspace(-30, -10, 40),
        }
    )
    index.to_parquet(folder / "index.parquet")
    (folder / "rejected.csv").write_text(
        "file,bar,reason,detail,value,limit\nx.wav,3,silent,less loud,-71.5,-60\n"
    )
    card = {"grid": GRID.__dict__, "source": "folder", "loops": 40, "items": 21}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def test_inspect(dataset: Path, tmp_path: Path) -> None:
    result = run("inspect", dataset)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for text in (
        "40 loops of 1 bar",
        "20 of 21 recordings",
        "x.wav, bar 3: less loud (-71.5, limit -60)",
        "0.50   120.00 BPM  pack/シンセ 0.wav",
        "Tempo of the recordings (BPM)\n  20 recordings: 120 to 129",
        "█",
    ):
        assert text in result.stdout, text
    assert {path.name for path in dataset.iterdir()} == {
        "card.json",
        "index.parquet",
        "rejected.csv",
    }


def test_inspect_draws_a_picture(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    result = run("inspect", dataset, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.split()[-1] == str(out / "inspect.png")
    assert [path.name for path in out.iterdir()] == ["inspect.png"]
    assert (out / "inspect.png").read_bytes().startswith(b"\x89PNG")
    (dataset / "rejected.csv").write_text("file,bar,reason,detail,value,limit\n")
    pd.read_parquet(dataset / "index.parquet").assign(
        bpm=np.nan, duration_s=np.nan, loudness_lufs=np.nan
    ).to_parquet(dataset / "index.parquet")
    assert run("inspect", dataset, "--out", out).exit_code == 0, "nothing to draw"


def test_inspect_of_an_older_dataset_shows_its_columns_and_ends_with_1(dataset: Path) -> None:
    index = pd.read_parquet(dataset / "index.parquet")
    index.drop(columns=["loudness_lufs", "duration_s"]).to_parquet(dataset / "index.parquet")
    result = run("inspect", dataset)
    assert result.exit_code == 1
    assert "20 recordings: 120 to 129" in result.stdout
    assert "index.parquet has no duration_s, loudness_lufs" in result.stderr
    assert "dvc repro prepare_loops" in result.stderr
    assert result.stderr.count("\n") == 1, "one paragraph"


def test_inspect_of_a_wrong_folder_ends_with_1(
    dataset: Path, recordings: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(dataset, damaged)
    (damaged / "index.parquet").write_bytes(b"PAR1")
    for folder, message in (
        (tmp_path / "absent", "is not there"),
        (recordings, "holds recordings"),
        (damaged, "truncated or damaged"),
        (tmp_path, "holds one: give"),
    ):
        result = run("inspect", folder)
        assert result.exit_code == 1
        assert message in result.stderr
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1, "one paragraph"


def test_prepare_makes_a_dataset_that_inspect_opens(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(24):
        rng = np.random.default_rng(i)
        decay = np.exp(-np.arange(1920) / 300)
        steps = (rng.random((16, 1)) ** 3 * decay).ravel()
        x = np.tile(0.3 * steps * rng.standard_normal(GRID.samples), 2)
        soundfile.write(tmp_path / "in" / f"{i} 125bpm.wav", x, 16_000)
    (tmp_path / "in" / "notes.mp3").write_text("no audio")
    options = ("--bars", 2, "--stretch", "preserve_pitch", "--workers", 1)
    result = run("prepare", tmp_path / "in", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert "24 loops of 25 files" in result.stdout
    card = read_json(tmp_path / "out" / "card.json")
    assert (card["grid"]["bars"], card["preparation"]["stretch"]) == (2, "preserve_pitch")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert "unreadable" in run("inspect", tmp_path / "out").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent", "out"), "absent is not a folder"),
        (("in", "out", "--bpm", "126"), "nearest tempi that are"),
        (("in", "out"), "holds no audio"),
    ],
)
def test_prepare_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    result = run("prepare", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1, "one paragraph"


@pytest.mark.parametrize(("encoding", "bar"), [("utf-8", "█"), ("ascii", "#")])
def test_inspect_is_light_and_writes_what_the_terminal_can(
    dataset: Path, encoding: str, bar: str
) -> None:
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from techloop.cli import app\n"
        "app()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, "inspect", str(dataset)],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert bar in ran.stdout.decode(encoding)
    loaded = set(ran.stderr.decode().split())
    assert "techloop.data.summary" in loaded
    assert loaded & {"torch", "scipy", "librosa", "matplotlib", "mlflow", "prefect"} == set()


def test_the_help_of_inspect() -> None:
    assert "inspect" in run("--help").stdout
    text = run("inspect", "--help").stdout
    assert "data/loops" in text
    assert "--out" in text


@pytest.mark.parametrize(
    ("arguments", "package", "module", "extra"),
    [
        (("inspect",), "pandas", "techloop.data.loops_folder", "data"),
        (("fetch-fsld",), "requests", "techloop.data.sources.fsld.download", "data"),
        (("profile", "laptop"), "ruamel.yaml", "techloop.pipeline.profiles", "pipeline"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    package: str,
    module: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    result = run(*arguments)
    assert result.exit_code == 1
    name = package.partition(".")[0]
    assert f"needs the package {name}, which is not installed" in result.stderr
    assert f"pip install 'techloop[{extra}]'" in result.stderr
    assert result.stderr.count("\n") == 1, "one paragraph"


def test_a_missing_module_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "techloop.data.loops_folder", None)
    assert isinstance(run("inspect").exception, ModuleNotFoundError)


def test_the_package_hands_out_its_classes_when_asked_for() -> None:
    script = (
        "import sys, techloop\n"
        "assert 'torch' not in sys.modules\n"
        "print(*(getattr(techloop, name).__module__ for name in techloop.__all__))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    modules = ["techloop.instrument", "techloop.data.datasets", "techloop.data.datasets"]
    assert ran.stdout.split() == modules
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        techloop.nothing  # noqa: B018
