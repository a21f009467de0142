"""The page holds what the stages left, whole and without a network, and says what is missing."""

import base64
import csv
import itertools
import json
import math
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from techloop.artifacts import fingerprint, read_json, write_json
from techloop.audio.wav import write_loop
from techloop.reporting.charts import chart_script
from techloop.reporting.page import (
    Cell,
    _table,
    better,
    duration,
    flat,
    label,
    number,
    shorten,
    unit,
    write_report,
)
from tests.helpers.params import ROOT

RATE = 16_000
CELLS = ("kl-mean-16", "wae-mean-4")
EVALUATED = {
    "reconstruction": ("kl", "wae"),
    "descriptors": ("kl", "wae"),
    "prior": ("kl", "wae"),
    "smoothness": CELLS,
    "generation": CELLS,
    "controls": CELLS,
}


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
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


def picture(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 255, (30, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((900, 450)).save(path)


def sound(path: Path, seed: int, bars: int = 1) -> None:
    t = np.arange(30_720 * bars) / RATE
    rng = np.random.default_rng(seed)
    kick = np.sin(2 * np.pi * 50 * t) * np.exp(-8 * (t % 0.48))
    hat = 0.2 * rng.standard_normal(t.size) * np.exp(-40 * ((t + 0.24) % 0.48))
    write_loop(path, (0.8 * kick + hat).astype(np.float32), RATE, 125.0, 4 * bars)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ and reports/ as after a whole run, made up."""
    top = tmp_path_factory.mktemp("finished")
    make_finished(top)
    return top


def make_finished(top: Path) -> None:
    data, reports = top / "data", top / "reports"
    grid = {"sample_rate_hz": RATE, "hop": 128, "bpm": 125.0, "beats_per_bar": 4, "bars": 1}
    write_json(
        data / "loops" / "card.json",
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
    row = {"bar": "3", "value": "-70.25", "limit": "-60"}
    write_rows(
        data / "loops" / "rejected.csv",
        [
            {"file": "a/quiet.wav", "reason": "silent", "detail": "less loud than -60", **row},
            {"file": "b/quiet.wav", "reason": "silent", "detail": "less loud than -60", **row},
            {
                "file": "<b>broken</b>.mp3",
                "bar": "",
                "reason": "unreadable",
                "detail": "no decoder",
                "value": "",
                "limit": "",
            },
        ],
    )
    write_index(data / "loops")
    stages = ["prepare_loops"]
    for kind, cells in (("audio_vae", ("kl", "wae")), ("latent_vae", CELLS)):
        for i, cell in enumerate(cells):
            folder = data / kind / cell
            write_rows(folder / "history.csv", history(i))
            dims = {f"kl_nats_dim_{d:02d}": 2.0 / (d + 1) - 0.1 for d in range(16)}
            write_json(
                folder / "metrics.json",
                {"loss": 0.5 + i, "bits_per_second": 812.5, "active_units": 12.0, **dims},
            )
            if kind == "latent_vae":
                regulariser, _, length = cell.split("-")
                of = {"regulariser": regulariser, "objective": "trajectory-mean"}
                write_json(folder / "config.json", {"cell": {**of, "length": int(length)}})
            stages.append(f"train_{kind}@{cell}")
    for kind, cells in EVALUATED.items():
        for i, cell in enumerate(cells):
            folder = reports / kind / cell
            metrics = {"spectral_distance": 1.25 + i, "loops": 194, "undefined": math.nan}
            if kind == "reconstruction":
                metrics["silence_spectral_distance"] = 7.5
            write_json(folder / "metrics.json", metrics)
            picture(folder / "figure.png", i)
            items = [figure("figure.png", "A figure", "What it <shows>.")]
            for n in range(8 if kind == "generation" else 0):
                sound(folder / f"loop-{n}.wav", n)
                items.append(audio(f"loop-{n}.wav", f"Loop {n + 1}", "Seed 0.", loop=True))
            for n, name in enumerate(("morph", "walk") if kind == "smoothness" else ()):
                sound(folder / f"{name}.wav", n, bars=8)
                items.append(audio(f"{name}.wav", name.capitalize(), "", loop=name == "walk"))
            if kind == "descriptors":
                write_rows(
                    folder / "table.csv",
                    [{"dimension": d, "descriptor": "loudness", "q": 1e-5 / 3} for d in range(3)],
                )
                items.append({**figure("table.csv", "All of it", "By size."), "kind": "table"})
            write_json(folder / "items.json", items)
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


def figure(file: str, title: str, caption: str) -> dict:
    return {"kind": "figure", "file": file, "title": title, "caption": caption}


def audio(file: str, title: str, caption: str, *, loop: bool) -> dict:
    return {"kind": "audio", "file": file, "title": title, "caption": caption, "loop": loop}


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
    top: Path, audio_cells: Sequence[str] = ("kl", "wae"), latent_cells: Sequence[str] = CELLS
) -> tuple[str, Page]:
    write_report(
        top / "reports",
        top / "data",
        top / "reports",
        audio_cells=audio_cells,
        latent_cells=latent_cells,
    )
    text = (top / "reports" / "index.html").read_text()
    return text, Page(text)


def charts(text: str) -> list[dict]:
    """Specifications of the charts of a page."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    return [json.loads(spec) for spec in found]


def dots(spec: dict) -> list[tuple[str, float, float]]:
    """What is drawn in a chart: the title of the line, x and y of each point."""
    return [(row["title"], row["x"], row["y"]) for row in rows_of(spec, -1)]


def rows_of(spec: dict, layer: int) -> list[dict]:
    """Data of a layer of a chart."""
    return spec["datasets"][(spec["layer"][layer].get("data") or spec["data"])["name"]]


def test_the_ends_of_an_interval_are_in_the_row_of_their_name() -> None:
    metrics = {"coverage": 0.5, "coverage_low": 0.4, "coverage_high": 0.6, "real_coverage": 0.9}
    table = _table([Cell("a", Path(), metrics), Cell("b", Path(), {"coverage": 0.7})])
    (row,) = table["rows"]
    assert (row["name"], row["values"]) == ("coverage", [0.5, 0.7])
    assert row["intervals"] == [(0.4, 0.6), (None, None)]
    assert [r["name"] for r in table["baselines"][0]["rows"]] == ["coverage"]


def test_the_page_is_whole_and_needs_no_network(finished: Path) -> None:
    text, page = build(finished)
    assert len(text) < 15e6
    assert "has not run" not in text
    for attrs in (attrs for _, attrs in page.tags):
        for name in ("src", "href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), attrs
    assert text.count(chart_script()) == 1, "the library of the charts is there, once"
    rest = text.replace(chart_script(), "")
    assert "url(" not in rest
    assert "@import" not in rest


def test_every_picture_has_words_and_is_inside(finished: Path) -> None:
    _, page = build(finished)
    pictures = page.all("img")
    assert len(pictures) == sum(map(len, EVALUATED.values()))
    for picture_ in pictures:
        assert picture_["alt"]
        kind, content = (picture_["src"] or "").split(";base64,")
        assert kind == "data:image/webp"
        assert base64.b64decode(content)[8:12] == b"WEBP"


def test_every_sound_can_be_played_and_is_inside_unchanged(finished: Path) -> None:
    text, page = build(finished)
    buttons = [b for b in page.all("button") if "data-sound" in b]
    assert len(buttons) == 2 * 8 + 2 * 2
    assert len({b["data-sound"] for b in buttons}) == len(buttons)
    for button in buttons:
        assert (button["aria-label"] or "").startswith("Play ")
        assert re.search(rf'id="{button["data-sound"]}">[A-Za-z0-9+/=]{{1000,}}<', text)
    walk = next(b for b in buttons if b["data-sound"] == "smoothness-kl-mean-16-walk-wav")
    assert walk["data-loop"] == "1"
    content = re.search(r'id="smoothness-kl-mean-16-walk-wav">([^<]*)<', text)
    file = finished / "reports" / "smoothness" / "kl-mean-16" / "walk.wav"
    assert content
    assert base64.b64decode(content[1]) == file.read_bytes()


def test_what_the_page_says(finished: Path) -> None:
    text, _ = build(finished)
    for said in (
        "1,944",
        "c0ffeec0",
        "0123456789abcdef",
        "CC0-1.0",
        "less loud than -60",
        "&lt;b&gt;broken&lt;/b&gt;.mp3",
        "What it &lt;shows&gt;.",
        f"{5:032x}",
        "training.loops",
        "812.5",
        "Baselines, to read these by: silence",
        "3.333e−06",
    ):
        assert said in text, said
    assert "<b>broken</b>" not in text
    assert read_json(finished / "reports/runs/report.json")["run_id"] not in text, (
        "the report's own run is from another time"
    )


def test_the_same_inputs_give_the_same_bytes(finished: Path) -> None:
    assert build(finished)[0] == build(finished)[0]


def test_metrics_by_stage_and_cell(finished: Path) -> None:
    build(finished)
    metrics = read_json(finished / "reports" / "metrics.json")
    assert metrics["train_audio_vae"]["wae"]["loss"] == 1.5
    assert metrics["evaluate_smoothness"]["kl-mean-16"]["spectral_distance"] == 1.25
    assert metrics["evaluate_smoothness"]["kl-mean-16"]["undefined"] is None
    assert metrics["prepare_loops"]["loops"] == 1944


@pytest.mark.parametrize(
    ("stage", "folder"),
    [
        ("prepare_loops", "data/loops"),
        ("train_audio_vae", "data/audio_vae"),
        ("train_latent_vae", "data/latent_vae"),
        ("evaluate_reconstruction", "reports/reconstruction"),
        ("evaluate_descriptors", "reports/descriptors"),
        ("evaluate_prior", "reports/prior"),
        ("evaluate_smoothness", "reports/smoothness"),
        ("evaluate_generation", "reports/generation"),
        ("evaluate_controls", "reports/controls"),
    ],
)
def test_a_missing_stage_is_named_and_the_rest_is_there(
    finished: Path, tmp_path: Path, stage: str, folder: str
) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(top / folder)
    text, page = build(top)
    assert re.findall(r"<code>(\w+)</code> has not run", text) == [stage]
    assert len(page.all("section")) == 10
    assert stage not in read_json(top / "reports" / "metrics.json")


def test_a_cell_of_other_params_is_not_read(finished: Path, tmp_path: Path) -> None:
    """DVC leaves the outputs of a cell that was deleted from params.yaml where they are."""
    top = shutil.copytree(finished, tmp_path / "copy")
    (top / "reports" / "smoothness" / CELLS[0] / "metrics.json").write_text("{")  # nor opened
    text, page = build(top, ["wae"], [CELLS[1]])
    assert "has not run" not in text
    assert CELLS[0] not in text
    assert "@kl" not in text
    assert "evaluate_smoothness@wae-mean-4" in text
    assert len(page.all("img")) == len(EVALUATED)
    metrics = read_json(top / "reports" / "metrics.json")
    assert {cell for stage in metrics if "_vae" in stage for cell in metrics[stage]} == {
        "wae",
        CELLS[1],
    }


def test_a_missing_cell_is_named_and_the_others_are_there(finished: Path, tmp_path: Path) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(top / "reports" / "generation" / CELLS[0])
    text, page = build(top, latent_cells=[*CELLS, "new"])
    assert re.findall(r"<code>([\w@-]+)</code> has not run", text) == [
        "evaluate_generation@kl-mean-16",
        "evaluate_generation@new",
        "train_latent_vae@new",
        "evaluate_smoothness@new",
        "evaluate_controls@new",
    ]
    assert len([b for b in page.all("button") if "data-sound" in b]) == 8 + 2 * 2
    columns = read_json(top / "reports" / "metrics.json")["train_latent_vae"]
    assert list(columns) == list(CELLS)


def test_nothing_at_all_still_is_a_page(tmp_path: Path) -> None:
    write_report(tmp_path, tmp_path, tmp_path, audio_cells=["kl"], latent_cells=CELLS)
    text = (tmp_path / "index.html").read_text()
    assert len(re.findall("has not run", text)) == 3 + len(EVALUATED)
    assert "No stage has recorded a run" in text
    Page(text)


def test_what_is_too_large_is_linked(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    text, page = build(top)
    pictures = sum(len(image["src"] or "") for image in page.all("img"))
    drawn = len(chart_script()) + sum(len(json.dumps(spec)) for spec in charts(text))
    loop, piece = (4 / 3 * 2 * 30_720 * bars for bars in (1, 8))
    largest = int(500_000 + drawn + pictures + 16.5 * loop + 1.5 * piece)
    monkeypatch.setattr("techloop.reporting.page.LARGEST_BYTES", largest)
    text, page = build(top)
    assert len(text) < largest
    # Pictures and all short loops are in; of the four pieces, the first still fits.
    assert len(page.all("img")) == sum(map(len, EVALUATED.values()))
    sounds = [str(b["data-sound"]) for b in page.all("button") if "data-sound" in b]
    assert len([name for name in sounds if name.startswith("generation")]) == 16
    assert sounds[16:] == ["smoothness-kl-mean-16-morph-wav"]
    links = [a["href"] for a in page.all("a") if not (a["href"] or "").startswith("#")]
    assert len(links) == 3
    for link in links:
        assert (top / "reports" / str(link)).is_file()


def test_a_listed_file_that_is_not_there_is_refused(finished: Path, tmp_path: Path) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    (top / "reports" / "generation" / CELLS[0] / "loop-3.wav").unlink()
    with pytest.raises(ValueError, match=r"lists loop-3\.wav, which is not there"):
        build(top)
    (top / "data" / "loops" / "card.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        build(top)


def test_best_is_marked_only_where_there_is_a_better(finished: Path) -> None:
    text, _ = build(finished)
    best = re.findall(r'<td class="best">([^<]*)</td>', text)
    # Distance of each evaluation; equal numbers, `loops` and losses have no best.
    assert best == ["1.25"] * len(EVALUATED)


def test_a_curve_a_cell_and_split(finished: Path) -> None:
    text, _ = build(finished)
    titles = re.findall(r"<figcaption>([^<\n]*).*</figcaption>\s*<div class=.vega", text)
    assert [title.strip() for title in titles[:2]] == ["loss", "bits per second"]
    loss, rate = charts(text)[:2]
    rows = history(0)
    for split, said in (("train", "kl, training"), ("validation", "kl, validation")):
        expected = [(r["loops_seen"], r["loss"]) for r in rows if r["split"] == split]
        np.testing.assert_allclose([d[1:] for d in dots(loss) if d[0] == said], expected, rtol=1e-5)
    assert {title for title, _, _ in dots(rate)} == {"kl, validation", "wae, validation"}
    ends = [
        float(end) for end in re.findall(r"(?:training|validation) ([\d.]+)", loss["description"])
    ]
    assert ends == pytest.approx([last(i, s) for i in (0, 1) for s in (0, 1)], rel=1e-3)


def last(seed: int, split: int) -> float:
    return history(seed)[split - 2]["loss"]


def test_a_metric_without_two_points_is_not_drawn(finished: Path, tmp_path: Path) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    for cell in ("kl", "wae"):
        rows = [row | {"once": 1.0 if i == 0 else "inf"} for i, row in enumerate(history(0))]
        write_rows(top / "data" / "audio_vae" / cell / "history.csv", rows)
    assert len(charts(build(top)[0])) == len(charts(build(finished)[0]))


def test_log_curves_where_values_span_decades(finished: Path, tmp_path: Path) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    rows = [row | {"loss": 10.0 ** (-i % 5)} for i, row in enumerate(history(0))]
    write_rows(top / "data" / "audio_vae" / "kl" / "history.csv", rows)
    scales = [spec["layer"][0]["encoding"]["y"]["scale"] for spec in charts(build(top)[0])]
    assert [scale.get("type") for scale in scales[:2]] == ["log", None]


def test_cells_side_by_side(finished: Path, tmp_path: Path) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    for cell, ratio in zip(CELLS, (1.5, math.nan), strict=True):
        add = {"perceptual_path_ratio": ratio, "crossfade_perceptual_path_ratio": 2 * ratio}
        file = top / "reports" / "smoothness" / cell / "metrics.json"
        write_json(file, read_json(file) | add)
    text, _ = build(top)
    table = re.search(r'<table class="sortable">.*?</table>', text, re.DOTALL)
    assert table
    heads = re.findall(r"<button type=.button.><span>([^<]*)</span>", table[0])
    assert heads == [
        *("Cell", "Points a loop", "Regulariser", "Objective"),
        *("Active units", "Perceptual path ratio"),
    ], "what nothing is known of is left out"
    rows = re.findall(r"<tr><th scope=.row.>(.*?)</tr>", table[0])
    cells = [re.split(r"<[^>]*>(?:<[^>]*>)?", row)[:6] for row in rows]
    assert cells == [
        ["kl-mean-16", "16", "kl", "trajectory-mean", "12", "1.5"],
        ["wae-mean-4", "4", "wae", "trajectory-mean", "12", "–"],
    ]
    assert re.findall(r'<td data-value="([^"]*)"', rows[1]) == ["4", "12.0"]
    (chart,) = [spec for spec in charts(text) if "points a loop" in spec["description"]]
    assert dots(chart) == [("kl, trajectory-mean", 16, 1.5)]
    assert rows_of(chart, 0) == [{"name": "cross-fade", "low": 3.0, "high": 3.0}]


def test_a_latent_vae_that_does_not_say_what_it_is_is_refused(
    finished: Path, tmp_path: Path
) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    write_json(top / "data" / "latent_vae" / CELLS[0] / "config.json", {"format": 1})
    with pytest.raises(ValueError, match=r"kl-mean-16.config\.json lacks `cell`"):
        build(top)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (0.0, "0"),
        (12.0, "12"),
        (1234567.0, "1,234,567"),
        (-0.12345, "−0.1235"),
        (1234.5, "1,234"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_names() -> None:
    assert (label("error_centroid_hz"), unit("error_centroid_hz")) == ("error centroid", "Hz")
    assert (label("bits_per_second"), unit("bits_per_second")) == ("bits per second", "bit/s")
    assert (label("loss"), unit("loss")) == ("loss", "")
    assert label("mean_probe_r2") == "mean probe R²"
    directed = {
        "spectral_distance": "↓",
        "error_onset_density": "↓",
        "copied_share": "↓",
        "walk_length_ratio_loudness_db": "↓",
        "probe_r2": "↑",
        "coverage": "↑",
        "monotonicity_centroid_hz": "↑",
    }
    assert {name: better(name) for name in directed} == directed
    for name in (
        "bound_nats_per_frame",
        "distortion_nats_per_frame",
        "density",
        "onset_density",
        "significant_share",
        "seam_ratio",
        "explained_variance",
        "kick_on_beat",
        "loss",
    ):
        assert better(name) == "", name
    assert shorten("0.123456") == "0.1235"
    assert shorten("") == "–"
    assert shorten("kick") == "kick"
    assert [duration(h) for h in (2.0, 0.5, 0.01)] == ["2.0 h", "30 min", "36 s"]
    assert flat({"a": {"b": 1}, "c": 2}) == [("a.b", 1), ("c", 2)]


def test_the_stage_writes_both_files(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages import report

    (finished / ".dvc").mkdir(exist_ok=True)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(finished)
    shutil.copy(ROOT / "params.yaml", finished)
    report.main()
    record = json.loads((finished / "reports" / "runs" / "report.json").read_text())
    kept = finished / "mlruns" / record["run_id"] / "artifacts"
    assert {path.name for path in kept.iterdir()} == {"index.html", "metrics.json"}
    assert record["inputs"]["data/loops"] == "0123456789abcdef"
    for name in ("data/audio_vae/wae", "reports/generation/kl-mean-16"):
        assert record["inputs"][name] == fingerprint(finished / name)
    assert "reports/generation/kl-posterior-1" not in record["inputs"], "it has not run"
    assert "evaluate_generation@kl-posterior-1" in (finished / "reports" / "index.html").read_text()


def test_histograms_are_drawn_to_scale(finished: Path) -> None:
    text, _ = build(finished)
    section = re.search(r'<section id="data">.*?</section>', text, re.DOTALL)
    assert section
    charts = re.findall(r'<svg class="histogram".*?</svg>', section[0], re.DOTALL)
    assert len(charts) == 3
    for chart, total, unit_ in zip(
        charts, (324, 1944, 324), ("BPM", "LUFS", "s (log)"), strict=True
    ):
        counts = [int(c.replace(",", "")) for c in re.findall(r": ([\d,]+)</title>", chart)]
        assert sum(counts) == total
        heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', chart)]
        np.testing.assert_allclose(
            np.array(heights) / max(heights), np.array(counts) / max(counts), atol=0.002
        )
        assert f">{unit_}</text>" in chart
        rungs = [int(c.replace(",", "")) for c in re.findall(r'class="y"[^>]*>([\d,]+)<', chart)]
        assert rungs[0] == 0
        assert rungs[-1] >= max(counts)
        assert len({b - a for a, b in itertools.pairwise(rungs)}) == 1, "even steps"
        # The axis and its bars agree: the highest bar is as high as its count on the scale.
        places = [float(y) for y in re.findall(r'd="M0 ([\d.]+)H', chart)]
        at = np.interp(max(counts), rungs, places[: len(rungs)])
        assert 130 - max(heights) == pytest.approx(at, abs=0.1)
    assert "125 to 126 BPM: 27" in section[0]
    assert 'aria-label="Length of the recordings: from 2 to 12 s' in section[0]


def test_reasons_say_value_and_limit(finished: Path) -> None:
    text, _ = build(finished)
    assert '<td class="words">−70.25</td><td class="words">−60</td>' in text
    assert re.search(r"silent</th><td[^>]*>2</td><td[^>]*>0</td>", text), "bars only"
    assert re.search(r"unreadable</th><td[^>]*>1</td><td[^>]*>1</td>", text), "a whole file"
    assert "<code>a/quiet.wav</code>, bar 3" in text
    assert "recordings, of 340" in text
    for said in ("How tempi were found", "Least sure of", "pack/&lt;323&gt;.wav", "onsets 120.1"):
        assert said in text, said


def test_an_older_dataset_is_named_and_the_rest_is_there(finished: Path, tmp_path: Path) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    index = pd.read_parquet(top / "data" / "loops" / "index.parquet")
    index.drop(columns=["duration_s", "bpm_evidence"]).to_parquet(
        top / "data" / "loops" / "index.parquet"
    )
    table = top / "data" / "loops" / "rejected.csv"
    table.write_text(table.read_text().replace("file,", "name,", 1))
    text, page = build(top)
    assert "index.parquet has no bpm_evidence, duration_s; rejected.csv has no file" in text
    assert "Not known of any." in text
    assert len([svg for svg in page.all("svg") if svg.get("class") == "histogram"]) == 2
    assert "<code>a/quiet.wav</code>" in text
    table.unlink()
    text, _ = build(top)
    assert "rejected.csv is not there" in text
    assert "<p>Not known.</p>" in text


def test_a_damaged_index_is_refused(finished: Path, tmp_path: Path) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    index = top / "data" / "loops" / "index.parquet"
    index.write_bytes(index.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"index\.parquet is truncated or damaged"):
        build(top)


def test_a_text_of_a_page_says_infinity() -> None:
    assert (shorten("-inf"), shorten("inf"), shorten("nan")) == ("−∞", "∞", "–")
