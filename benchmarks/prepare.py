"""Measures preparation: speed, memory, tempi, seams, near-duplicates. Leaves no files.

    python benchmarks/prepare.py FOLDER --truth benchmarks/tempi.csv

FOLDER holds any audio; without it the synthesiser renders some. The truth is a table with the
columns file (name without suffix), bpm and beats.
"""

import argparse
import contextlib
import math
import multiprocessing
import os
import pkgutil
import platform
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one core per process

# Without pandas and torch: workers import this file, and their memory is measured.
import numpy as np
import psutil
import soundfile
import soxr
from quality import Given, accuracy, cut_bars, duplicates, seam, seconds, show
from tqdm import tqdm

from techloop.artifacts import read_json
from techloop.data.build import prepare_loops
from techloop.data.sources import folder
from techloop.data.sources.synth.factors import draw_factors
from techloop.data.sources.synth.source import render
from techloop.grid import Grid
from techloop.params import load_params
from techloop.preparation_config import PreparationConfig

ROOT = Path(__file__).parent.parent
TARGET = 250  # seconds of 44.1 kHz stereo per second on one core
PHASES = (  # time in a function counts for its phase, but not the time in another phase inside it
    ("read", "sources.folder.read_audio"),
    ("tempo: envelope", "tempo.estimate.onset_envelope"),
    ("tempo: candidates", "tempo.estimate.score_candidates"),
    ("tempo: drift", "tempo.estimate.track_drift"),
    ("tempo: downbeat", "tempo.estimate.first_bar"),
    ("tempo: meter", "tempo.estimate.refuse_other_meter"),
    ("tempo: tracker, rest", "loops.find_tempo"),
    ("cut, stretch", "loops.cut"),
    ("cut, stretch", "loops.close_seam"),
    ("cut, stretch", "loops.resample_circle"),
    ("cut, stretch", "loops.stretch_circle"),
    ("clean, loudness", "loops.clean"),
    ("clean, loudness", "loops.normalise"),
    ("fingerprint", "parts.fingerprint_spectrogram"),
    ("near-duplicates", "assemble.near_duplicates"),
    ("write", "parts.write_part"),
    ("write", "assemble.assemble"),
)


def main() -> None:
    """Run the chosen parts."""
    parts = {f.__name__: f for f in (throughput, workers, memory, accuracy, seam, duplicates)}
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="audio; default: the synthesiser's")
    parser.add_argument("--truth", type=Path, help="table of known tempi: file, bpm, beats")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--files", nargs=2, type=int, default=[500, 10_000], help="for memory")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    options = parser.parse_args()

    cpuinfo = Path("/proc/cpuinfo")
    cpu = cpuinfo.exists() and re.search(r"model name\s*: (.*)", cpuinfo.read_text())
    print(f"{os.cpu_count()} cores ({cpu[1] if cpu else platform.machine()})")
    tools = ("numpy", "scipy", "soundfile", "soxr", "librosa", "python-stretch", "distributed")
    print(f"Python {platform.python_version()}, {platform.system()} {platform.release()}")
    print(", ".join(f"{tool} {version(tool)}" for tool in tools))
    with tempfile.TemporaryDirectory(prefix="techloop-benchmark-") as scratch:
        truth = _truth(options.truth) if options.truth else {}
        if options.folder is None:
            options.folder = Path(scratch) / "synth"
            truth = _play(options.folder, 4 if options.quick else 16)
        paths = [path for path in sorted(options.folder.rglob("*")) if seconds(path)]
        if not paths:
            parser.error(f"{options.folder} holds no audio that can be read")
        config = load_params(ROOT / "params.yaml").prepare_loops.recipe
        for part in options.parts:
            print(f"\n== {part} (load {os.getloadavg()[0]:.1f})\n", flush=True)
            with tempfile.TemporaryDirectory(dir=scratch) as tmp:
                parts[part](Given(paths, truth, config, Path(tmp), options.files, options.quick))


def throughput(given: Given) -> None:
    """Seconds of source per second on one core, and the time of each phase."""
    wav = given.tmp / "wav"
    total = _as_wav(given.paths, wav)
    first = _prepare(wav, given.config, given.tmp)
    took, spent = _profiled(wav, given.config, given)
    print(f"{total:.0f} s of 44.1 kHz stereo WAV, {len(given.paths)} files, one thread: ", end="")
    print(f"{total / took:.0f} s per second (target {TARGET}).")
    print(f"The first run took {first - took:.1f} s more: imports, compilation.\n")
    spent["rest"] = took - sum(spent.values())
    spent["(tempo in all)"] = sum(s for phase, s in spent.items() if phase.startswith("tempo"))
    show(
        ("phase", "s", "share", "s of source per second"),
        [(p, f"{s:.2f}", f"{s / took:.1%}", f"{total / s:.0f}") for p, s in spent.most_common()],
    )

    runs = [("wav, preserve_pitch", wav, total, replace(given.config, stretch="preserve_pitch"))]
    for suffix in sorted({path.suffix for path in given.paths}):
        some = [path for path in given.paths if path.suffix == suffix]
        (into := given.tmp / f"as-is{suffix}").mkdir()
        for path in some:
            (into / path.name).symlink_to(path.resolve())
        runs.append((f"{suffix} as it is", into, sum(map(seconds, some)), given.config))
    rows = []
    for name, source, length, config in runs:
        took, spent = _profiled(source, config, given)
        shares = [f"{spent[phase] / took:.0%}" for phase in ("read", "cut, stretch")]
        rows.append((name, f"{length:.0f}", f"{length / took:.0f}", *shares))
    show(("source", "s of source", "per second", "share of reading", "of cut, stretch"), rows)


def workers(given: Given) -> None:
    """Time of one process and of two, with few files and many, to separate the start-up."""
    copies = (1, 4 if given.quick else 9)
    folders = [given.tmp / f"times-{n}" for n in copies]
    short, long = (_as_wav(given.paths, *into) for into in zip(folders, copies, strict=True))
    best: dict[tuple[int, Path], tuple[float, float]]
    best = {(n, into): (math.inf, math.inf) for n in (1, 2) for into in folders}
    for _ in tqdm(range(1 if given.quick else 3), desc="workers", leave=False):
        for n, into in best:
            before = sum(os.times()[:4])
            took = _prepare(into, given.config, given.tmp, workers=n)
            best[n, into] = min(best[n, into], (took, sum(os.times()[:4]) - before))
    rows: list[Any] = []
    rates: list[float] = []
    for n in (1, 2):
        (few_s, _), (many_s, cpu_s) = (best[n, into] for into in folders)
        rates.append((long - short) / (many_s - few_s))
        start_s = few_s - short / rates[-1]
        rows.append((n, *(f"{v:.1f}" for v in (many_s, cpu_s, start_s)), f"{rates[-1]:.0f}"))
    show(("workers", f"s for {long:.0f} s", "CPU s", "start-up s", "then s per second"), rows)
    ratio = float(rows[0][1]) / float(rows[1][1])
    print(f"Two are {ratio:.2f} times as fast as one; {rates[1] / rates[0]:.2f} after start-up.")


def memory(given: Given) -> None:
    """Peak memory of all processes together, for two numbers of files."""
    bars = [bar for _, bar in cut_bars(given.paths[:40], given.config)]
    rows, totals = [], []
    for n in (count // 10 if given.quick else count for count in given.files):
        _write_short(bars, n, source := given.tmp / f"short-{n}")
        arguments = (source, given.config, given.tmp, 2)
        process = multiprocessing.get_context("spawn").Process(target=_prepare, args=arguments)
        start, peaks = time.perf_counter(), np.zeros(3)
        process.start()
        while process.is_alive():
            process.join(0.1)
            peaks = np.maximum(peaks, _tree_mb(process.pid))
        took = time.perf_counter() - start
        if process.exitcode:
            raise RuntimeError("preparation failed, see above")
        n_loops = read_json(given.tmp / "dataset" / "card.json")["loops"]
        totals.append(peaks[0])
        rows.append((n, n_loops, *(f"{v:.0f}" for v in (*peaks, took)), f"{1e3 * took / n:.1f}"))
    show(("files", "loops", "peak MB", "main process", "two workers", "s", "ms per file"), rows)
    print(f"The second needs {totals[1] / totals[0] - 1:+.0%} of memory, compared with the first.")
    print("MB: proportional set size where the system has it, sampled every 0.1 s.")


def _prepare(source: Path, config: PreparationConfig, tmp: Path, workers: int = 0) -> float:
    """Seconds that it takes to prepare a folder."""
    settings: dict[str, Any] = load_params(ROOT / "params.yaml").prepare_loops.model_dump()
    names = ("train_fraction", "validation_fraction", "max_similarity", "shard_mb")
    start = time.perf_counter()
    # Empty splits, which few files may give, are allowed here.
    with mock.patch("techloop.data.assemble.refuse_empty_splits"):
        prepare_loops(
            folder.FolderSource(source, "file"),
            tmp / "dataset",
            Grid(),
            config,
            **{name: settings[name] for name in names},
            seed=0,
            checkpoints=tmp / "checkpoints",
            workers=workers,
        )
    return time.perf_counter() - start


def _profiled(source: Path, config: PreparationConfig, given: Given) -> tuple[float, Counter[str]]:
    """Seconds of the fastest of some runs, and the seconds of each phase."""
    runs = []
    for _ in tqdm(range(1 if given.quick else 5), desc=source.name, leave=False):
        with _watched() as spent:
            took = _prepare(source, config, given.tmp)
        runs.append((took, spent))
    return min(runs, key=lambda run: run[0])


@contextlib.contextmanager
def _watched() -> Iterator[Counter[str]]:
    """Seconds per phase of everything that runs inside: the functions of `PHASES` are wrapped."""
    spent: Counter[str] = Counter()
    inner = [0.0]

    def timed(phase: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - start
                spent[phase] += took - inner.pop()
                inner[-1] += took

        return call

    with contextlib.ExitStack() as stack:
        for phase, name in PHASES:
            target = f"techloop.data.{name}"
            timed_one = timed(phase, pkgutil.resolve_name(target))
            stack.enter_context(mock.patch(target, timed_one))
        yield spent


def _as_wav(paths: Sequence[Path], into: Path, copies: int = 1) -> float:
    """Convert to 44.1 kHz, 16 bits, stereo; returns the seconds of audio."""
    into.mkdir()
    total = 0
    for path in tqdm(paths, desc="to WAV", leave=False):
        x, rate = soundfile.read(path, dtype="float32", always_2d=True)
        x = soxr.resample(x[:, [0, -1]], rate, 44_100)
        total += copies * len(x)
        soundfile.write(into / f"{path.stem}.wav", x, 44_100, "PCM_16")
        for copy in range(1, copies):  # a file of its own that shares the bytes on disk
            os.link(into / f"{path.stem}.wav", into / f"{path.stem} {copy:02d}.wav")
    return total / 44_100


def _write_short(bars: Sequence[np.ndarray], n: int, into: Path) -> None:
    """Files of one bar and 2 s, all different: two bars mixed, with a random level per step."""
    rng = np.random.default_rng(0)
    into.mkdir()
    for i in tqdm(range(n), desc="short files", leave=False):
        mixed = np.zeros(32_000, np.float32)
        for bar in rng.integers(len(bars), size=2):
            levels = rng.random(16, np.float32).repeat(2000)
            mixed += levels * np.roll(np.resize(bars[bar], 32_000), 4000 * rng.integers(8))
        soundfile.write(into / f"{i:05d} 120bpm.wav", mixed / np.abs(mixed).max() / 2, 16_000)


def _play(into: Path, tracks: int) -> dict[str, tuple[float, float]]:
    """Render tracks of eight phrases of four bars; returns their tempo and beats."""
    into.mkdir()
    grid = Grid()
    for track in range(tracks):
        loops = [render(grid, draw_factors(track, i), track, i) for i in range(8)]
        phrases = np.concatenate([np.tile(loop, 4) for loop in loops])
        soundfile.write(into / f"synth-{track:02d}.flac", phrases, grid.sample_rate_hz)
    return {f"synth-{track:02d}": (grid.bpm, 32.0 * grid.beats) for track in range(tracks)}


def _truth(file: Path) -> dict[str, tuple[float, float]]:
    import pandas as pd

    table = pd.read_csv(file, comment="#")
    return {file: (bpm, beats) for file, bpm, beats in table.itertuples(index=False)}


def _tree_mb(pid: int | None) -> tuple[float, float, float]:
    """Memory in MB of a process and its children together, of itself, and of its children."""
    sizes = [0.0]
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                use = process.memory_full_info()
                sizes.append(getattr(use, "pss", use.rss) / 2**20)
    return sum(sizes), sum(sizes[:2]), sum(sizes[2:])


if __name__ == "__main__":
    main()
