"""The examples do what their first lines say, and are short enough to copy."""

import csv
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from techloop import Instrument, LoopDataset
from techloop.audio.wav import write_loop
from tests.helpers.datasets import kicks
from tests.helpers.params import GRID

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs an example as `python examples/NAME.py ARGUMENTS`, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TECHLOOP_WORKERS", "1")

    def run_example(name: str, *arguments: str | Path) -> None:
        file = str(EXAMPLES / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [file, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(file, run_name="__main__")
        assert not end.value.code

    return run_example


def test_generate(run, latent_vae_folder: Path) -> None:
    run("generate", latent_vae_folder, "--loops", "2", "--out", "mine")
    files = sorted(Path("mine").glob("*.wav"))
    assert [file.name for file in files] == ["loop-00-125bpm.wav", "loop-01-125bpm.wav"]
    audio, rate_hz = soundfile.read(files[0])
    assert (len(audio), rate_hz) == (GRID.samples, GRID.sample_rate_hz)
    assert np.abs(audio).max() > 0


def test_encode_own_file(run, latent_vae_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_loops = kicks(2)
    piece = np.concatenate(two_loops)
    write_loop("mine 125bpm.wav", piece, GRID.sample_rate_hz, GRID.bpm, 2 * GRID.beats)
    run("encode_own_file", latent_vae_folder, "mine 125bpm.wav")
    with np.load("latents.npz") as arrays:
        assert arrays["frames"].shape == (2, 4, GRID.frames)
        assert arrays["points"].shape == (2, 6, 4)
        points = Instrument.load(latent_vae_folder).embed(two_loops)
        np.testing.assert_allclose(arrays["points"], points, atol=0.5)
    assert "points (2, 6, 4)" in capsys.readouterr().out


def test_new_source(run) -> None:
    loops = kicks(20)
    for i, audio in enumerate(loops):
        write_loop(f"{i}.wav", audio, GRID.sample_rate_hz, GRID.bpm, GRID.beats)
    with Path("table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "bpm", "author"])
        table.writerows([f"{i}.wav", GRID.bpm, f"producer {i // 2}"] for i in range(len(loops)))
        table.writerow(["missing.wav", GRID.bpm, "producer 0"])
    run("new_source", "table.csv", "prepared")
    dataset = LoopDataset("prepared")
    assert len(dataset) > len(loops) / 2  # the rest are near-duplicates
    assert (dataset.index.groupby("group")["split"].nunique() == 1).all()
    assert "missing.wav" in Path("prepared/rejected.csv").read_text()


def test_new_metric(run, latent_vae_folder: Path, loops_folder: Path) -> None:
    run("new_metric", latent_vae_folder, loops_folder, "--n", "4")
    entry = json.loads(Path("metrics.json").read_text())["crest_error"]
    assert (entry["unit"], entry["better"]) == ("dB", "lower")
    crest_factor_db = runpy.run_path(str(EXAMPLES / "new_metric.py"))["crest_factor_db"]
    train, test = (
        crest_factor_db(LoopDataset(loops_folder, split).audio()[:4]) for split in ("train", "test")
    )
    generated = crest_factor_db(Instrument.load(latent_vae_folder).generate(4, seed=0))
    assert train > 3
    assert entry["value"] == pytest.approx(abs(generated - train))
    assert entry["baselines"]["real"] == pytest.approx(abs(test - train))


def test_the_metric_of_the_example_is_right() -> None:
    crest_factor_db = runpy.run_path(str(EXAMPLES / "new_metric.py"))["crest_factor_db"]
    sine = np.sin(2 * np.pi * np.arange(800) / 100)[None]
    assert crest_factor_db(np.sign(sine + 1e-9)) == pytest.approx(0, abs=1e-6)
    assert crest_factor_db(sine) == pytest.approx(3.01, abs=0.01)
    assert crest_factor_db(np.concatenate([sine, 0 * sine])) == crest_factor_db(sine)
    assert np.isnan(crest_factor_db(0 * sine))


def test_examples_are_short() -> None:
    lines = {file.name: len(file.read_text().splitlines()) for file in EXAMPLES.glob("*.py")}
    assert len(lines) == 4
    assert max(lines.values()) < 40, lines
