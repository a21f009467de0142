import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import dask
import numpy as np
import pytest
import soundfile
from distributed import LocalCluster
from upath import UPath

from techloop.audio.level import PEAK, loop_loudness_lufs
from techloop.audio.recording import Rejection, Unreadable
from techloop.closure import closure
from techloop.data import parts
from techloop.data.columns import SPLITS
from techloop.data.deduplicate import fingerprint_spectrogram
from techloop.data.parts import CHUNK_ITEMS
from techloop.data.sources.folder import FolderSource
from techloop.data.splits import place_of, split_of
from techloop.data.tempo.stated import stated_tempi
from techloop.data.workers import DASK
from techloop.grid import Grid
from tests.helpers.datasets import contents
from tests.helpers.params import ROOT
from tests.helpers.sources import (
    CONFIG,
    GRID,
    GivenSource,
    bar,
    bars,
    prepare,
    read_dataset,
    read_rows,
    recording,
)


def test_what_is_on_the_grid_comes_through_untouched_but_for_gain(tmp_path):
    source = GivenSource(bars(20))
    returned = prepare(source, tmp_path / "loops")
    card, index, audio, rejected = read_dataset(tmp_path / "loops")
    assert card == returned
    assert (card["loops"], card["items"], rejected) == (20, 20, [])
    assert index["name"].tolist() == list(source.audio)
    assert (index["stretch_ratio"] == 1).all()
    assert (index["bpm_source"] == "annotation").all()
    for loop, gain_db, x in zip(audio, index["gain_db"], source.audio.values(), strict=True):
        expected = (x - x.mean()) * 10 ** (gain_db / 20)
        np.testing.assert_allclose(loop / 32_768, expected, atol=0.51 / 32_768)


def test_loops_have_the_loudness_asked_for_or_the_peak_allowed(tmp_path):
    quiet, loud = (replace(CONFIG, loudness_lufs=lufs) for lufs in (-30.0, -1.0))
    prepare(GivenSource(bars(20)), tmp_path / "quiet", config=quiet)
    _, _, audio, _ = read_dataset(tmp_path / "quiet")
    for loop in audio / 32_768:
        assert loop_loudness_lufs(loop, GRID.sample_rate_hz) == pytest.approx(-30, abs=0.05)
    prepare(GivenSource(bars(20)), tmp_path / "loud", config=loud)
    _, _, audio, _ = read_dataset(tmp_path / "loud")
    np.testing.assert_allclose(np.abs(audio / 32_768).max(axis=1), PEAK, atol=1e-4)


def test_card_and_index_say_what_is_there(tmp_path):
    source = GivenSource(bars(20) | {"silence": np.zeros(GRID.samples, np.float32)})
    prepare(source, tmp_path / "loops")
    card, index, audio, _ = read_dataset(tmp_path / "loops")
    assert audio.shape == (20, GRID.samples)
    assert audio.dtype == np.int16
    assert set(index.columns) == {
        *("loop_id", "name", "shard", "row", "split", "group", "source", "author", "licence"),
        *("bpm_source", "bpm", "bpm_confidence", "bpm_evidence", "downbeat_s", "duration_s"),
        *("stretch_ratio", "bar_in_source", "loudness_lufs", "dc_offset", "clipped_share"),
        *("gain_db", "factor_size_m"),
    }
    assert index["loop_id"].is_unique
    assert card["splits"] == index["split"].value_counts().to_dict()
    assert card["hours"] == pytest.approx(20 * 1.92 / 3600)
    assert (card["licences"], card["authors"]) == ({"CC0-1.0": 20}, 1)
    assert card["rejected"] == {"silent": 1}
    assert Grid(**card["grid"]) == GRID
    assert card["preparation"] == vars(CONFIG)
    assert sorted(p.name for p in (tmp_path / "loops").iterdir()) == [
        *("attribution.csv", "audio-00000.npy", "card.json", "index.parquet", "rejected.csv"),
    ]
    reached = [loop_loudness_lufs(loop / 32_768, GRID.sample_rate_hz) for loop in audio]
    np.testing.assert_allclose(index["loudness_lufs"] + index["gain_db"], reached, atol=0.05)


def test_attribution_names_each_recording_that_is_used(tmp_path):
    source = GivenSource(bars(20) | {"silence": np.zeros(GRID.samples, np.float32)})
    source.audio["long"] = np.concatenate([bar(30), bar(31)])
    source.overrides["long"] = {"author": "Ünknown, “quoted”", "licence": "CC-BY-4.0", "url": "x:1"}
    prepare(source, tmp_path / "loops")
    rows = {row["file"]: row for row in read_rows(tmp_path / "loops" / "attribution.csv")}
    assert set(rows) == {*bars(20), "long"}
    assert list(rows["long"].values()) == ["long", "Ünknown, “quoted”", "CC-BY-4.0", "x:1"]


def test_shards_are_no_larger_than_asked(tmp_path):
    n = 2**20 // (2 * GRID.samples) + 3
    prepare(GivenSource(bars(n)), tmp_path / "loops")
    card, index, audio, _ = read_dataset(tmp_path / "loops")
    assert [s["loops"] for s in card["shards"]] == [n - 3, 3]
    assert index["shard"].tolist() == [0] * (n - 3) + [1] * 3
    # The last one is the last item, not another: the order survives the border.
    last = bar(n - 1)
    assert np.corrcoef(audio[-1], last)[0, 1] > 0.999


def test_a_defect_of_ours_costs_one_recording(tmp_path, monkeypatch):
    def stumble(item, tags, duration_s):
        if item.name == "loop/007":
            raise IndexError("off by one")
        return stated_tempi(item, tags, duration_s)

    monkeypatch.setattr("techloop.data.loops.stated_tempi", stumble)
    card = prepare(GivenSource(bars(20)), tmp_path / "loops")
    _, index, _, rejected = read_dataset(tmp_path / "loops")
    assert (card["loops"], card["rejected"]) == (19, {"failed": 1})
    assert "loop/007" not in set(index["name"])
    assert rejected[0]["detail"] == "IndexError: off by one"


def test_every_item_ends_in_exactly_one_of_index_and_rejects(tmp_path):
    source = GivenSource(
        bars(20)
        | {
            "broken": Unreadable("no decoder"),
            "odd": KeyError("a defect of the decoder"),
            "silent": np.zeros(GRID.samples, np.float32),
            "faint": np.concatenate([8e-3 * bar(1), 8e-3 * bar(2)]),
            "gap": np.concatenate([bar(1), 8e-3 * bar(2), bar(3)]),
            "bro\udcffken": Unreadable("not in UTF-8 either: \udcff\r\n"),
            "filtered": bar(40),
        }
    )
    source.overrides["filtered"] = {
        "rejection": Rejection("licence", "not allowed", "CC-BY-NC-3.0", "CC0")
    }
    prepare(source, tmp_path / "loops")
    card, index, _, rejected = read_dataset(tmp_path / "loops")
    assert [(row["file"], row["bar"], row["reason"]) for row in rejected] == [
        ("broken", "", "unreadable"),
        ("odd", "", "unreadable"),
        ("silent", "", "silent"),
        ("faint", "", "silent"),
        ("gap", "1", "silent"),
        ("bro\\udcffken", "", "unreadable"),
        ("filtered", "", "licence"),
    ]
    assert index.loc[index["name"] == "gap", "bar_in_source"].tolist() == [0, 2]
    whole = {row["file"] for row in rejected if not row["bar"]}
    assert whole.isdisjoint(index["name"])
    assert len(whole) + index["name"].nunique() == card["items"] == 27
    assert rejected[0]["detail"] == "no decoder"
    assert "one of 2 rows" in rejected[3]["detail"]
    assert -70 < float(rejected[4]["value"]) < float(rejected[4]["limit"]) == -60
    assert rejected[5]["detail"] == r"not in UTF-8 either: \udcff\r\n"
    assert (rejected[6]["value"], rejected[6]["limit"]) == ("CC-BY-NC-3.0", "CC0")


def test_less_than_a_bar_is_rejected_and_less_than_a_loop_too(tmp_path):
    audio = bars(20) | {"hit": bar()[:2000]}
    prepare(GivenSource(audio, bpm=None), tmp_path / "one")
    (row,) = read_dataset(tmp_path / "one")[3]
    assert (row["file"], row["reason"], row["limit"]) == ("hit", "shorter_than_a_bar", "4.0")

    pairs = {name: np.concatenate([x, x]) for name, x in bars(20).items()}
    two = replace(GRID, bars=2)
    source = GivenSource(pairs | {"one": bar()})
    prepare(source, tmp_path / "two", grid=two)
    card, _, loops, (row,) = read_dataset(tmp_path / "two")
    assert loops.shape == (20, 2 * GRID.samples)
    assert (row["file"], row["reason"], row["limit"]) == ("one", "shorter_than_a_loop", "8.0")
    assert card["grid"]["bars"] == 2


@pytest.mark.parametrize("per_loop", [4, 8])
def test_loops_of_several_bars_take_them_in_turn_and_say_what_is_left(tmp_path, per_loop):
    long = np.concatenate([bar(i) for i in range(2 * per_loop + 3)])
    source = GivenSource({f"{i}": np.roll(long, i * 1000) for i in range(20)})
    prepare(source, tmp_path / "loops", grid=replace(GRID, bars=per_loop))
    _, index, loops, rejected = read_dataset(tmp_path / "loops")
    assert loops.shape == (40, per_loop * GRID.samples)
    assert index["bar_in_source"].tolist() == 20 * [0, per_loop]
    assert [(row["reason"], row["bar"]) for row in rejected] == 20 * [
        ("incomplete", str(2 * per_loop))
    ]
    assert {row["value"] for row in rejected} == {"12.0"}


def test_splits_are_by_group_and_adding_files_moves_nobody(tmp_path):
    groups = {f"loop/{i:03d}": f"author {i // 4}" for i in range(80)}
    prepare(GivenSource(bars(40), groups=groups), tmp_path / "few")
    prepare(GivenSource(bars(80), groups=groups), tmp_path / "many", seed=9)
    few, many = (read_dataset(tmp_path / name)[1].set_index("loop_id") for name in ("few", "many"))
    assert len(many[["group", "split"]].drop_duplicates()) == 20
    assert few["split"].equals(many.loc[few.index, "split"])


def test_splits_have_the_sizes_asked_for():
    splits = [split_of(f"file {i}", 0.8, 0.1) for i in range(10_000)]
    assert splits.count("train") == pytest.approx(8000, abs=150)
    assert splits.count("validation") == pytest.approx(1000, abs=120)
    assert {split_of("x", 1.0, 0.0), split_of("x", 0.0, 1.0), split_of("x", 0.0, 0.0)} == {
        *("train", "validation", "test")
    }
    # Stable between versions: a change here would move the loops of everybody.
    assert place_of("author") == pytest.approx(0.38825, abs=1e-4)


def folder_of(path, n):
    """A folder with so many WAVs of two bars, one of them broken."""
    path.mkdir()
    for i in range(n):
        soundfile.write(path / f"{i:03d}.wav", np.tile(bar(i), 2), GRID.sample_rate_hz)
    (path / "005.wav").write_text("no audio")
    return FolderSource(path)


def test_the_bytes_do_not_depend_on_workers_nor_on_where_they_go(tmp_path):
    source = folder_of(tmp_path / "in", 2 * CHUNK_ITEMS + 3)
    for workers in (0, 2):
        prepare(source, tmp_path / str(workers), workers=workers)
    here = contents(tmp_path / "0")
    assert len(here) == 5
    assert contents(tmp_path / "2") == here
    assert not (tmp_path / "checkpoints").exists()

    memory = UPath("memory://prepared")
    for file in sorted((tmp_path / "in").iterdir()):
        (memory / "in" / file.name).write_bytes(file.read_bytes())
    for _ in range(2):  # the second replaces the first
        source, checkpoints = FolderSource("memory://prepared/in"), "memory://prepared/checkpoints"
        prepare(source, "memory://prepared/out/loops", checkpoints=checkpoints)
    assert {p.name: p.read_bytes() for p in (memory / "out" / "loops").iterdir()} == here
    assert [p.name for p in (memory / "out").iterdir()] == ["loops"]


@dataclass
class Deadly(GivenSource):
    """Kills the process that reads some of its items, the first time or each time."""

    once: tuple[str, ...] = ()
    always: tuple[str, ...] = ()
    traces: str = ""

    def read(self, item):
        trace = Path(self.traces, item.name.replace("/", "-"))
        first = not trace.exists()
        with trace.open("a") as stream:
            stream.write("x")
        if item.name in self.always or (item.name in self.once and first):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(item)


@pytest.mark.ci
def test_a_worker_that_dies_costs_nothing_and_what_kills_each_is_a_row(tmp_path, monkeypatch):
    prepare(GivenSource(bars(40)), tmp_path / "calm")
    (tmp_path / "traces").mkdir()
    names = {"once": ("loop/003", "loop/020"), "traces": str(tmp_path / "traces")}
    local = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        dask.config.set(DASK),
        LocalCluster(**local, silence_logs=logging.CRITICAL) as cluster,
    ):
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        prepare(Deadly(bars(40), **names), tmp_path / "loops", workers=None)
        assert contents(tmp_path / "loops") == contents(tmp_path / "calm")
        deadly = Deadly(bars(40), always=("loop/007",), **names)
        prepare(deadly, tmp_path / "loops", workers=None)
    _, index, _, (row,) = read_dataset(tmp_path / "loops")
    assert index["name"].tolist() == [name for name in bars(40) if name != "loop/007"]
    assert (row["file"], row["reason"]) == ("loop/007", "failed")
    assert "died" in row["detail"]


def test_an_interrupted_run_resumes_where_it_was(tmp_path):
    n = 3 * CHUNK_ITEMS
    prepare(GivenSource(bars(n)), tmp_path / "calm")
    (tmp_path / "traces").mkdir()
    program = (
        "import sys, pathlib\n"
        "from tests.helpers.sources import *; from tests.test_preparation import Deadly\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        f"source = Deadly(bars({n}), once=('loop/040',), traces=str(folder / 'traces'))\n"
        "prepare(source, folder / 'loops')\n"
    )
    for ended in (-signal.SIGKILL, 0):
        ran = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=False)
        assert ran.returncode == ended
    assert contents(tmp_path / "loops") == contents(tmp_path / "calm")
    reads = {p.name: len(p.read_text()) for p in (tmp_path / "traces").iterdir()}
    # The third chunk was begun again up to where it died; the others were not.
    assert {name for name, n in reads.items() if n == 2} == {
        f"loop-{i:03d}" for i in range(2 * CHUNK_ITEMS, 41)
    }
    assert set(reads.values()) == {1, 2}


def test_what_was_done_of_another_version_of_a_file_is_done_again(tmp_path):
    source = folder_of(tmp_path / "in", 20)
    with pytest.raises(ValueError, match="would be empty"):
        prepare(source, tmp_path / "loops", train_fraction=1.0, validation_fraction=0.0)
    files = sorted((tmp_path / "checkpoints").rglob("*.npz"))
    assert len(files) == 2  # they stay: with other fractions nothing has to be read again
    soundfile.write(tmp_path / "in" / "019.wav", np.tile(bar(99), 3), GRID.sample_rate_hz)
    card = prepare(source, tmp_path / "loops")
    assert card["loops"] == 2 * 18 + 3


def test_parts_depend_on_the_code_that_makes_them_and_on_no_more():
    """So a change of how they are assembled leaves those of an interrupted run."""
    files = {file.relative_to(ROOT / "techloop").as_posix() for file in closure([parts.__name__])}
    assert files >= {
        *("data/parts.py", "data/loops.py", "data/rows.py", "data/deduplicate.py", "grid.py"),
        *(f"data/tempo/{name}.py" for name in ("stated", "envelope", "estimate", "drift", "meter")),
        *("data/tempo/trackers.py", "preparation_config.py", "audio/level.py", "audio/seam.py"),
    }
    assert not files & {f"data/{name}.py" for name in ("build", "workers", "assemble", "splits")}


def test_workers_do_without_pandas():
    """Each imports the script that started it, and pandas would take each a second."""
    script = "import sys, stages.prepare_loops; print('pandas' in sys.modules)"
    run = {"cwd": ROOT, "check": True, "capture_output": True, "text": True}
    assert subprocess.run([sys.executable, "-c", script], **run).stdout == "False\n"


def test_near_duplicates_are_reported_and_none_straddles_splits(tmp_path):
    audio, rng = bars(30), np.random.default_rng(0)
    for i in range(0, 30, 3):  # louder, with some noise, under another name and so another hash
        noise = 1e-3 * rng.standard_normal(GRID.samples).astype(np.float32)
        audio[f"copy/{i:03d}"] = 1.7 * audio[f"loop/{i:03d}"] + noise
    prepare(GivenSource(audio), tmp_path / "loops", max_similarity=0.99)
    card, index, loops, rejected = read_dataset(tmp_path / "loops")
    assert (card["loops"], card["rejected"]) == (30, {"near_duplicate": 10})
    spectrograms = np.stack(
        [fingerprint_spectrogram(x / np.float32(32_768), GRID.sample_rate_hz) for x in loops]
    ).astype(np.float32)
    assert (spectrograms @ spectrograms.T - np.eye(30)).max() < 0.99
    rank = {name: SPLITS.index(split_of(name, 0.6, 0.2)) for name in audio}
    splits = set()
    for row in rejected:
        number = row["file"][-3:]
        stays = next(name for name in index["name"] if name.endswith(number))
        assert row["detail"] == f"of {stays} bar 0"
        assert {row["file"], stays} == {f"loop/{number}", f"copy/{number}"}
        assert rank[stays] <= rank[row["file"]]  # the one nearer to training stays
        splits.add(rank[row["file"]] - rank[stays])
        assert 0.99 < float(row["value"]) <= 1
    assert len(splits) > 1  # there were pairs that would have straddled


def test_adding_a_copy_never_moves_training_material_out_of_training(tmp_path):
    audio = bars(30)
    copies = {f"a copy/{i:03d}": audio[f"loop/{i:03d}"] for i in range(30)}
    prepare(GivenSource(audio), tmp_path / "few", max_similarity=0.99)
    prepare(GivenSource(audio | copies), tmp_path / "many", max_similarity=0.99)
    few, many = (read_dataset(tmp_path / name)[1] for name in ("few", "many"))
    assert len(few) == len(many) == 30
    before, after = (dict(zip(d["name"].str[-3:], d["split"], strict=True)) for d in (few, many))
    assert all(
        SPLITS.index(after[number]) <= SPLITS.index(split) for number, split in before.items()
    )
    assert after != before  # some went from testing to training: their copies belong there


def test_the_artist_in_the_tags_makes_the_group(tmp_path):
    tagged = recording(np.concatenate([bar(50), bar(51)]), author="Ünknown")
    source = GivenSource(
        bars(20) | {"a": tagged, "b": recording(bar(52), author="Ünknown")}, author=""
    )
    source.overrides |= {"a": {"group": ""}, "b": {"group": ""}, "loop/003": {"group": ""}}
    prepare(source, tmp_path / "loops")
    _, index, _, _ = read_dataset(tmp_path / "loops")
    index = index.drop_duplicates("name").set_index("name")
    assert index.loc[["a", "b"], "group"].tolist() == ["Ünknown", "Ünknown"]
    assert index.loc[["a", "b"], "author"].tolist() == ["Ünknown", "Ünknown"]
    assert index.loc["loop/003", "group"] == "loop/003"


def test_an_empty_split_is_refused_with_fractions_that_fill_it(tmp_path):
    fractions = {"train_fraction": 0.98, "validation_fraction": 0.01}
    with pytest.raises(ValueError, match=r"test would be empty.*train_fraction: ") as error:
        prepare(GivenSource(bars(8)), tmp_path / "loops", **fractions)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]
    train, validation = (
        float(str(error.value).split(f"`{name}: ")[1].split("`")[0])
        for name in ("train_fraction", "validation_fraction")
    )
    fractions = {"train_fraction": train, "validation_fraction": validation}
    card = prepare(GivenSource(bars(8)), tmp_path / "loops", **fractions)
    assert min(card["splits"].values()) > 0


def test_two_files_cannot_fill_three_splits(tmp_path):
    with pytest.raises(ValueError, match="three groups are the least"):
        prepare(GivenSource(bars(2)), tmp_path / "loops")


def test_nothing_accepted_is_an_error_and_leaves_what_was_there(tmp_path):
    prepare(GivenSource(bars(20)), tmp_path / "loops")
    before = (tmp_path / "loops" / "card.json").read_bytes()
    source = GivenSource({"a": Unreadable("no decoder"), "b": np.zeros(100, np.float32)})
    with pytest.raises(ValueError, match=r"none of 2 items.*unreadable: 1, silent: 1.*no decoder"):
        prepare(source, tmp_path / "loops")
    assert (tmp_path / "loops" / "card.json").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"loops", "checkpoints"}


def test_a_number_of_workers_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TECHLOOP_WORKERS", "many")
    with pytest.raises(ValueError, match="TECHLOOP_WORKERS is 'many'"):
        prepare(GivenSource(bars(3)), tmp_path / "x", workers=None)


def test_a_range_that_is_none_is_refused():
    with pytest.raises(ValueError, match="min_bpm 180 and max_bpm 90"):
        replace(CONFIG, min_bpm=180.0, max_bpm=90.0)


def test_a_folder_of_files_becomes_a_dataset(tmp_path):
    rate = 8000
    for i in range(12):
        bpm = 100 + 6 * i
        x = np.concatenate([bar(i, round(240 / bpm * rate))] * 4)
        path = tmp_path / "in" / f"pack {i % 3}" / f"{i}.{('wav', 'flac', 'ogg')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack([x, x], axis=1), rate)
    (tmp_path / "in" / "no.mp3").write_text("no audio")
    prepare(FolderSource(tmp_path / "in"), tmp_path / "loops")
    card, index, _, (row,) = read_dataset(tmp_path / "loops")
    assert (card["loops"], row["file"], row["reason"]) == (48, "no.mp3", "unreadable")
    for name, loops in index.groupby("name"):
        number = int(name.split("/")[1].split(".")[0])
        assert loops["bpm"].iloc[0] == pytest.approx(100 + 6 * number, abs=0.1)
        assert loops["stretch_ratio"].iloc[0] == pytest.approx((100 + 6 * number) / 125, abs=1e-3)
        assert loops["bar_in_source"].tolist() == [0, 1, 2, 3]
