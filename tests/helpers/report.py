"""A finished pipeline, made up: what the stages leave for the report."""

import csv
import math
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from techloop.artifacts import write_json
from techloop.audio.wav import write_loop
from techloop.metric import Metric, by_name, write_metrics
from techloop.reporting.cells import CellNames
from techloop.reporting.embedding import Exhibits
from techloop.reporting.exhibit import Exhibit
from techloop.reporting.latent_comparison import DRAWN, STUDY
from techloop.reporting.page import write_report
from techloop.training.latent_summary import write_dimensions

RATE = 16_000
AUDIO_CELLS = ("kl", "wae")
DECODER_CELLS = ("kl",)  # of a pipeline with fine-tuning
CELLS = ("kl-mean-16", "wae-mean-4")
EVALUATED = {
    "reconstruction": AUDIO_CELLS,
    "descriptors": AUDIO_CELLS,
    "prior": AUDIO_CELLS,
    "smoothness": CELLS,
    "generation": CELLS,
    "controls": CELLS,
}
LOSS = Metric("loss", "loss")
BITS = Metric("bits_per_second", "bits per second", "bit/s")
ACTIVE = Metric("active_units", "active units", better="higher")
DISTANCE = Metric("spectral_distance", "spectral distance", better="lower")
DISTANCE_TO_SILENCE = Metric(
    "spectral_distance", "spectral distance", better="lower", baselines=("silence",)
)
LOOPS = Metric("loops", "loops")
UNDEFINED = Metric("undefined", "undefined metric", "Hz")


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_index(folder: Path) -> None:
    """1,944 loops of 324 recordings of 1 to 6 bars, each recording six times."""
    i = np.arange(1944)
    columns = {
        "name": [f"pack/<{n}>.wav" for n in i // 6],
        "group": [f"author {n}" for n in i // 60],
        "split": np.repeat(["train", "validation", "test"], [1560, 190, 194]),
        "licence": np.repeat(["CC0-1.0", ""], [1200, 744]),
        "bpm": 120.0 + i // 6 % 12,
        "bpm_source": np.where(i // 6 % 2, "name", "length"),
        "bpm_confidence": 1 - (i // 6) / 1000,
        "bpm_evidence": "name 120; onsets 120.1",
        "duration_s": 2.0 * (1 + i // 6 % 6),
        "loudness_lufs": -20 + 0.005 * i,
    }
    pd.DataFrame(columns).to_parquet(folder / "index.parquet")


def history(seed: int) -> list[dict]:
    """Rows of a training: twenty of each split, in turns."""
    rng = np.random.default_rng(seed)
    return [
        {
            "loops_seen": 1000 * i,
            "split": split,
            "loss": 3 / i + 0.2 + 0.05 * rng.random(),
            "bits_per_second": 900 * (1 - math.exp(-i / 5)) if split == "validation" else "",
            "kl_nats_dim_00": 1.0,
        }
        for i in range(1, 20)
        for split in ("train", "validation")
    ]


def write_history(folder: Path, rows: Sequence[Mapping[str, object]], *metrics: Metric) -> None:
    """A history and what its columns mean, as a training writes them."""
    write_rows(folder / "history.csv", rows)
    meanings = {m.name: {"label": m.label, "unit": m.unit, "better": m.better} for m in metrics}
    write_json(folder / "history.json", meanings)


def write_study_metrics(path: Path, stage: str, *metrics, **values: float) -> None:
    """Metrics of a cell; what the report compares and has no value here is undefined."""
    compared = []
    for name in (name for name in STUDY if STUDY[name] == stage):
        baselines = DRAWN.get(name, ())
        metric = Metric(name, name.replace("_", " "), better="", baselines=tuple(baselines))
        value = values.get(name, math.nan)
        compared.append(metric.measured(value, **dict.fromkeys(baselines, 2 * value)))
    names = {m.metric.name for m in metrics}
    write_metrics(path, by_name(*metrics, *(m for m in compared if m.metric.name not in names)))


def draw_picture(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 255, (30, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((900, 450)).save(path)


def write_sound(path: Path, seed: int, bars: int = 1) -> None:
    t = np.arange(30_720 * bars) / RATE
    rng = np.random.default_rng(seed)
    kick = np.sin(2 * np.pi * 50 * t) * np.exp(-8 * (t % 0.48))
    hat = 0.2 * rng.standard_normal(t.size) * np.exp(-40 * ((t + 0.24) % 0.48))
    write_loop(path, (0.8 * kick + hat).astype(np.float32), RATE, 125.0, 4 * bars)


def make_finished(top: Path) -> None:
    """Write data/ and reports/ as after a whole run."""
    data, reports = top / "data", top / "reports"
    write_dataset(data / "loops")
    stages = ["prepare_loops"]
    for kind, cells in (("audio_vae", AUDIO_CELLS), ("latent_vae", CELLS)):
        for i, cell in enumerate(cells):
            write_training(data / kind / cell, i)
            stages.append(f"train_{kind}@{cell}")
    for kind, cells in EVALUATED.items():
        for i, cell in enumerate(cells):
            write_evaluation(reports / kind / cell, i)
            stages.append(f"evaluate_{kind}@{cell}")
    for n, stage in enumerate([*stages, "report"]):
        write_json(
            reports / "runs" / f"{stage}.json",
            {
                "stage": stage,
                "run_id": f"{n:032x}",
                "experiment_id": "1",
                "tracking_uri": "sqlite:///mlflow.db",
                "wall_s": 10.0 + 25 * n,
                "peak_memory_mb": 900 + n,
                "commit": "c0ffee" * 6 + "c0ff",
                "dirty": n == 3,
                "device": "cpu: 2 cores",
                "params": {"training": {"loops": 34000}},
                "inputs": {"data/loops": "0123456789abcdef"},
            },
        )


def write_dataset(folder: Path) -> None:
    """What the report reads of `data/loops`."""
    grid = {"sample_rate_hz": RATE, "hop": 128, "bpm": 125.0, "beats_per_bar": 4, "bars": 1}
    write_json(
        folder / "card.json",
        {
            "format": 1,
            "grid": grid,
            "source": "folder",
            "loops": 1944,
            "hours": 1.04,
            "splits": {"train": 1560, "validation": 190, "test": 194},
            "shards": [{"file": "audio-00000.npy", "loops": 1944}],
            "licences": {"CC0-1.0": 1200, "": 744},
            "rejected": {"silent": 2, "unreadable": 1},
            "items": 340,
            "preparation": {"loudness_lufs": -16.0},
            "seed": 7,
            "fingerprint": "0123456789abcdef",
        },
    )
    silent = {"reason": "silent", "detail": "less loud than -60"}
    measured = {"bar": "3", "value": "-70.25", "limit": "-60"}
    broken = {"reason": "unreadable", "detail": "no decoder", "bar": "", "value": "", "limit": ""}
    write_rows(
        folder / "rejected.csv",
        [
            {"file": "a/quiet.wav", **silent, **measured},
            {"file": "b/quiet.wav", **silent, **measured},
            {"file": "<b>broken</b>.mp3", **broken},
        ],
    )
    write_index(folder)


def write_training(folder: Path, i: int) -> None:
    """What a training leaves besides weights."""
    write_history(folder, history(i), LOSS, BITS)
    write_dimensions(folder, [2.0 / (d + 1) - 0.1 for d in range(16)])
    metrics = LOSS.measured(0.5 + i), BITS.measured(812.5), ACTIVE.measured(12.0)
    stage = f"train_{folder.parent.name}"
    write_study_metrics(folder / "metrics.json", stage, *metrics)
    if stage == "train_latent_vae":
        regulariser, _, length = folder.name.split("-")
        cell = {"regulariser": regulariser, "objective": "trajectory-mean", "length": int(length)}
        write_json(folder / "config.json", {"cell": cell})


def write_evaluation(folder: Path, i: int) -> None:
    """Metrics, and the sounds and tables that `exhibits` shows."""
    kind = folder.parent.name
    distance = DISTANCE.measured(1.25 + i)
    if kind == "reconstruction":
        distance = DISTANCE_TO_SILENCE.measured(1.25 + i, silence=7.5)
    metrics = distance, LOOPS.measured(194.0), UNDEFINED.measured(math.nan)
    write_study_metrics(folder / "metrics.json", f"evaluate_{kind}", *metrics)
    for n in range(8 if kind == "generation" else 0):
        write_sound(folder / f"loop-{n}.wav", n)
    for n, name in enumerate(("morph", "walk") if kind == "smoothness" else ()):
        write_sound(folder / f"{name}.wav", n, bars=8)
    if kind == "descriptors":
        write_rows(
            folder / "table.csv",
            [{"dimension": d, "descriptor": "loudness", "q": 1e-5 / 3} for d in range(3)],
        )


def exhibits(folder: Path, pictures: Path) -> list[Exhibit]:
    """What the made-up evaluations show; nothing of a cell that has only metrics."""
    kind = folder.parent.name
    if folder.name not in EVALUATED.get(kind, DECODER_CELLS):
        return []
    draw_picture(pictures / "figure.png", seed=len(folder.name))
    shown = [Exhibit("figure", pictures / "figure.png", "A figure", "What it <shows>.")]
    for n in range(8 if kind == "generation" else 0):
        shown.append(Exhibit("audio", folder / f"loop-{n}.wav", f"Loop {n + 1}", "Seed 0.", True))
    if kind == "smoothness":
        shown.append(Exhibit("audio", folder / "morph.wav", "Morph", ""))
        shown.append(Exhibit("audio", folder / "walk.wav", "Walk", "", loop=True))
    if kind == "descriptors":
        shown.append(Exhibit("table", folder / "table.csv", "All of it", "By size."))
    return shown


EXHIBITS: dict[str, Exhibits] = {f"evaluate_{kind}": exhibits for kind in (*EVALUATED, "decoder")}


class Page(HTMLParser):
    """What a reader of the page's structure sees; unbalanced tags are an error."""

    VOID = frozenset({"meta", "link", "img", "br", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def build(
    top: Path,
    audio_cells: Sequence[str] = AUDIO_CELLS,
    latent_cells: Sequence[str] = CELLS,
    decoder_cells: Sequence[str] = (),
) -> tuple[str, Page]:
    """Write the report of a made-up pipeline; its text and structure."""
    reports = top / "reports"
    cells: CellNames = {
        "audio": audio_cells,
        "decoder": decoder_cells,
        "latent": latent_cells,
    }
    write_report(reports, top / "data", reports, cells=cells, exhibits=EXHIBITS)
    text = (reports / "index.html").read_text()
    return text, Page(text)
