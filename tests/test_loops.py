import csv
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
import soundfile

from techloop.artifacts import read_json
from techloop.audio import PEAK, loop_loudness_lufs
from techloop.grid import Grid
from techloop.loops import CHUNK, cut_loops, place_of, prepare_loops, split_of
from techloop.sources import Item, Unreadable
from techloop.sources.folder import FolderSource
from techloop.tempo import Tempo, find_tempo

GRID = Grid(sample_rate_hz=4000, hop=32)
SETTINGS = {
    "grid": GRID,
    "min_bpm": 90.0,
    "max_bpm": 180.0,
    "loudness_lufs": -18.0,
    "silence_lufs": -60.0,
    "train_fraction": 0.6,
    "validation_fraction": 0.2,
    "shard_mb": 1,
    "seed": 0,
    "workers": 0,
}


def bar(seed=0, samples=GRID.samples):
    """Four beats of decaying noise over a tone with whole cycles."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / samples
    x = 0.3 * rng.standard_normal(samples) * np.exp(-40 * (t % 0.25)) + 0.1 * np.sin(80 * np.pi * t)
    return x.astype(np.float32)


@dataclass
class Made:
    """A source of what a test gives it."""

    audio: dict[str, np.ndarray]
    bpm: float | None = GRID.bpm
    rate: int = GRID.sample_rate_hz
    groups: dict[str, str] = field(default_factory=dict)
    name: str = "made"

    def items(self):
        return [
            Item(name, self.groups.get(name, name), "me", "CC0-1.0", self.bpm, {"size_m": 2.0})
            for name in self.audio
        ]

    def read(self, item):
        if not isinstance(self.audio[item.name], np.ndarray):
            raise self.audio[item.name]
        return self.audio[item.name][None], self.rate


def bars(n):
    return {f"loop/{i:03d}": bar(i) for i in range(n)}


def prepared(folder):
    """Card, index, audio in the order of the index, and rejects."""
    card, index = read_json(folder / "card.json"), pd.read_parquet(folder / "index.parquet")
    shards = [np.load(folder / shard["file"], mmap_mode="r") for shard in card["shards"]]
    audio = np.stack([shards[s][r] for s, r in zip(index["shard"], index["row"], strict=True)])
    with (folder / "rejected.csv").open(encoding="utf-8", newline="") as stream:
        return card, index, audio, list(csv.DictReader(stream))


def test_what_is_on_the_grid_comes_through_untouched_but_for_gain(tmp_path):
    source = Made(bars(20))
    returned = prepare_loops(source, tmp_path / "loops", **SETTINGS)
    card, index, audio, rejected = prepared(tmp_path / "loops")
    assert card == returned
    assert (card["loops"], card["items"], rejected) == (20, 20, [])
    assert index["name"].tolist() == list(source.audio)
    assert (index["stretch_ratio"] == 1).all()
    assert (index["bpm_source"] == "annotation").all()
    for loop, gain_db, x in zip(audio, index["gain_db"], source.audio.values(), strict=True):
        expected = (x - x.mean()) * 10 ** (gain_db / 20)
        np.testing.assert_allclose(loop / 32_768, expected, atol=0.51 / 32_768)


def test_loops_have_the_loudness_asked_for_or_the_peak_allowed(tmp_path):
    prepare_loops(Made(bars(20)), tmp_path / "quiet", **{**SETTINGS, "loudness_lufs": -30.0})
    _, _, audio, _ = prepared(tmp_path / "quiet")
    for loop in audio / 32_768:
        assert loop_loudness_lufs(loop, GRID.sample_rate_hz) == pytest.approx(-30, abs=0.05)
    prepare_loops(Made(bars(20)), tmp_path / "loud", **{**SETTINGS, "loudness_lufs": -1.0})
    _, _, audio, _ = prepared(tmp_path / "loud")
    np.testing.assert_allclose(np.abs(audio / 32_768).max(axis=1), PEAK, atol=1e-4)


def test_card_and_index_say_what_is_there(tmp_path):
    source = Made(bars(20) | {"silence": np.zeros(GRID.samples, np.float32)})
    prepare_loops(source, tmp_path / "loops", **SETTINGS)
    card, index, audio, _ = prepared(tmp_path / "loops")
    assert audio.shape == (20, GRID.samples)
    assert audio.dtype == np.int16
    assert set(index.columns) == {
        *("loop_id", "name", "shard", "row", "split", "group", "source", "author", "licence"),
        *("bpm_source", "bpm", "bpm_confidence", "stretch_ratio", "bar_in_source", "gain_db"),
        "factor_size_m",
    }
    assert index["loop_id"].is_unique
    assert card["splits"] == index["split"].value_counts().to_dict()
    assert card["hours"] == pytest.approx(20 * 1.92 / 3600)
    assert card["licences"] == {"CC0-1.0": 20}
    assert card["rejected"] == {"silent": 1}
    assert Grid(**card["grid"]) == GRID
    assert sorted(p.name for p in (tmp_path / "loops").iterdir()) == [
        *("audio-00000.npy", "card.json", "index.parquet", "rejected.csv"),
    ]


def test_shards_are_no_larger_than_asked(tmp_path):
    n = 2**20 // (2 * GRID.samples) + 3
    prepare_loops(Made(bars(n)), tmp_path / "loops", **SETTINGS)
    card, index, audio, _ = prepared(tmp_path / "loops")
    assert [s["loops"] for s in card["shards"]] == [n - 3, 3]
    assert index["shard"].tolist() == [0] * (n - 3) + [1] * 3
    # The last one is the last item, not another: the order survives the border.
    last = bar(n - 1)
    assert np.corrcoef(audio[-1], last)[0, 1] > 0.999


def test_a_defect_of_ours_costs_one_recording(tmp_path, monkeypatch):
    def stumble(x, rate, *, name, **kwargs):
        if name == "loop/007":
            raise IndexError("off by one")
        return find_tempo(x, rate, name=name, **kwargs)

    monkeypatch.setattr("techloop.loops.find_tempo", stumble)
    card = prepare_loops(Made(bars(20)), tmp_path / "loops", **SETTINGS)
    _, index, _, rejected = prepared(tmp_path / "loops")
    assert (card["loops"], card["rejected"]) == (19, {"failed": 1})
    assert "loop/007" not in set(index["name"])
    assert rejected[0]["detail"] == "IndexError: off by one"


def test_every_item_ends_in_exactly_one_of_index_and_rejects(tmp_path):
    silence = np.zeros(GRID.samples, np.float32)
    source = Made(
        bars(20)
        | {
            "broken": Unreadable("no decoder"),
            "odd": KeyError("a defect of the decoder"),
            "silent": silence,
            "faint": np.concatenate([8e-3 * bar(1), 8e-3 * bar(2)]),
            "gap": np.concatenate([bar(1), 8e-3 * bar(2), bar(3)]),
            "bro\udcffken": Unreadable("not in UTF-8 either: \udcff"),
        }
    )
    prepare_loops(source, tmp_path / "loops", **SETTINGS)
    card, index, _, rejected = prepared(tmp_path / "loops")
    assert [(row["name"], row["bar"], row["reason"]) for row in rejected] == [
        ("broken", "", "unreadable"),
        ("odd", "", "unreadable"),
        ("silent", "", "silent"),
        ("faint", "", "silent"),
        ("gap", "1", "silent"),
        ("bro\\udcffken", "", "unreadable"),
    ]
    assert index.loc[index["name"] == "gap", "bar_in_source"].tolist() == [0, 2]
    whole = {row["name"] for row in rejected if not row["bar"]}
    assert whole.isdisjoint(index["name"])
    assert len(whole) + index["name"].nunique() == card["items"] == 26
    assert rejected[0]["detail"] == "no decoder"
    assert -70 < float(rejected[4]["value"]) < float(rejected[4]["limit"]) == -60


def test_less_than_a_bar_is_rejected_and_less_than_a_loop_too(tmp_path):
    audio = bars(20) | {"hit": bar()[:2000]}
    prepare_loops(Made(audio, bpm=None), tmp_path / "one", **SETTINGS)
    (row,) = prepared(tmp_path / "one")[3]
    assert (row["name"], row["reason"], row["limit"]) == ("hit", "shorter_than_a_bar", "4.0")

    pairs = {name: np.concatenate([x, x]) for name, x in bars(20).items()}
    settings = SETTINGS | {"grid": replace(GRID, bars=2)}
    prepare_loops(Made(pairs | {"one": bar()}), tmp_path / "two", **settings)
    card, _, loops, (row,) = prepared(tmp_path / "two")
    assert loops.shape == (20, 2 * GRID.samples)
    assert (row["name"], row["reason"], row["limit"]) == ("one", "shorter_than_a_loop", "8.0")
    assert card["grid"]["bars"] == 2


@pytest.mark.parametrize("rate", [4000, 8000, 44_100])
def test_another_tempo_and_rate_land_on_the_grid(rate):
    bpm, n = 140.0, 5
    samples = round(n * 240 / bpm * rate)
    t = np.arange(samples) / samples
    x = (np.sin(2 * np.pi * 20 * n * t) * (1 + np.floor(n * t))).astype(np.float32)
    tempo = Tempo(60 * 4 * n / (samples / rate), 1.0, 0.0, "length", circular=True)
    loops = dict(cut_loops(x, rate, tempo, GRID))
    assert list(loops) == list(range(n))
    expected = np.sin(2 * np.pi * 20 * np.arange(GRID.samples) / GRID.samples)
    for i, loop in loops.items():
        middle = slice(300, -300)  # away from the cross-fade with a bar of another level
        np.testing.assert_allclose(loop[middle] / (i + 1), expected[middle], atol=0.05)


def test_bars_are_cut_from_the_downbeat_and_none_runs_out_of_the_recording():
    rate, lead = 8000, 1000
    clicks = np.zeros(lead + round(3.5 * 1.92 * rate), np.float32)
    clicks[[lead + round(k * 1.92 * rate) for k in range(4)]] = 1
    tempo = Tempo(125.0, 1.0, lead / rate, "onsets", circular=False)
    loops = dict(cut_loops(clicks, rate, tempo, GRID))
    assert list(loops) == [0, 1, 2]
    assert all(np.abs(loop).argmax() == 0 for loop in loops.values())


def test_bars_of_continuous_music_do_not_step_where_they_wrap():
    t = np.arange(100_000) / 8000
    x = np.sin(2 * np.pi * 97.3 * t).astype(np.float32)
    tempo = Tempo(125.0, 1.0, 0.5, "onsets", circular=False)
    for _, loop in cut_loops(x, 8000, tempo, GRID):
        assert abs(loop[0] - loop[-1]) < 1.1 * np.abs(np.diff(x[::2])).max()
    plain = x[4000 : 4000 + 15_360 : 2]
    assert abs(plain[0] - plain[-1]) > 1.5 * np.abs(np.diff(x[::2])).max()


def test_splits_are_by_group_and_adding_files_moves_nobody(tmp_path):
    groups = {f"loop/{i:03d}": f"author {i // 4}" for i in range(80)}
    prepare_loops(Made(bars(40), groups=groups), tmp_path / "few", **SETTINGS)
    prepare_loops(Made(bars(80), groups=groups), tmp_path / "many", **SETTINGS | {"seed": 9})
    few, many = (prepared(tmp_path / name)[1].set_index("loop_id") for name in ("few", "many"))
    assert len(many[["group", "split"]].drop_duplicates()) == 20
    assert few["split"].equals(many.loc[few.index, "split"])


def test_splits_have_the_sizes_asked_for():
    found = [split_of(f"file {i}", 0.8, 0.1) for i in range(10_000)]
    assert found.count("train") == pytest.approx(8000, abs=150)
    assert found.count("validation") == pytest.approx(1000, abs=120)
    assert {split_of("x", 1.0, 0.0), split_of("x", 0.0, 1.0), split_of("x", 0.0, 0.0)} == {
        *("train", "validation", "test")
    }
    # Stable between versions: a change here would move the loops of everybody.
    assert place_of("author") == pytest.approx(0.38825, abs=1e-4)


def test_the_bytes_do_not_depend_on_the_workers(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(3 * CHUNK):
        soundfile.write(tmp_path / "in" / f"{i}.wav", np.tile(bar(i), 2), GRID.sample_rate_hz)
    (tmp_path / "in" / "5.wav").write_text("no audio")
    for workers in (0, 2):
        settings = SETTINGS | {"workers": workers}
        prepare_loops(FolderSource(tmp_path / "in"), tmp_path / str(workers), **settings)
    here, there = (sorted((tmp_path / n).iterdir()) for n in "02")
    assert [p.name for p in here] == [p.name for p in there]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(here, there, strict=True))


def test_an_empty_split_is_refused_with_fractions_that_fill_it(tmp_path):
    settings = SETTINGS | {"train_fraction": 0.98, "validation_fraction": 0.01}
    with pytest.raises(ValueError, match=r"test would be empty.*train_fraction: ") as error:
        prepare_loops(Made(bars(8)), tmp_path / "loops", **settings)
    assert not list(tmp_path.iterdir())
    train, validation = (
        float(str(error.value).split(f"`{name}: ")[1].split("`")[0])
        for name in ("train_fraction", "validation_fraction")
    )
    settings |= {"train_fraction": train, "validation_fraction": validation}
    assert min(prepare_loops(Made(bars(8)), tmp_path / "loops", **settings)["splits"].values()) > 0


def test_two_files_cannot_fill_three_splits(tmp_path):
    with pytest.raises(ValueError, match="three groups are the least"):
        prepare_loops(Made(bars(2)), tmp_path / "loops", **SETTINGS)


def test_nothing_accepted_is_an_error_and_leaves_what_was_there(tmp_path):
    prepare_loops(Made(bars(20)), tmp_path / "loops", **SETTINGS)
    before = (tmp_path / "loops" / "card.json").read_bytes()
    source = Made({"a": Unreadable("no decoder"), "b": np.zeros(100, np.float32)})
    with pytest.raises(ValueError, match=r"none of 2 items.*unreadable: 1, silent: 1.*no decoder"):
        prepare_loops(source, tmp_path / "loops", **SETTINGS)
    assert (tmp_path / "loops" / "card.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["loops"]


def test_a_range_that_is_none_is_refused(tmp_path):
    settings = SETTINGS | {"min_bpm": 180.0, "max_bpm": 90.0}
    with pytest.raises(ValueError, match="min_bpm 180 and max_bpm 90"):
        prepare_loops(Made(bars(3)), tmp_path / "loops", **settings)


def test_a_folder_of_files_becomes_a_dataset(tmp_path):
    rate = 8000
    for i in range(12):
        bpm = 100 + 6 * i
        x = np.concatenate([bar(i, round(240 / bpm * rate))] * 4)
        path = tmp_path / "in" / f"pack {i % 3}" / f"{i}.{('wav', 'flac', 'ogg')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack([x, x], axis=1), rate)
    (tmp_path / "in" / "no.mp3").write_text("no audio")
    prepare_loops(FolderSource(tmp_path / "in"), tmp_path / "loops", **SETTINGS)
    card, index, _, (row,) = prepared(tmp_path / "loops")
    assert (card["loops"], row["name"], row["reason"]) == (48, "no.mp3", "unreadable")
    for name, loops in index.groupby("name"):
        number = int(name.split("/")[1].split(".")[0])
        assert loops["bpm"].iloc[0] == pytest.approx(100 + 6 * number, abs=0.1)
        assert loops["stretch_ratio"].iloc[0] == pytest.approx((100 + 6 * number) / 125, abs=1e-3)
        assert loops["bar_in_source"].tolist() == [0, 1, 2, 3]
