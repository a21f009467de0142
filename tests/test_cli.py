"""The command: what it writes, and how it ends when something is wrong."""

import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from techloop.artifacts import read_json
from techloop.audio import read_audio, read_smpl, write_loop
from techloop.cli import app
from techloop.grid import Grid
from techloop.models.audio_vae import AudioVAE
from techloop.models.latent_vae import LatentVAE
from techloop.models.model import model_fingerprint

GRID = Grid()
COMMANDS = ("generate", "reconstruct", "morph", "walk")

PREPARATION = {
    "min_bpm": 90.0,
    "max_bpm": 180.0,
    "loudness_lufs": -16.0,
    "silence_lufs": -60.0,
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole instrument, untrained and tiny."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("repository") / "data" / "latent_vae" / "tiny"
    (folder / "audio_vae").mkdir(parents=True)
    AudioVAE(GRID, latent_dim=4, bands=16, channels=32, blocks=1).save(
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
    """A WAV is 16-bit, whole bars, loops over all of it, and says how it came about."""
    with wave.open(str(wav)) as file:
        assert (file.getsampwidth(), file.getnchannels()) == (2, 1)
        assert file.getframerate() == GRID.sample_rate_hz
        samples = file.getnframes()
    assert samples == bars * GRID.samples_per_bar
    assert read_smpl(wav) == (0, samples - 1)
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
    assert about["arguments"] == {"loops": 3}
    assert about["loop"] == 1
    assert about["model"] == "tiny"
    assert about["model_fingerprint"] == model_fingerprint(model)
    assert about["techloop"]


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
    made = sorted(path.name for path in tmp_path.glob("*.wav"))
    assert made == [f"reconstruct-first 125bpm-bar{bar:02d}-125bpm.wav" for bar in (0, 1)]
    about = check(tmp_path / made[1], bars=1)
    assert about["arguments"] == {"file": file.name}
    assert about["bar"] == 1


def test_morph_and_walk_are_whole_pieces(model: Path, recordings: Path, tmp_path: Path) -> None:
    ends = [recordings / "first 125bpm.wav", recordings / "second 125bpm.wav"]
    result = run("morph", *ends, "--bars", 3, "--out", tmp_path, "--model", model)
    assert result.exit_code == 0, result.output
    about = check(tmp_path / "morph-first 125bpm-second 125bpm-125bpm.wav", bars=3)
    assert about["arguments"] == {"a": ends[0].name, "b": ends[1].name, "bars": 3}

    result = run("walk", "--bars", 4, "--seed", 2, "--out", tmp_path, "--model", model)
    assert result.exit_code == 0, result.output
    assert check(tmp_path / "walk-seed2-125bpm.wav", bars=4)["seed"] == 2
    audio, _ = read_audio(tmp_path / "walk-seed2-125bpm.wav")
    assert np.abs(audio).max() > 0


def test_without_a_model_named_the_first_trained_is_taken_and_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parents[2])
    result = run("generate", "--loops", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert f"model: {Path('data/latent_vae/tiny')}" in result.stderr

    monkeypatch.chdir(tmp_path)
    result = run("generate")
    assert result.exit_code == 1
    assert "there is no model in" in result.stderr
    assert "dvc repro" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("silence.wav", "gave no loop: silent"),
        ("broken.wav", "gave no loop: unreadable"),
        ("absent.wav", "gave no loop: unreadable"),
    ],
)
def test_a_recording_that_cannot_be_used_gives_its_reason(
    model: Path, recordings: Path, tmp_path: Path, name: str, said: str
) -> None:
    good = recordings / "first 125bpm.wav"
    out = tmp_path / "out"
    for command in (["reconstruct", recordings / name], ["morph", good, recordings / name]):
        result = run(*command, "--out", out, "--model", model)
        assert result.exit_code == 1
        assert said in result.stderr
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


def test_help_imports_nothing_heavy_and_names_all(tmp_path: Path) -> None:
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
    assert run("--version").stdout.strip()
    for name in COMMANDS:
        text = run(name, "--help").stdout
        assert all(option in text for option in ("--seed", "--out", "--model"))
