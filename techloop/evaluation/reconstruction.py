"""What VAE 1 keeps of a loop, and what it loses, beside guesses that know less."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool1d
from tqdm import tqdm

from techloop.artifacts import atomic_folder, write_json
from techloop.audio.descriptors import FRAME_DESCRIPTORS, frame_descriptors
from techloop.audio.spectral import chroma_filterbank, circular_stft, log_mel, whole_hop
from techloop.audio.wav import write_loop
from techloop.data.datasets import LoopDataset
from techloop.grid import Grid
from techloop.models.audio_vae import AudioVAE
from techloop.reporting.plots import band_errors, spectrogram_grid
from techloop.training.losses import WINDOWS, linear_distance, log_distance

BRIEF_WINDOW = 2048  # of the spectral distance at one resolution
FINE_WINDOW, FINE_SMOOTH, FINE_BINS = 2048, 31, slice(5, 500)
CHROMA_WINDOW = 4096
AUDIBLE_LUFS = -60.0
MEL_LOW_HZ = 30.0  # of the mel bands of `log_mel`
BATCH = 16


@torch.inference_mode()
def evaluate_reconstruction(
    vae: AudioVAE,
    loops: LoopDataset,
    folder: str | Path,
    *,
    loops_used: int,
    examples: int,
    seed: int,
) -> dict[str, float]:
    """Figures, sounds and numbers of VAE 1's reconstructions (from posterior means) in `folder`.

    The same numbers for three guesses make them readable: `silence_`, `noise_` (noise with the
    average spectrum of the loops), `other_loop_` (another loop of the same split).

    Args:
        vae: the audio VAE.
        loops: what to reconstruct: the test split.
        folder: is replaced; gets metrics.json, items.json, PNG and WAV files.
        loops_used: at most so many loops, drawn by `seed`.
        examples: loops to hear and see, where there are as many, evenly from best to worst.
        seed: of the draws.

    Returns:
        What metrics.json holds: see `summary`, for the reconstruction and for each guess.

    Raises:
        ValueError: fewer than two loops, or loops of another grid than the model's.
    """
    if min(len(loops), loops_used) < 2:
        raise ValueError(
            f"{loops.folder}: to compare loops takes two; the split has {len(loops)}, and "
            f"{loops_used} are asked for"
        )
    if loops.grid != vae.grid:
        raise ValueError(f"the loops are on {loops.grid}, the audio VAE on {vae.grid}")
    grid, rng = loops.grid, np.random.default_rng(seed)
    rows = rng.permutation(len(loops))[:loops_used]
    x = torch.from_numpy(loops.audio(rows))
    noise, silence = spectrum_noise(x, rng), comparison_features(torch.zeros_like(x[:1]), grid)
    audio, mels, errors = [], defaultdict(list), defaultdict(list)
    parts = -(-len(x) // BATCH)  # of nearly equal size, so that each has another loop
    for a, n in tqdm(
        zip(x.tensor_split(parts), noise.tensor_split(parts), strict=True),
        "reconstruct",
        total=parts,
    ):
        audio.append(vae.decode(vae.encode(a)[0]))
        original = comparison_features(a, grid)
        guesses = {
            "": comparison_features(audio[-1], grid),
            "silence_": {name: v.expand(len(a), *v.shape[1:]) for name, v in silence.items()},
            "noise_": comparison_features(n, grid),
            "other_loop_": {name: v.roll(1, 0) for name, v in original.items()},
        }
        mels["original"].append(original["log_mel_l1_db"])
        for prefix, guess in guesses.items():
            errors[prefix].append(compare(original, guess))
            mels[prefix].append(guess["log_mel_l1_db"])
    y = torch.cat(audio)
    metrics: dict[str, float] = {"loops": float(len(x))}
    for prefix, per_batch in errors.items():
        per_loop = {name: torch.cat([e[name] for e in per_batch]) for name in per_batch[0]}
        metrics |= {prefix + name: value for name, value in summary(per_loop).items()}
        if not prefix:
            error = per_loop["log_mel_l1_db"].numpy()

    mel = {prefix: torch.cat(levels) for prefix, levels in mels.items()}
    places = np.linspace(0, len(x) - 1, min(examples, len(x))).round().astype(int)
    chosen = np.argsort(error, kind="stable")[places]
    names = _rank_names(places, len(x))
    titles = [f"{name} ({error[i]:.1f} dB)" for name, i in zip(names, chosen, strict=True)]
    mel_range_hz = (MEL_LOW_HZ, grid.sample_rate_hz / 2)
    with atomic_folder(folder) as new:
        spectrogram_grid(
            new / "spectrograms.png",
            torch.cat([mel["original"][chosen], mel[""][chosen]]).numpy(),
            [*titles, *[""] * len(titles)],
            columns=len(titles),
            span=(grid.beats, "beat"),
            mel_range_hz=mel_range_hz,
            rows=("original", "reconstruction"),
        )
        band_errors(
            new / "bands.png",
            {
                label: (mel[prefix] - mel["original"]).abs().mean((0, 2)).numpy()
                for label, prefix in (
                    ("reconstruction", ""),
                    ("another loop", "other_loop_"),
                    ("noise of the average spectrum", "noise_"),
                )
            },
            mel_range_hz,
        )
        items = _figure_items(len(titles), len(x))
        for name, i in zip(names, chosen, strict=True):
            for kind, loop in (("original", x[i]), ("reconstruction", y[i])):
                file = f"{name.replace(' ', '-')}-{kind}.wav"
                write_loop(new / file, loop.numpy(), grid.sample_rate_hz, grid.bpm, grid.beats)
                items.append(
                    {
                        "kind": "audio",
                        "file": file,
                        "title": f"{name.capitalize()}: {kind}",
                        "caption": f"{loops.index['name'][rows[i]]}, log-mel error "
                        f"{error[i]:.1f} dB.",
                        "loop": True,
                    }
                )
        write_json(new / "items.json", items)
        write_json(new / "metrics.json", metrics)
    return metrics


def reconstruction_metrics(
    x: Float[Tensor, "n samples"], y: Float[Tensor, "m others"], grid: Grid
) -> dict[str, float]:
    """How far loops `y` are from the originals `x`: see `summary`.

    Raises:
        ValueError: `x` and `y` differ in shape, or are no loops (see `frame_descriptors`).
    """
    if x.shape != y.shape:
        raise ValueError(f"loops of shape {tuple(x.shape)} against {tuple(y.shape)}")
    return summary(compare(comparison_features(x, grid), comparison_features(y, grid)))


def summary(per_loop: dict[str, Float[Tensor, " n"]]) -> dict[str, float]:
    """Means over loops of what `compare` gives; 0 is best but where it says 1.

    * `spectral_distance`: mean |log(a + eps) - log(b + eps)| of STFT amplitudes at one window of
      2,048 (the brief's equation 1, as a mean over bins).
    * `multi_log`, `multi_lin`: `losses.log_distance` and `losses.linear_distance`, of each loop,
      means over the five windows of `losses.WINDOWS`.
    * `log_mel_l1_db`: mean absolute difference of mel levels above -80 dB re full scale, in dB.
    * `fine_structure`: are harmonics reproduced (1) or only envelopes (0)? The correlation, over
      all loops, of log spectra (window 2,048, eps 1e-3) after their running mean over 31 bins is
      taken out, over the bins 5 to 499. Nothing to correlate, as with silence: 0.
    * `chroma_similarity`: cosine of the twelve pitch classes' power in both (window 4,096), frame
      by frame, mean weighted by the original's power: 1 where chords and tuning are kept. Another
      loop has some as well, as its bass may be in tune. Silence has none: nan of a silent original,
      0 of a silent guess.
    * `error_<descriptor>`: mean absolute difference of a frame descriptor, in its unit, over the
      frames in which the original has -60 LUFS or more (the centroid of near silence means
      nothing). Loops without such a frame are left out; only such loops: nan.

    References:
        Défossez et al., SING, 2018, equation 5; Caillon & Esling, RAVE, 2021, equation 4.
    """
    values = {name: float(v.nanmean()) for name, v in per_loop.items() if not name.startswith("_")}
    xx, yy, xy = (float(per_loop[name].mean()) for name in ("_fine_xx", "_fine_yy", "_fine_xy"))
    # What is left of a flat spectrum is rounding, some 1e-6.
    values["fine_structure"] = xy / (xx * yy) ** 0.5 if min(xx, yy) > 1e-8 else 0.0
    return values


def comparison_features(x: Float[Tensor, "n samples"], grid: Grid) -> dict[str, Tensor]:
    """What loops are compared by: amplitudes at each window, mel levels, detail, descriptors."""
    found = {f"amplitude_{w}": _amplitude(x, w) for w in WINDOWS}
    found["log_mel_l1_db"] = log_mel(x, grid.sample_rate_hz, hop=grid.hop, floor_db=-80.0)
    reach = FINE_BINS.stop + FINE_SMOOTH  # beyond it, bins are not looked at
    spectrum = (found[f"amplitude_{FINE_WINDOW}"][:, :reach] + 1e-3).log().transpose(1, 2)
    smooth = avg_pool1d(spectrum, FINE_SMOOTH, 1, FINE_SMOOTH // 2, count_include_pad=False)
    found["detail"] = (spectrum - smooth)[..., FINE_BINS]
    power = _amplitude(x, CHROMA_WINDOW).square()
    found["chroma"] = chroma_filterbank(grid.sample_rate_hz, CHROMA_WINDOW) @ power
    return found | frame_descriptors(x, grid.sample_rate_hz, grid.hop)


def compare(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Float[Tensor, " n"]]:
    """Errors of each loop, between what `comparison_features` gives of originals `a` and guesses `b`.

    Names with a leading underscore are parts of a number that only all loops have together.
    """
    pairs = [(a[f"amplitude_{w}"].split(1), b[f"amplitude_{w}"].split(1)) for w in WINDOWS]
    log = torch.stack([torch.stack(list(map(log_distance, *pair))) for pair in pairs])
    linear = torch.stack([torch.stack(list(map(linear_distance, *pair))) for pair in pairs])
    error = {
        "spectral_distance": log[WINDOWS.index(BRIEF_WINDOW)],
        "multi_log": log.mean(0),
        "multi_lin": linear.mean(0),
        "log_mel_l1_db": (a["log_mel_l1_db"] - b["log_mel_l1_db"]).abs().mean((1, 2)),
        "_fine_xx": a["detail"].square().mean((1, 2)),
        "_fine_yy": b["detail"].square().mean((1, 2)),
        "_fine_xy": (a["detail"] * b["detail"]).mean((1, 2)),
    }
    own, other = a["chroma"], b["chroma"]
    cosine = (own * other).sum(1) / (own.norm(dim=1) * other.norm(dim=1)).clamp_min(1e-12)
    weight = own.sum(1)
    error["chroma_similarity"] = (cosine * weight).sum(1) / weight.sum(1)
    audible = a["loudness_db"] >= AUDIBLE_LUFS
    for name in FRAME_DESCRIPTORS:
        difference = (a[name] - b[name]).abs()
        error[f"error_{name}"] = torch.where(audible, difference, torch.nan).nanmean(1)
    return error


def spectrum_noise(
    x: Float[Tensor, "n samples"], rng: np.random.Generator
) -> Float[Tensor, "n samples"]:
    """Stationary circular noise, as many loops as `x`, with the mean power spectrum of `x`."""
    amplitude = torch.fft.rfft(x).abs().square().mean(0).sqrt()
    phase = torch.from_numpy(rng.uniform(0, 2 * np.pi, (len(x), len(amplitude)))).float()
    return torch.fft.irfft(torch.polar(amplitude.expand_as(phase), phase), n=x.shape[1])


def _amplitude(x: Tensor, window: int) -> Tensor:
    spectrum = circular_stft(x, window, whole_hop(x.shape[1], window))
    return (spectrum.real.square() + spectrum.imag.square()).sqrt()


def _rank_names(places: np.ndarray, n: int) -> list[str]:
    """Best, median and worst where these are the places; else the place. No two are alike."""
    middle = next((int(p) for p in places if p in ((n - 1) // 2, n // 2)), -1)
    named = {middle: "median", n - 1: "worst", 0: "best"}
    return [named.get(int(p), f"rank {p + 1} of {n}") for p in places]


def _figure_items(shown: int, n: int) -> list[dict[str, object]]:
    return [
        {
            "kind": "figure",
            "file": "spectrograms.png",
            "title": "Test loops and their reconstructions",
            "caption": f"Mel spectrograms of {shown} of {n} test loops, from the best to the worst "
            "by log-mel error (in brackets): above the original, below what VAE 1 makes of its "
            "posterior mean. One colour scale.",
        },
        {
            "kind": "figure",
            "file": "bands.png",
            "title": "Reconstruction error by frequency",
            "caption": "Mean absolute difference of mel levels to the original, by band, for the "
            "reconstruction and for two guesses that know less.",
        },
    ]
