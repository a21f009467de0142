"""The page holds what the stages left, whole and without a network, and says what is missing."""

import base64
import csv
import itertools
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from techloop.artifacts import fingerprint, read_json, write_json
from techloop.data.summary import duration
from techloop.evaluation.baselines import BASELINES
from techloop.metric import Metric, by_name, read_metrics, write_metrics
from techloop.pipeline.deps import PIPELINES, code_deps
from techloop.reporting.cells import STAGES, Cell
from techloop.reporting.charts import chart_script
from techloop.reporting.latent_comparison import DRAWN, STUDY
from techloop.reporting.metric_table import best_value, metric_table
from techloop.reporting.numbers import format_interval, format_number
from techloop.reporting.page import write_report
from techloop.reporting.render import flat, format_field, sentence
from tests.helpers.params import ROOT
from tests.helpers.report import (
    BITS,
    CELLS,
    DECODER_CELLS,
    EVALUATED,
    EXHIBITS,
    LOSS,
    Page,
    build,
    history,
    make_finished,
    write_evaluation,
    write_history,
    write_study_metrics,
)

TEMPLATES = ROOT / "techloop" / "reporting" / "templates"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ and reports/ as after a whole run, made up."""
    top = tmp_path_factory.mktemp("finished")
    make_finished(top)
    return top


def charts(text: str) -> list[dict]:
    """Specifications of the charts of a page."""
    specs = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    return [json.loads(spec) for spec in specs]


def dots(spec: dict) -> list[tuple[str, float, float]]:
    """What is drawn in a chart: the title of the line, x and y of each point."""
    return [(row["title"], row["x"], row["y"]) for row in rows_of(spec, -1)]


def rows_of(spec: dict, layer: int) -> list[dict]:
    """Data of a layer of a chart."""
    return spec["datasets"][(spec["layer"][layer].get("data") or spec["data"])["name"]]


def cell(name: str, *measurements) -> Cell:
    return Cell(name, Path(), by_name(*measurements))


def test_an_interval_and_baselines_belong_to_their_metric() -> None:
    coverage = Metric("coverage", "coverage", better="higher", baselines=("real",))
    alone = Metric("coverage", "coverage", better="higher")
    table = metric_table(
        [cell("a", coverage.measured(0.5, (0.4, 0.6), real=0.9)), cell("b", alone.measured(0.7))]
    )
    ((metric, values, intervals, best),) = table.rows
    assert (metric.name, values, best) == ("coverage", [0.5, 0.7], 0.7)
    assert intervals == [(0.4, 0.6), None]
    (baseline,) = table.baselines
    assert baseline.title == "real held-out loops"
    ((metric, values, *_),) = baseline.rows
    assert metric.name == "coverage"
    np.testing.assert_array_equal(values, [0.9, math.nan])


@pytest.mark.parametrize("name", ["coverage", "spectral_distance", "probe_r2", "anything_else"])
def test_a_renamed_metric_keeps_its_direction(name: str) -> None:
    for better, best in (("lower", 1.5), ("higher", 2.5), ("", None)):
        metric = Metric(name, "some label", "Hz", better)
        table = metric_table([cell(n, metric.measured(v)) for n, v in (("a", 1.5), ("b", 2.5))])
        assert table.rows[0].metric == metric
        assert table.rows[0].best == best


def test_the_page_shows_label_unit_and_direction_of_the_metric(
    finished: Path, tmp_path: Path
) -> None:
    """Names that once meant the opposite change nothing."""
    top = shutil.copytree(finished, tmp_path / "copy")
    up = Metric("spectral_distance", "first label", "Hz", "higher")
    down = Metric("coverage", "second label", "dB", "lower")
    for value, name in ((1.5, "kl"), (2.5, "wae")):
        file = top / "reports" / "reconstruction" / name / "metrics.json"
        write_metrics(file, by_name(up.measured(value), down.measured(value)))
    text, _ = build(top)
    for metric, arrow, best in ((up, "↑", "2.5"), (down, "↓", "1.5")):
        row = re.search(rf"{metric.label}.*?</tr>", text, re.DOTALL)
        assert row
        assert f'title="{metric.better} is better">{arrow}<' in row[0]
        assert f">{metric.unit}<" in row[0]
        assert re.findall(r'<td class="best">([\d.]+)</td>', row[0]) == [best]


def test_no_value_is_best_without_a_direction_or_a_difference() -> None:
    assert best_value([1.0, 2.0], "") is None
    assert best_value([2.0, 2.0], "lower") is None
    assert best_value([math.nan, 2.0], "lower") is None
    assert best_value([math.nan, 2.0, 3.0], "lower") == 2.0


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
    walk = next(b for b in buttons if b["data-sound"] == "evaluate_smoothness-kl-mean-16-walk-wav")
    assert walk["data-loop"] == "1"
    content = re.search(r'id="evaluate_smoothness-kl-mean-16-walk-wav">([^<]*)<', text)
    file = finished / "reports" / "smoothness" / "kl-mean-16" / "walk.wav"
    assert content
    assert base64.b64decode(content[1]) == file.read_bytes()


def test_what_the_page_says(finished: Path) -> None:
    text, _ = build(finished)
    for words in (
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
        "Baselines to compare with: silence",
        "3.333e−06",
    ):
        assert words in text, words
    assert "<b>broken</b>" not in text
    assert read_json(finished / "reports/runs/report.json")["run_id"] not in text, (
        "the report's own run is from another time"
    )


def test_the_same_inputs_give_the_same_bytes(finished: Path) -> None:
    assert build(finished)[0] == build(finished)[0]


def test_metrics_by_stage_and_cell_say_what_they_mean(finished: Path) -> None:
    build(finished)
    metrics = read_json(finished / "reports" / "metrics.json")
    assert metrics["train_audio_vae"]["wae"]["loss"]["value"] == 1.5
    smoothness = metrics["evaluate_smoothness"]["kl-mean-16"]
    assert smoothness == read_json(finished / "reports/smoothness/kl-mean-16/metrics.json")
    assert smoothness["spectral_distance"] == {
        "label": "spectral distance",
        "unit": "",
        "better": "lower",
        "value": 1.25,
    }
    assert smoothness["undefined"]["value"] is None
    silence = metrics["evaluate_reconstruction"]["kl"]["spectral_distance"]["baselines"]
    assert silence == {"silence": 7.5}
    assert metrics["prepare_loops"]["loops"] == 1944


def test_pictures_are_drawn_into_a_folder_per_stage_and_cell(finished: Path) -> None:
    figures = finished / "reports" / "figures"
    stale = figures / "evaluate_prior" / "gone" / "old.png"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_bytes(b"")
    build(finished)
    drawn = {path.relative_to(figures).as_posix() for path in figures.rglob("*.png")}
    assert drawn == {
        f"evaluate_{kind}/{name}/figure.png" for kind, cells in EVALUATED.items() for name in cells
    }
    assert not list((finished / "reports").glob(".figures*"))


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


def test_a_tuned_decoder_has_its_sections_where_there_is_one(
    finished: Path, tmp_path: Path
) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    ids = ("decoder", "decoder-sound")
    text, _ = build(top)
    assert not any(f'id="{section}"' in text or f"#{section}" in text for section in ids)
    missing = r"<code>([\w@-]+)</code> has not run"
    text, _ = build(top, decoder_cells=DECODER_CELLS)
    assert re.findall(missing, text) == ["finetune_decoder", "evaluate_decoder"]
    shutil.copytree(top / "data" / "audio_vae" / "kl", top / "data" / "decoder" / "kl")
    text, _ = build(top, decoder_cells=DECODER_CELLS)
    assert re.findall(missing, text) == ["evaluate_decoder"]
    write_evaluation(top / "reports" / "decoder" / "kl", 0)
    text, page = build(top, decoder_cells=DECODER_CELLS)
    assert "has not run" not in text
    for section in ids:
        assert text.count(f'id="{section}"') == text.count(f'href="#{section}"') == 1
    order = [attrs["id"] for attrs in page.all("section")]
    assert order.index("decoder-sound") == order.index("reconstruction") + 1
    assert len(page.all("img")) == sum(map(len, EVALUATED.values())) + 1
    metrics = read_json(top / "reports" / "metrics.json")
    assert metrics["finetune_decoder"] == {"kl": metrics["train_audio_vae"]["kl"]}
    assert metrics["evaluate_decoder"]["kl"]["spectral_distance"]["value"] == 1.25
    drawn = len(charts(build(top)[0]))
    assert len(charts(text)) == drawn + 2, "the curves of its training"


def test_nothing_at_all_still_is_a_page(tmp_path: Path) -> None:
    cells = {"audio": ["kl"], "decoder": [], "latent": CELLS}
    write_report(tmp_path, tmp_path, tmp_path, cells=cells, exhibits=EXHIBITS)
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
    # Pictures and all short loops are in; the first of the four pieces still fits.
    assert len(page.all("img")) == sum(map(len, EVALUATED.values()))
    sounds = [str(b["data-sound"]) for b in page.all("button") if "data-sound" in b]
    assert len([name for name in sounds if name.startswith("evaluate_generation")]) == 16
    assert sounds[16:] == ["evaluate_smoothness-kl-mean-16-morph-wav"]
    links = [a["href"] for a in page.all("a") if not (a["href"] or "").startswith("#")]
    assert len(links) == 3
    for link in links:
        assert (top / "reports" / str(link)).is_file()
    monkeypatch.setattr("techloop.reporting.page.LARGEST_BYTES", 0)
    _, page = build(top)
    links = [a["href"] for a in page.all("a") if not (a["href"] or "").startswith("#")]
    assert len(links) == sum(map(len, EVALUATED.values())) + 2 * 8 + 2 * 2
    assert all((top / "reports" / str(link)).is_file() for link in links)


def test_an_exhibit_whose_file_is_missing_is_refused(finished: Path, tmp_path: Path) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    (top / "reports" / "generation" / CELLS[0] / "loop-3.wav").unlink()
    with pytest.raises(ValueError, match=r"kl-mean-16 lacks loop-3\.wav, which the report shows"):
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
    for split, title in (("train", "kl, training"), ("validation", "kl, validation")):
        expected = [(r["loops_seen"], r["loss"]) for r in rows if r["split"] == split]
        np.testing.assert_allclose(
            [d[1:] for d in dots(loss) if d[0] == title], expected, rtol=1e-5
        )
    assert {title for title, _, _ in dots(rate)} == {"kl, validation", "wae, validation"}
    ends = [
        float(end) for end in re.findall(r"(?:training|validation) ([\d.]+)", loss["description"])
    ]
    assert ends == pytest.approx([last(i, s) for i in (0, 1) for s in (0, 1)], rel=1e-3)


def last(seed: int, split: int) -> float:
    return history(seed)[split - 2]["loss"]


def test_a_metric_without_two_points_is_not_drawn(finished: Path, tmp_path: Path) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    for name in ("kl", "wae"):
        rows = [row | {"once": 1.0 if i == 0 else "inf"} for i, row in enumerate(history(0))]
        write_history(top / "data/audio_vae" / name, rows, LOSS, BITS, Metric("once", "once"))
    assert len(charts(build(top)[0])) == len(charts(build(finished)[0]))


def test_log_curves_where_values_span_decades(finished: Path, tmp_path: Path) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    rows = [row | {"loss": 10.0 ** (-i % 5)} for i, row in enumerate(history(0))]
    write_history(top / "data" / "audio_vae" / "kl", rows, LOSS, BITS)
    scales = [spec["layer"][0]["encoding"]["y"]["scale"] for spec in charts(build(top)[0])]
    assert [scale.get("type") for scale in scales[:2]] == ["log", None]


def test_single_dimensions_and_loops_seen_are_not_curves(finished: Path) -> None:
    with (finished / "data" / "audio_vae" / "kl" / "history.csv").open() as stream:
        columns = next(csv.reader(stream))
    assert columns == ["loops_seen", "split", "loss", "bits_per_second", "kl_nats_dim_00"]
    descriptions = [spec["description"].split(" over ")[0] for spec in charts(build(finished)[0])]
    assert descriptions[:2] == ["loss", "bits per second"]
    assert descriptions[2:4] == ["loss", "bits per second"]


def test_cells_side_by_side(finished: Path, tmp_path: Path) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    for name, ratio in zip(CELLS, (1.5, math.nan), strict=True):
        file = top / "reports" / "smoothness" / name / "metrics.json"
        write_study_metrics(file, "evaluate_smoothness", perceptual_path_ratio=ratio)
    text, _ = build(top)
    table = re.search(r'<table class="sortable">.*?</table>', text, re.DOTALL)
    assert table
    heads = re.findall(r"<button type=.button.><span>([^<]*)</span>", table[0])
    assert heads == [
        *("Cell", "Points per loop", "Regulariser", "Objective"),
        *("Active units", "Perceptual path ratio"),
    ], "a metric without any value is left out"
    rows = re.findall(r"<tr><th scope=.row.>(.*?)</tr>", table[0])
    cells = [re.split(r"<[^>]*>(?:<[^>]*>)?", row)[:6] for row in rows]
    assert cells == [
        ["kl-mean-16", "16", "kl", "trajectory-mean", "12", "1.5"],
        ["wae-mean-4", "4", "wae", "trajectory-mean", "12", "–"],
    ]
    assert re.findall(r'<td data-value="([^"]*)"', rows[1]) == ["4", "12.0"]
    (chart,) = [spec for spec in charts(text) if "points per loop" in spec["description"]]
    assert dots(chart) == [("kl, trajectory-mean", 16, 1.5)]
    assert rows_of(chart, 0) == [
        {"name": "cross-fade", "low": 3.0, "high": 3.0},
        {"name": "line in the audio VAE's latents", "low": 3.0, "high": 3.0},
    ]


def test_what_is_compared_is_declared_consistently() -> None:
    assert set(DRAWN) <= set(STUDY)
    assert set(STUDY.values()) <= set(STAGES)
    assert {key for keys in DRAWN.values() for key in keys} <= set(BASELINES)


@pytest.mark.parametrize("name", STUDY)
def test_a_compared_metric_that_a_stage_does_not_measure_is_refused(
    finished: Path, tmp_path: Path, name: str
) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    folder = top / str(STAGES[STUDY[name]].folder) / CELLS[1]
    metrics = read_metrics(folder / "metrics.json")
    renamed = Metric(f"new_{name}", "renamed").measured(1.0)
    others = [m for m in metrics.values() if m.metric.name != name]
    write_metrics(folder / "metrics.json", by_name(*others, renamed))
    with pytest.raises(ValueError, match=rf"{CELLS[1]}.metrics\.json lacks metric {name}"):
        build(top)
    if DRAWN.get(name):
        bare = Metric(name, "without baselines").measured(1.0)
        write_metrics(folder / "metrics.json", by_name(*others, bare))
        with pytest.raises(ValueError, match=rf"metric {name} or its baselines"):
            build(top)


def test_a_latent_vae_without_its_cell_is_refused(finished: Path, tmp_path: Path) -> None:
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
def test_a_number(value: float | None, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("interval", "value", "text"),
    [
        ((43.4, 82.6), 63.0, "± 20"),
        ((0.111, 0.179), 0.145, "± 0.034"),
        ((0.2, 0.5), 0.3, "0.2 to 0.5"),
        ((2.0, 2.0), 2.0, "± 0"),
        ((math.nan, math.nan), 2.0, ""),
        ((-math.inf, 3.0), 2.0, ""),
    ],
)
def test_an_interval_is_written_by_its_reach_where_it_is_symmetric(
    interval: tuple[float, float], value: float, text: str
) -> None:
    assert format_interval(interval, value) == text


def test_a_field_of_a_table() -> None:
    assert format_field("0.123456") == "0.1235"
    assert format_field("") == "–"
    assert format_field("kick") == "kick"
    assert (format_field("-inf"), format_field("inf"), format_field("nan")) == ("−∞", "∞", "–")


def test_words_and_durations() -> None:
    assert sentence("audio VAE's latents") == "Audio VAE's latents", "capitals stay"
    assert [duration(h) for h in (2.0, 0.5, 0.01)] == ["2.0 h", "30 min", "36 s"]
    assert flat({"a": {"b": 1}, "c": 2}) == [("a.b", 1), ("c", 2)]


def test_the_stage_writes_page_metrics_and_pictures(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages import report
    from techloop.reporting.exhibits import by_stage

    assert set(by_stage.EXHIBITS) == set(EXHIBITS)
    monkeypatch.setattr(by_stage, "EXHIBITS", EXHIBITS)
    (finished / ".dvc").mkdir(exist_ok=True)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(finished)
    shutil.copy(ROOT / "params.yaml", finished)
    report.main()
    record = json.loads((finished / "reports" / "runs" / "report.json").read_text())
    artifacts = finished / "mlruns" / record["run_id"] / "artifacts"
    assert {path.name for path in artifacts.iterdir()} == {"index.html", "metrics.json", "figures"}
    assert (artifacts / "figures" / "evaluate_prior" / "kl" / "figure.png").is_file()
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
    for words in ("Sources of tempi", "least certain", "pack/&lt;323&gt;.wav", "onsets 120.1"):
        assert words in text, words


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
    assert "Unknown for all of them." in text
    assert len([svg for svg in page.all("svg") if svg.get("class") == "histogram"]) == 2
    assert "<code>a/quiet.wav</code>" in text
    table.unlink()
    text, _ = build(top)
    assert "rejected.csv is not there" in text
    assert "<p>Unknown.</p>" in text


def test_a_damaged_index_is_refused(finished: Path, tmp_path: Path) -> None:
    top = shutil.copytree(finished, tmp_path / "copy")
    index = top / "data" / "loops" / "index.parquet"
    index.write_bytes(index.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"index\.parquet is truncated or damaged"):
        build(top)


def test_every_template_makes_the_report_stale() -> None:
    templates = {path.relative_to(ROOT).as_posix() for path in TEMPLATES.glob("*")}
    assert len(templates) > 5
    assert templates <= set(code_deps("report"))


def test_drawing_makes_only_reports_stale() -> None:
    """A changed colour runs no evaluation and drops no checkpoint."""
    yaml = YAML(typ="safe")
    stages = [name for file in PIPELINES for name in yaml.load(ROOT / file)["stages"]]
    assert len(stages) > 10
    stale = {name for name in stages if "techloop/reporting/plots.py" in code_deps(name)}
    assert stale == {"report", "study_report"}
