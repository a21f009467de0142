"""Results of preparation: tempi, seams, near-duplicates (see prepare.py)."""

import io
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import numpy as np
import soundfile
from tqdm import tqdm

from techloop.audio import resample
from techloop.audio.io import read_audio
from techloop.audio.recording import Recording, Rejected
from techloop.audio.wav import INT16_SCALE
from techloop.data import loops
from techloop.data.deduplicate import fingerprint_spectrogram, near_duplicates
from techloop.data.source import Item
from techloop.data.sources import folder
from techloop.data.tempo.beats import Tempo
from techloop.data.tempo.candidates import TRACK_S
from techloop.data.tempo.estimate import find_tempo
from techloop.data.tempo.stated import stated_tempi
from techloop.grid import Grid
from techloop.preparation_config import PreparationConfig, StretchMethod

NEAR_S = 0.03  # a larger error of a bar line is audible
BARS, EXCERPT_S = (1, 2, 4, 8, 16), (5.3, 11.7, 26.3, 43.9)
SIMILARITIES = (0.98, 0.99, 0.995)


@dataclass
class Given:
    """Input of each part: recordings, the true tempo and beats of some, settings, a folder."""

    paths: list[Path]
    truth: dict[str, tuple[float, float]]
    config: PreparationConfig
    tmp: Path
    files: list[int]
    quick: bool


def accuracy(given: Given) -> None:
    """Estimated and true tempo: with the file's name and without, of whole files and excerpts."""
    annotated = [
        (path, *given.truth[path.stem]) for path in given.paths if path.stem in given.truth
    ]
    if not annotated:
        print("No true tempo is given: --truth names none of the files.")
        return
    rows, wrong = [], []
    for path, bpm, _ in tqdm(annotated, desc="tempi", leave=False):
        x, rate, tags = _read(path)
        row: list[Any] = [path.stem, f"{bpm:g}"]
        stated = stated_tempi(Item(path.name), tags, len(x) / rate)
        for how, hints in (("with name", stated), ("without", [])):
            try:
                estimate = find_tempo(x, rate, stated=hints)
            except Rejected as rejected:
                row += [rejected.rejection.reason, "", ""]
                wrong.append(f"{path.stem} ({how}): {rejected.rejection.reason}")
                continue
            row += [
                f"{estimate.bpm:.3f}",
                f"{estimate.bpm - bpm:+.3f}",
                f"{estimate.confidence:.2f}",
            ]
            if abs(estimate.bpm - bpm) > 0.1:
                wrong.append(f"{path.stem} ({how}): {estimate.bpm:.3f}, true {bpm:g}")
            elif estimate.confidence < given.config.min_confidence:
                wrong.append(f"{path.stem} ({how}): right, but its confidence is too low")
        rows.append(row)
    show(
        ("file", "BPM", "with name", "error", "confidence", "without", "error", "confidence"), rows
    )
    print(
        "Wrong by more than 0.1 BPM, or of low confidence: " + ("; ".join(wrong) or "none") + ".\n"
    )
    _excerpts(annotated, given.config, 1 if given.quick else 4)


def _excerpts(
    annotated: Sequence[tuple[Path, float, float]], config: PreparationConfig, times: int
) -> None:
    """Tempi of excerpts at random speeds, where only sound and length are given."""
    rng = np.random.default_rng(0)
    results: dict[str, list[tuple[bool, bool, float]]] = defaultdict(list)
    refused: Counter[str] = Counter()
    kinds = [("bars", n) for n in BARS] + [("s anywhere", s) for s in EXCERPT_S]
    for path, bpm, beats in tqdm(annotated, desc="excerpts", leave=False):
        x, rate, _ = _read(path)
        bar = 4 * len(x) / beats
        low, high = (math.log2(limit / bpm) for limit in (config.min_bpm, config.max_bpm))
        for kind, n in kinds:
            size = n * (bar if kind == "bars" else rate)
            for _ in range(times if len(x) > size + bar else int(len(x) > size - 1)):
                hz = round(rate * 2 ** rng.uniform(max(low, -0.25), min(high, 0.25)))
                start = rng.uniform(0, max(len(x) - size, 0))
                start = start // bar * bar if kind == "bars" else start
                try:
                    estimate = find_tempo(x[round(start) : round(start + size)], hz)
                except Rejected:
                    refused[f"{n} {kind}"] += 1
                    continue
                true, bar_s = bpm * hz / rate, bar / hz
                near = max(0.1, true * NEAR_S * hz / size)
                late = (estimate.downbeat_s + start / hz + bar_s / 2) % bar_s - bar_s / 2
                result = abs(estimate.bpm - true) <= near, abs(late) < NEAR_S, estimate.confidence
                results[f"{n} {kind}"].append(result)
    if not results:
        print("No tempo was found in any excerpt.")
        return
    rows: list[Any] = []
    for name in (f"{n} {kind}" for kind, n in kinds):
        if some := results.get(name):
            right, down, sure = np.array(some, float).T
            both = f"{down[right > 0].mean():.2f}" if right.any() else "-"
            means = f"{right.mean():.2f}", both, f"{sure.mean():.2f}"
            rows.append((name, len(right) + refused[name], refused[name], *means))
    print(f"Excerpts at a random speed. Right: to 0.1 BPM, or the last bar line to {NEAR_S} s.\n")
    head = ("cut to", "excerpts", "refused", "tempo right", "downbeat, of these", "mean confidence")
    show(head, rows)
    right, down, sure = np.array([v for some in results.values() for v in some], float).T
    rows = []
    for limit in (0, 0.1, 0.2, 0.3, 0.4, 0.5):
        accepted = sure >= limit
        shares = (accepted, right[accepted], down[accepted])
        rows.append((limit, *(f"{v.mean():.3f}" for v in shares)))
    show(("least confidence", "share of all", "tempo right", "downbeat right"), rows)


def seam(given: Given) -> None:
    """The seam of bars cut from long recordings, closed and left open."""
    import torch

    from techloop.audio.descriptors import onset_strength
    from techloop.evaluation.metrics.rhythm import seam_ratio

    measured: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    worst = (0.0, "none")

    def measure(name: str, cuts: Sequence[np.ndarray], grid: Grid) -> np.ndarray:
        batch = np.stack(cuts).astype(np.float32)
        flux = onset_strength(torch.from_numpy(batch), grid.sample_rate_hz, grid.hop).numpy()
        steps = np.abs(np.diff(batch, axis=1, append=batch[:, :1]))
        usual = np.quantile(steps[:, :-1], 0.99, axis=1)
        measured[name].append((seam_ratio(flux, grid), steps[:, -1] / np.maximum(usual, 1e-9)))
        return measured[name][-1][0]

    def left_open(x: np.ndarray, start: int, end: int, fade: int, *, circular: bool) -> np.ndarray:
        return x[start:end].copy()

    long = [path for path in given.paths if seconds(path) > TRACK_S]
    for path in tqdm(long[:3] if given.quick else long, desc="seams", leave=False):
        x, rate, _ = _read(path)
        try:
            at = find_tempo(x, rate)
        except Rejected:
            continue
        one, two = Grid(), Grid(bars=2)
        for stretch in get_args(StretchMethod):
            cuts = _cut(x, rate, at, one, stretch)
            closed = measure(f"{stretch}, closed", cuts, one)
            with (
                mock.patch.object(loops, "close_seam", left_open),
                mock.patch.object(resample, "close_seam", left_open),
            ):
                cuts = _cut(x, rate, at, one, stretch)
            change = closed / np.maximum(measure(f"{stretch}, open", cuts, one), 0.1)
            bar = int(np.nanargmax(np.where(np.isfinite(change), change, 0)))
            worst = max(worst, (float(change[bar]), f"{path.stem} bar {bar} ({stretch})"))
        cuts = _cut(x, rate, at, two, given.config.stretch)
        turned = [np.roll(cut, -len(cut) // 2) for cut in cuts]
        measure("inner bar line of two", turned, two)
    rows = []
    for name, pairs in measured.items():
        ratio, click = (np.concatenate(values) for values in zip(*pairs, strict=True))
        ratio = ratio[np.isfinite(ratio)]
        quantiles = [f"{np.quantile(v, q):.2f}" for v in (ratio, click) for q in (0.5, 0.9)]
        rows.append((name, len(click), *quantiles, f"{(click > 1).mean():.1%}"))
    show(("cut and stretched", "bars", "seam ratio", "90 %", "click", "90 %", "click > 1"), rows)
    print("Seam ratio: flux at the wrap over that at the other beats (median, quantile of bars).")
    print("Click: the step from last sample to first over the 99th percentile of steps inside.")
    print(f"Closing made the ratio worst in {worst[1]}: {worst[0]:.1f} times.")


def duplicates(given: Given) -> None:
    """Similarity of different bars, and of a bar to its changed copies; time of the search."""
    rng, rate = np.random.default_rng(0), Grid().sample_rate_hz
    names, bars = zip(*cut_bars(given.paths, given.config), strict=True)
    names = np.array(names)
    prints = np.stack([fingerprint_spectrogram(bar, rate) for bar in bars])
    alike = prints.astype(np.float32) @ prints.astype(np.float32).T
    np.fill_diagonal(alike, -1)
    same = names[:, None] == names
    similarities = {"nearest of another file": list(np.where(same, -1, alike).max(axis=1))}
    similarities["nearest of the same file"] = list(np.where(same, alike, -1).max(axis=1))
    for i in tqdm(rng.permutation(len(bars))[:100], desc="copies", leave=False):
        for name, changed in _guises(bars[i], rate, rng):
            product = prints[i].astype(np.float32) @ fingerprint_spectrogram(changed, rate).astype(
                np.float32
            )
            similarities.setdefault(name, []).append(product)
    rows = []
    for name, products in similarities.items():
        values = np.array([product for product in products if product > -1] or [math.nan])
        quantiles = [f"{q:.4f}" for q in np.quantile(values, [0, 0.05, 0.5, 0.95])]
        above = [f"{(values > limit).mean():.0%}" for limit in SIMILARITIES]
        rows.append((name, len(values), *quantiles, *above))
    above = [f">{limit}" for limit in SIMILARITIES]
    show(("similarity to", "bars", "least", "5 %", "median", "95 %", *above), rows)

    rows = []
    for limit in SIMILARITIES:
        stands_for, _ = near_duplicates(prints, np.arange(len(prints)), limit)
        gone = stands_for != np.arange(len(prints))
        other = gone & (names != names[stands_for])
        rows.append((limit, len(prints), gone.sum(), other.sum()))
    show(("limit", "bars", "rejected", "of these near-duplicates of another file"), rows)

    rows = []
    for n in (1000, 10_000) if given.quick else (10_000, 100_000):
        one, other = prints[rng.integers(len(prints), size=(2, n))].astype(np.float32)
        mixed = one + rng.random((n, 1), np.float32) * other
        mixed += 0.005 * np.abs(mixed).max() * rng.standard_normal(mixed.shape, np.float32)
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        start = time.perf_counter()
        stands_for, _ = near_duplicates(mixed.astype(np.float16), np.arange(n), 0.99)
        took = time.perf_counter() - start
        rows.append((n, (stands_for == np.arange(n)).sum(), f"{took:.2f}"))
    show(("mixed prints", "kept at 0.99", "s"), rows)


def _guises(
    bar: np.ndarray, rate: int, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Changed copies of a bar, as other files may hold them."""
    noise = 1e-3 * rng.standard_normal(len(bar), np.float32)
    yield "itself, -10 dB, noise -60 dB", 0.3 * (bar + noise)
    for kind, subtype in (("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")):
        soundfile.write(stream := io.BytesIO(), np.tile(bar, 3), rate, subtype, format=kind)
        stream.seek(0)
        yield (
            f"itself as {kind}",
            soundfile.read(stream, dtype="float32")[0][len(bar) :][: len(bar)],
        )
    for ms in (2, 5, 10):
        yield f"itself {ms} ms later", np.roll(bar, ms * rate // 1000)


def _cut(
    x: np.ndarray, rate: int, tempo: Tempo, grid: Grid, method: StretchMethod
) -> list[np.ndarray]:
    """Every whole loop of a recording, on the grid."""
    recording = Recording(x, rate)
    spans, _ = loops.cut(recording, tempo, grid)
    return [audio for _, audio in loops.stretch(recording, tempo, spans, grid, method)]


def cut_bars(paths: Sequence[Path], config: PreparationConfig) -> list[tuple[str, np.ndarray]]:
    """All loops of some files, each with the name of its file, at any confidence of the tempo."""
    bars = []
    for path in tqdm(paths, desc="bars", leave=False):
        source, item = folder.FolderSource(path.parent), Item(path.name)
        cut, _, _ = loops.prepare_item(source, item, Grid(), replace(config, min_confidence=0.0))
        bars += [(path.stem, bar.astype(np.float32) / INT16_SCALE) for bar in cut]
    return bars


def show(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    import pandas as pd

    print(pd.DataFrame(rows, columns=list(head)).to_string(index=False), end="\n\n", flush=True)


def seconds(path: Path) -> float:
    """Seconds of audio in a file; 0 where it cannot be read as audio."""
    try:
        return float(soundfile.info(path).duration) if path.is_file() else 0.0
    except soundfile.SoundFileError:
        return 0.0


def _read(path: Path) -> tuple[np.ndarray, int, Any]:
    recording = read_audio(path)
    return recording.samples, recording.rate_hz, recording.tags
