"""VAE 1 alone as an instrument: loops of frames from its prior, without the second level.

White frames are each drawn from N(0, 1), which is what its regulariser asks of latents. Smooth ones
are a Gaussian process with the mean, and for each dimension the spectrum over time, of real loops'
latents: as near as a loop comes whose dimensions know nothing of one another.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from techloop.artifacts import atomic_folder, write_json
from techloop.audio.wav import write_loop
from techloop.data.datasets import LoopDataset
from techloop.evaluation.generation import Judge, mel_levels, real_loops, sample_size
from techloop.models.audio_vae import AudioVAE
from techloop.reporting.plots import spectrogram_grid

KINDS = {"": "smooth", "white_": "white"}
REFERENCE_LOOPS = 512  # whose latents the smooth process is like
BATCH = 16


@torch.inference_mode()
def evaluate_prior(
    vae: AudioVAE,
    train: LoopDataset,
    test: LoopDataset,
    folder: str | Path,
    *,
    loops_used: int,
    examples: int,
    seed: int,
) -> dict[str, float]:
    """Figures, sounds and numbers of loops from VAE 1 alone, in `folder`.

    Args:
        vae: the audio VAE.
        train: the training split.
        test: the test split.
        folder: is replaced; gets metrics.json, items.json, a PNG and WAV files.
        loops_used: size of the samples, where the splits have as many.
        examples: loops of each kind to hear and see: the first ones drawn.
        seed: of the draws.

    Returns:
        What metrics.json holds: what `Judge` finds of loops from smooth frames, from white ones
        (`white_`), and of test loops (`real_`).

    Raises:
        ValueError: fewer than two loops in a split, or loops of another grid.
    """
    grid = vae.grid
    if test.grid != grid or train.grid != grid:
        raise ValueError(f"the loops are on {test.grid}, the audio VAE on {grid}")
    n = sample_size(train, test, loops_used)
    judge, device = Judge(train, n, seed=seed), next(vae.parameters()).device
    rows = np.sort(np.random.default_rng([seed, 2]).permutation(len(train))[:REFERENCE_LOOPS])
    known = torch.cat(
        [
            vae.encode(torch.from_numpy(train.audio(part)).to(device))[0].cpu()
            for part in np.array_split(rows, -(-len(rows) // BATCH))
        ]
    )
    draw = torch.Generator().manual_seed(seed)
    frames = {
        "": smooth_frames(known, n, draw),
        "white_": torch.randn(n, *known[0].shape, generator=draw),
    }
    sounds = {
        prefix: torch.cat(
            [vae.decode(part.to(device)).cpu() for part in tqdm(z.split(BATCH), KINDS[prefix])]
        ).numpy()
        for prefix, z in frames.items()
    }
    metrics = {"loops": float(n)}
    for prefix, audio in (*sounds.items(), ("real_", real_loops(test, n, seed))):
        metrics |= {prefix + name: value for name, value in judge(audio).metrics.items()}

    shown = min(examples, n)
    beside = np.concatenate([audio[:shown] for audio in sounds.values()])
    with atomic_folder(folder) as new:
        spectrogram_grid(
            new / "spectrograms.png",
            mel_levels(beside, grid),
            [f"{kind} frames {i + 1}" for kind in KINDS.values() for i in range(shown)],
            columns=shown,
            span=(grid.beats, "beat"),
            mel_range_hz=(30.0, grid.sample_rate_hz / 2),
        )
        items: list[dict[str, object]] = [
            {
                "kind": "figure",
                "file": "spectrograms.png",
                "title": "VAE 1 alone",
                "caption": f"Mel spectrograms of the first {shown} loops drawn of each kind: from "
                "smooth frames, a Gaussian process with the spectrum over time that each dimension "
                "has in real loops, and from white ones, each frame N(0, 1). One colour scale.",
            }
        ]
        for prefix, kind in KINDS.items():
            for i, loop in enumerate(sounds[prefix][:shown]):
                file = f"{kind}-{i + 1}.wav"
                write_loop(new / file, loop, grid.sample_rate_hz, grid.bpm, grid.beats)
                caption = f"VAE 1 alone, from {kind} frames."
                title = f"{kind.capitalize()} {i + 1}"
                about = {"kind": "audio", "file": file, "title": title, "caption": caption}
                items.append(about | {"loop": True})
        write_json(new / "items.json", items)
        write_json(new / "metrics.json", metrics)
    return metrics


def smooth_frames(
    known: Float[Tensor, "m c frames"], n: int, draw: torch.Generator
) -> Float[Tensor, "n c frames"]:
    """Draws of a circular Gaussian process like `known` dimension by dimension.

    It has the mean of each dimension and its mean power spectrum around the circle, so its variance
    and its autocorrelation, and no dependence between dimensions: the real signal with that
    spectrum whose phases are those of white noise.

    Raises:
        ValueError: there is nothing to be like.
    """
    m, c, t = known.shape
    if not m:
        raise ValueError("no loops whose latents a smooth process could be like")
    mean = known.mean((0, 2))[:, None]
    power = torch.fft.rfft(known - mean).abs().square().mean(0)
    white = torch.fft.rfft(torch.randn(n, c, t, generator=draw))  # of power t in each bin
    return mean + torch.fft.irfft(white * (power / t).sqrt(), n=t)
