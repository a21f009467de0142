"""The audio VAE alone as an instrument: loops of frames from its prior, without a latent VAE.

White frames are independent draws from N(0, 1), the distribution that its regulariser asks latents
to have. Smooth ones are a Gaussian process with the mean, and for each dimension the spectrum over
time, of real loops' latents: the best that independent dimensions can do.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from techloop.data.datasets import LoopDataset
from techloop.evaluation.comparison import compared
from techloop.evaluation.features import mel_levels, mel_range_hz
from techloop.evaluation.generation_metrics import GenerationMetrics
from techloop.evaluation.result import Evaluation, Sound
from techloop.evaluation.samples import LOOPS, REAL_LOOPS, real_loops, smallest_sample
from techloop.models.audio_vae import AudioVAE

REFERENCE_LOOPS = 512  # whose latents the smooth process is like
BATCH = 16


@torch.inference_mode()
def evaluate_prior(
    vae: AudioVAE,
    train: LoopDataset,
    held_out: LoopDataset,
    *,
    loops_used: int,
    examples: int,
    seed: int,
) -> Evaluation:
    """Measure loops from the audio VAE alone.

    Args:
        vae: the audio VAE.
        train: the training split.
        held_out: the validation and test splits: all loops, at most 2,000.
        loops_used: loops of each kind that are drawn.
        examples: loops of each kind to hear and see: the first ones drawn.
        seed: of the draws.

    Returns:
        Metrics: those of `GenerationMetrics` of loops from smooth frames, with 95 % intervals and
        the baselines `white` (loops from white frames) and `real` (held-out loops).
        Arrays: `levels_db`, mel levels of the examples, smooth ones first.

    Raises:
        ValueError: fewer than two loops of any kind, or loops of another grid.
    """
    grid = vae.grid
    if held_out.grid != grid or train.grid != grid:
        raise ValueError(f"the loops are on {held_out.grid}, the audio VAE on {grid}")
    n = loops_used
    smallest = smallest_sample(train, held_out, n)
    score, device = GenerationMetrics(train, smallest, seed=seed), next(vae.parameters()).device
    rows = np.sort(np.random.default_rng([seed, 2]).permutation(len(train))[:REFERENCE_LOOPS])
    latents = torch.cat(
        [
            vae.encode(torch.from_numpy(train.audio(part)).to(device))[0].cpu()
            for part in np.array_split(rows, -(-len(rows) // BATCH))
        ]
    )
    generator = torch.Generator().manual_seed(seed)
    frames = {
        "smooth": smooth_frames(latents, n, generator),
        "white": torch.randn(n, *latents[0].shape, generator=generator),
    }
    audio = {
        kind: torch.cat(
            [
                vae.decode(part.to(device), vae.draw_noise(part, generator).to(device)).cpu()
                for part in tqdm(torch.split(z, BATCH), kind)
            ]
        ).numpy()
        for kind, z in frames.items()
    }
    smooth, real = score(audio["smooth"]), real_loops(held_out, seed)
    metrics = compared(
        {LOOPS: float(n), REAL_LOOPS: float(len(real)), **smooth.values},
        {"white": score(audio["white"]).values, "real": score(real).values},
        smooth.intervals,
    )

    examples = min(examples, n)
    return Evaluation(
        metrics,
        arrays={
            "levels_db": mel_levels(
                np.concatenate([loops[:examples] for loops in audio.values()]), grid
            )
        },
        facts={
            "kinds": list(audio),
            "examples": examples,
            "beats": grid.beats,
            "mel_range_hz": mel_range_hz(grid),
        },
        sounds=tuple(
            Sound(f"{kind}-{i}.wav", loop, {"kind": kind, "number": i})
            for kind, loops in audio.items()
            for i, loop in enumerate(loops[:examples], 1)
        ),
    )


def smooth_frames(
    latents: Float[Tensor, "m c frames"], n: int, generator: torch.Generator
) -> Float[Tensor, "n c frames"]:
    """Draws of a circular Gaussian process like some latents, dimension by dimension.

    It has the mean of each dimension and its mean power spectrum around the circle, so its variance
    and its autocorrelation, and no dependence between dimensions: the real signal with that
    spectrum whose phases are those of white noise.

    Raises:
        ValueError: no latents are given.
    """
    m, c, t = latents.shape
    if not m:
        raise ValueError("no loops whose latents a smooth process could be like")
    mean = latents.mean((0, 2))[:, None]
    power = torch.fft.rfft(latents - mean).abs().square().mean(0)
    white = torch.fft.rfft(torch.randn(n, c, t, generator=generator))  # of power t in each bin
    frames: Tensor = mean + torch.fft.irfft(white * (power / t).sqrt(), n=t)
    return frames
