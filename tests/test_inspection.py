"""`techloop inspect`: histograms that lose nothing, reasons for rejection, and wrong folders."""

import math
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from techloop.artifacts import write_json
from techloop.data.columns import REJECTED_COLUMNS
from techloop.data.loops_folder import INDEX_COLUMNS, open_loops
from techloop.data.summary import (
    MOST_BINS,
    duration,
    families,
    histograms,
    least_sure,
    nice_step,
    reasons,
    tempo_sources,
    ticks,
)
from techloop.reporting.dataset_plot import dataset_overview
from techloop.reporting.dataset_text import describe
from tests.helpers.datasets import kicks, write_loops

STRANGE = 'a, "b"\nシンセ 🎛 é\r\x1b[31m.wav'


def index_of(bpm: Sequence[float], bars: int = 3, **columns: Any) -> pd.DataFrame:
    """The index of recordings with these tempi, each with `bars` loops."""
    n = len(bpm) * bars
    number = np.arange(n) // max(bars, 1)
    columns_of_index = {
        "name": [f"{i:05d}.wav" for i in number],
        "group": [f"author {i % 7}" for i in number],
        "split": ["train" if i % 7 < 5 else "validation" if i % 7 < 6 else "test" for i in number],
        "licence": ["CC0-1.0" if i % 3 else "" for i in number],
        "bpm": np.repeat(np.array(bpm, float), bars),
        "bpm_source": ["name" if i % 2 else "length" for i in number],
        "bpm_confidence": 1 - number / (2 * n + 1),
        "bpm_evidence": "name 125; onsets 125.02",
        "duration_s": 1.92 * (1 + number % 30),
        "loudness_lufs": -40 + 35 * np.arange(n) / max(n - 1, 1),
    }
    return pd.DataFrame(columns_of_index | columns)


def rejected_of(*rows: Sequence[object]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(REJECTED_COLUMNS))


def write_dataset(
    folder: Path, index: pd.DataFrame, rejected: pd.DataFrame | None = None, **card: Any
) -> Path:
    folder.mkdir(parents=True)
    index.to_parquet(folder / "index.parquet", index=False)
    if rejected is not None:
        rejected.to_csv(folder / "rejected.csv", index=False)
    grid = {"sample_rate_hz": 16_000, "hop": 128, "bpm": 125.0, "beats_per_bar": 4, "bars": 1}
    about = {"format": 1, "grid": grid, "source": "folder", "loops": len(index), "items": 40}
    write_json(folder / "card.json", about | card)
    return folder


def columns_of(line: str) -> int:
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in line)
    return len(line) + wide - sum(unicodedata.combining(c) > 0 for c in line)


# Histograms


def test_counts_add_up_to_recordings_and_loops() -> None:
    index = index_of([125.0] * 20 + [128.0] * 9 + [90.5], bars=4)
    tempo, loudness, length = histograms(index)
    assert (tempo.counts.sum(), tempo.of, tempo.unit) == (30, "recordings", "BPM")
    assert (loudness.counts.sum(), loudness.of, loudness.unit) == (120, "loops", "LUFS")
    assert (length.counts.sum(), length.of, length.unit) == (30, "recordings", "s")
    assert [h.log for h in (tempo, loudness, length)] == [False, False, True]
    assert (tempo.low, tempo.median, tempo.high) == (90.5, 125, 128)


def test_bins_are_numpys_on_round_edges() -> None:
    values = np.random.default_rng(0).normal(130, 12, 500).round(1)
    tempo = histograms(index_of(values.tolist(), bars=1))[0]
    steps = np.diff(tempo.edges)
    assert set(steps) == {5.0}
    assert set(tempo.edges % 5) == {0.0}
    np.testing.assert_array_equal(tempo.counts, np.histogram(values, tempo.edges)[0])
    assert tempo.edges[0] <= values.min() < tempo.edges[1]
    assert tempo.edges[-2] <= values.max() < tempo.edges[-1]


def test_values_that_differ_by_rounding_share_a_bin() -> None:
    tempo = histograms(index_of([124.99997, 125.0, 125.00003, 95.0, 160.0], bars=1))[0]
    assert tempo.counts[tempo.edges[:-1] == 125.0].tolist() == [3]


def test_lengths_over_five_decades() -> None:
    lengths = np.geomspace(0.1, 7200, 40)
    length = histograms(index_of([125.0] * 40, bars=1, duration_s=lengths))[2]
    assert length.counts.sum() == 40
    assert len(length.counts) <= MOST_BINS
    assert length.edges[[0, -1]].tolist() == [0.1, 10_000]
    assert {f"{edge:e}"[0] for edge in length.edges} == {"1", "2", "5"}
    near = histograms(index_of([125.0] * 3, bars=1, duration_s=[2.0, 4.0, 7.9]))[2]
    assert near.edges.tolist() == [2, 2.5, 3.2, 4, 5, 6.3, 8]
    assert near.counts.tolist() == [1, 0, 0, 1, 0, 1]


@given(
    st.lists(st.floats(-200, 1000), min_size=1, max_size=30),
    st.lists(st.floats(0.001, 1e5), min_size=1, max_size=30),
)
def test_histograms_count_every_value(levels: list[float], lengths: list[float]) -> None:
    index = index_of(levels, bars=1, loudness_lufs=levels)
    drawn = [*histograms(index)[:2], histograms(index_of(lengths, 1, duration_s=lengths))[2]]
    for histogram, values in zip(drawn, (levels, levels, lengths), strict=True):
        assert histogram.counts.sum() == len(values)
        assert 1 <= len(histogram.counts) == len(histogram.edges) - 1 <= MOST_BINS
        assert (np.diff(histogram.edges) > 0).all()
        marks = ticks(histogram)
        assert len(marks) <= 8
        assert all(histogram.edges[0] <= mark <= histogram.edges[-1] for mark in marks)


def test_one_value_is_one_bin() -> None:
    for bpm in (125.0, 124.3):
        tempo, _, length = histograms(index_of([bpm] * 5, bars=2, duration_s=1.92))
        assert tempo.counts.tolist() == [5]
        assert tempo.edges.tolist() == [math.floor(bpm), math.floor(bpm) + 1]
        assert length.counts.tolist() == [5]
        assert length.edges.tolist() == [1.6, 2.0]


def test_without_values_a_histogram_has_no_bins() -> None:
    for index in (
        index_of([]),
        pd.DataFrame({"loop_id": ["a"]}),
        index_of([math.nan] * 2, loudness_lufs=-math.inf, duration_s="?"),
    ):
        for histogram in histograms(index):
            assert histogram.counts.size == histogram.edges.size == 0
            assert math.isnan(histogram.median)
            assert ticks(histogram) == []
    assert [h.without for h in histograms(index)] == [2, 6, 2]


def test_missing_values_are_counted_separately() -> None:
    index = index_of([125.0, math.nan, 130.0], bars=2)
    index.loc[0, "loudness_lufs"] = -math.inf
    index.loc[index["name"] == "00002.wav", "duration_s"] = 0.0
    tempo, loudness, length = histograms(index)
    assert [(h.counts.sum(), h.without) for h in (tempo, loudness, length)] == [
        (2, 1),
        (5, 1),
        (2, 1),
    ]


@pytest.mark.parametrize(
    ("span", "most", "least", "step"),
    [
        (90, 20, 1, 5),
        (20, 20, 1, 1),
        (20.1, 20, 1, 2),
        (0, 5, 1, 1),
        (0.3, 3, 0, 0.1),
        (7, 4, 1, 2),
    ],
)
def test_steps_are_round(span: float, most: int, least: float, step: float) -> None:
    assert nice_step(float(span), most, float(least)) == step


def test_ticks_are_round() -> None:
    tempo, loudness, length = histograms(index_of(np.linspace(90, 179, 40).tolist()))
    assert ticks(tempo) == [100, 120, 140, 160, 180]
    assert ticks(loudness) == [-40, -30, -20, -10]
    assert ticks(length) == [2, 5, 10, 20, 50]


# Rejections and tempi


def test_reasons_by_frequency_with_whole_files(tmp_path: Path) -> None:
    table = rejected_of(
        (STRANGE, "", "unreadable", "cut off, or so", "", ""),
        ("x.wav", 3, "silent", "less loud", -71.25, -60),
        ("y\r.wav", 0, "silent", "less loud", "-inf", -60),
        ("z.wav", "", "silent", "every sample is the same", -math.inf, -60),
        ("x.wav", -1, "incomplete", "before the first bar", 0.4, 1.92),
        ("nan", "", "licence", "not among those allowed", "CC-BY-NC-3.0", "CC0-1.0, CC-BY-4.0"),
    )
    loops = open_loops(write_dataset(tmp_path / "loops", index_of([125.0] * 9), table))
    assert loops.lacking == {}
    assert loops.rejected is not None
    by_reason = reasons(loops.rejected)
    assert [(r.reason, r.rows, r.files) for r in by_reason] == [
        ("silent", 3, 1),
        ("incomplete", 1, 0),
        ("licence", 1, 1),
        ("unreadable", 1, 1),
    ]
    assert [row["file"] for row in by_reason[0].examples] == ["x.wav", "y\r.wav", "z.wav"]
    assert by_reason[3].examples[0]["file"] == STRANGE
    assert by_reason[2].examples[0]["file"] == "nan"
    assert by_reason[2].examples[0]["limit"] == "CC0-1.0, CC-BY-4.0"
    text = describe(loops)
    assert "x.wav, bar 3: less loud (-71.25, limit -60)" in text
    assert "nan: not among those allowed (CC-BY-NC-3.0, limit CC0-1.0, CC-BY-4.0)" in text
    assert r'a, "b"\nシンセ 🎛 é\r\x1b[31m.wav: cut off, or so' in text
    assert "\x1b" not in text
    rows = {line.split("  ")[1]: line.split()[-2:] for line in text.split("\n") if "  " in line}
    assert rows["silent"] == ["3", "1"]
    assert rows["all"] == ["6", "3"]


def test_a_table_that_went_through_a_spreadsheet(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "loops", index_of([125.0] * 9))
    table = ",".join(REJECTED_COLUMNS) + "\r\nx.wav,3,silent,,-71,-60\r\n"
    (folder / "rejected.csv").write_bytes(table.encode())
    loops = open_loops(folder)
    assert loops.rejected is not None
    assert reasons(loops.rejected)[0].examples[0]["limit"] == "-60"


def test_families_of_near_duplicates() -> None:
    table = rejected_of(
        ("a.wav", "0", "near_duplicate", "of Kick bar 4 loop.wav bar 7: alike", "0.99", "0.98"),
        ("a.wav", "1", "near_duplicate", "of Kick bar 4 loop.wav bar 7: alike", "0.99", "0.98"),
        ("b.wav", "", "near_duplicate", "of Kick bar 4 loop.wav bar 2", "0.99", "0.98"),
        ("c.wav", "0", "near_duplicate", "of a\nb.wav bar 0: alike as bar 5", "0.99", "0.98"),
        ("d.wav", "0", "silent", "of nothing bar 3", "-70", "-60"),
    )
    largest_first = families(table, ["Kick bar 4 loop.wav", "a\nb.wav"])
    assert [(f.original, f.rows, f.files, f.example) for f in largest_first] == [
        ("Kick bar 4 loop.wav", 3, 2, "a.wav"),
        ("a\nb.wav", 1, 1, "c.wav"),
    ]
    assert families(rejected_of(), ["x"]) == []


def test_how_tempi_were_found() -> None:
    index = index_of([125.0] * 5, bars=2, bpm_confidence=np.repeat([1, 0.4, 0.8, 1, 0.4], 2))
    assert tempo_sources(index) == [("length", 3, 0.8, 0.4), ("name", 2, 0.7, 0.4)]
    assert [(row["name"], row["bpm_confidence"]) for row in least_sure(index)] == [
        ("00001.wav", 0.4),
        ("00004.wav", 0.4),
        ("00002.wav", 0.8),
    ]
    assert [row["name"] for row in least_sure(index, 1)] == ["00001.wav"]
    assert least_sure(index.assign(bpm_confidence=1.0)) == [], "all have the same confidence"
    assert least_sure(index.assign(bpm_confidence=math.nan)) == []


# Text


def long_names(n: int) -> pd.DataFrame:
    """Reasons of every kind, in many rows with long names."""
    stems = ["Ein sehr langer Ordner/" * 6, "シンセ・リード" * 9, "e\u0301" * 90, "x"]
    rows = [
        (f"{stems[i % 4]}{i}.wav", "" if i % 3 else i, f"reason_{i % 17}", "why " * (i % 60), *pair)
        for i in range(n)
        for pair in [(10.0**i, -1e-9) if i % 2 else ("words " * 9, "more words " * 9)]
    ]
    alike = "of " + "kept " * 40 + "bar 3: alike"
    return rejected_of(*rows, *[("y" * 300, 1, "near_duplicate", alike, 1, 0.98)] * 1234)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_the_text_fits_80_columns_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    index = index_of(np.linspace(90, 179, 3000).tolist(), bars=1)
    index["name"] = ["long " * 50 + name for name in index["name"]]
    index["licence"] = "https://creativecommons.org/licenses/by-nc-sa/3.0/" + "deed/" * 9
    index["bpm_evidence"] = "onsets 128; " * 12
    folder = write_dataset(tmp_path / "loops", index, long_names(100), source="s" * 99)
    text = describe(open_loops(folder), encoding)
    text.encode(encoding)
    assert max(map(columns_of, text.split("\n"))) <= 80
    assert ("█" in text) == (encoding == "utf-8")
    assert ("###" in text) == (encoding != "utf-8")
    assert "1,234" in text
    assert all(f"reason {i}" in text for i in range(17)), "every reason is shown"
    assert "3,000 loops of 1 bar (1.6 h) from" in text


def test_the_text_of_a_small_dataset(tmp_path: Path) -> None:
    index = index_of([125.0] * 20 + [128.0] * 10, bars=2)
    text = describe(open_loops(write_dataset(tmp_path / "loops", index, rejected_of(), authors=7)))
    assert "60 loops of 1 bar (115 s) from folder, 4/4 at 125 BPM, 16,000 Hz" in text
    assert "30 of 40 recordings are in it, by 7 authors" in text
    assert "Left out: nothing." in text
    table = [line.split() for line in text.split("\n")]
    assert ["train", "44", "5", "0.02"] in table
    assert ["test", "8", "1", "0.00"] in table
    assert ["CC0-1.0", "40", "20"] in table
    assert ["unknown", "20", "10"] in table
    assert ["length", "15", "0.88", "0.77"] in table
    bars = {line[:11].strip(): line for line in text.split("\n") if " – " in line}
    assert bars["125 – 126"].endswith("█ 20")
    assert bars["128 – 129"].endswith(" 10")
    assert bars["125 – 126"].count("█") == pytest.approx(2 * bars["128 – 129"].count("█"), abs=2)


def test_the_text_of_a_dataset_without_values(tmp_path: Path) -> None:
    index = index_of([math.nan] * 3, bpm_confidence=math.nan, loudness_lufs=math.nan)
    text = describe(open_loops(write_dataset(tmp_path / "loops", index, rejected_of())))
    assert "Tempo of the recordings (BPM): not known of any" in text
    assert "nan" not in text
    assert "Least sure" not in text


def test_durations() -> None:
    assert [duration(h) for h in (1234.5, 2.0, 0.5, 0.01)] == [
        "1,234.5 h",
        "2.0 h",
        "30 min",
        "36 s",
    ]


# Folders


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data" / "loops", index_of([125.0] * 9), rejected_of())


def test_a_uri_is_a_folder_too(dataset: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(dataset), "/inspected/loops", recursive=True)
    try:
        loops = open_loops("memory://inspected/loops")
        assert len(loops.index) == 27
        assert describe(loops).startswith("memory://inspected/loops\n27 loops")
        with pytest.raises(ValueError, match=r"memory://inspected/none is not there"):
            open_loops("memory://inspected/none")
    finally:
        memory.rm("/inspected", recursive=True)
    with pytest.raises(ValueError, match="nowhere://x cannot be opened"):
        open_loops("nowhere://x")


def test_errors_of_wrong_folders_say_what_to_do(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent is not there.*dvc repro prepare_loops"):
        open_loops(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"one file of a dataset: give its folder, .*loops"):
        open_loops(dataset / "index.parquet")
    with pytest.raises(ValueError, match=r"data is not a dataset, but holds one: give .*loops"):
        open_loops(dataset.parent)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"notes\.txt is a file"):
        open_loops(tmp_path / "notes.txt")
    recordings = tmp_path / "pack" / "kicks"
    recordings.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"pack is not a dataset, as it has no card\.json"):
        open_loops(tmp_path / "pack")
    (recordings / "one.WAV").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"pack holds recordings \(such as one\.WAV\).*techloop prepare"
    ):
        open_loops(tmp_path / "pack")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="holds a model"):
        open_loops(tmp_path / "model")
    latents = write_dataset(tmp_path / "latents", index_of([125.0] * 9), model="1" * 16)
    with pytest.raises(ValueError, match="holds latents, not loops"):
        open_loops(latents)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("card.json", b"{", "is damaged"),
        ("card.json", b"\xff\xfe\x00", "is damaged"),
        ("card.json", b"[1]", "its grid cannot be read"),
        ("card.json", b"{}", "its grid cannot be read"),
        ("card.json", b'{"grid": {"tempo": 3}}', "its grid cannot be read"),
        ("index.parquet", None, "is not there"),
        ("index.parquet", b"", "is truncated or damaged"),
        ("index.parquet", b"PAR1 and nothing else", "is truncated or damaged"),
        ("rejected.csv", b"", "is truncated or damaged"),
        ("rejected.csv", b"file,bar\nx,3\n", "no column `reason`"),
        ("rejected.csv", b'file,bar,reason\n"x,3,silent\n', "is truncated or damaged"),
        ("rejected.csv", b"reason\n\xff\xff\n", "is truncated or damaged"),
    ],
)
def test_errors_of_damaged_files_say_what_to_do(
    dataset: Path, file: str, content: bytes | None, message: str
) -> None:
    (dataset / file).unlink() if content is None else (dataset / file).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_loops(dataset)
    assert file in str(caught.value)
    assert "dvc checkout" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_parquet_never_crashes(dataset: Path) -> None:
    whole = (dataset / "index.parquet").read_bytes()
    rng = np.random.default_rng(0)
    for i in range(60):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), 1 + i % 20):
            content[place] ^= 1 << int(rng.integers(8))
        (dataset / "index.parquet").write_bytes(content[: len(whole) if i % 2 else -100 * i])
        try:
            open_loops(dataset)
        except ValueError as error:
            assert "index.parquet" in str(error)  # noqa: PT017


def test_files_of_two_runs_are_reported(dataset: Path) -> None:
    index_of([125.0] * 8).to_parquet(dataset / "index.parquet")
    with pytest.raises(ValueError, match=r"27 loops, but index\.parquet beside it has 24"):
        open_loops(dataset)


@pytest.mark.parametrize("column", INDEX_COLUMNS)
def test_an_index_without_a_column_is_described_as_far_as_it_goes(
    dataset: Path, column: str
) -> None:
    index_of([125.0] * 9).drop(columns=column).to_parquet(dataset / "index.parquet")
    loops = open_loops(dataset)
    assert loops.lacking == {"index.parquet": [column]}
    assert f"index.parquet has no {column}" in loops.age()
    assert "27 loops" in describe(loops)


def test_the_rejects_of_an_older_version(dataset: Path) -> None:
    table = "name,bar,reason,detail,value,limit\nx.wav,3,silent,less loud,-71,-60\n"
    (dataset / "rejected.csv").write_text(table)
    loops = open_loops(dataset)
    assert loops.lacking == {"rejected.csv": ["file"]}
    assert "x.wav, bar 3: less loud (-71, limit -60)" in describe(loops)
    (dataset / "rejected.csv").unlink()
    assert "rejected.csv is not there" in open_loops(dataset).age()
    assert "Left out: not known" in describe(open_loops(dataset))


def test_an_index_with_few_columns(tmp_path: Path) -> None:
    folder = write_loops(tmp_path / "loops", kicks(3), ["train", "validation", "test"])
    loops = open_loops(folder)
    assert len(loops.index) == 3
    assert "3 loops of 1 bar (6 s)" in describe(loops)


def test_a_link_to_a_dataset_is_followed(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(dataset)
    assert len(open_loops(tmp_path / "link").index) == 27
    shutil.rmtree(dataset)
    with pytest.raises(ValueError, match="is not there"):
        open_loops(tmp_path / "link")


# The picture


@pytest.mark.parametrize("bpm", [[125.0] * 3, [math.nan] * 3, np.linspace(90, 170, 50).tolist()])
@pytest.mark.parametrize("rejections", [{}, {"silent": 12_345, "near duplicate": 1}])
def test_equal_data_give_equal_pictures(
    tmp_path: Path, bpm: list[float], rejections: dict[str, int]
) -> None:
    import matplotlib.pyplot as plt

    panels = histograms(index_of(bpm))
    for file, rows in (("a", rejections), ("b", rejections), ("c", {"other": 3})):
        dataset_overview(tmp_path / f"{file}.png", panels, rows)
    a, b, c = ((tmp_path / f"{file}.png").read_bytes() for file in "abc")
    assert a == b
    assert a != c
    assert plt.get_fignums() == []


def test_the_bars_of_the_picture_are_the_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib.pyplot as plt

    seen: list[Any] = []
    monkeypatch.setattr(plt.Figure, "savefig", lambda figure, *_, **__: seen.append(figure))
    panels = histograms(index_of([125.0] * 20 + [128.0] * 10 + [140.0]))
    dataset_overview(tmp_path / "a.png", panels, {"silent": 7, "clipped": 2})
    *drawn, rejections = seen[0].axes
    for ax, histogram in zip(drawn, panels, strict=True):
        assert [bar.get_height() for bar in ax.patches] == histogram.counts.tolist()
        assert [bar.get_x() for bar in ax.patches] == histogram.edges[:-1].tolist()
        assert ax.get_xlabel() == histogram.unit
        assert ax.get_xscale() == ("log" if histogram.log else "linear")
    assert [bar.get_width() for bar in rejections.patches] == [2, 7], "most frequent on top"
