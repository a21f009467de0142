"""Training of the audio VAE on loops."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from techloop.audio.frames import frame_values
from techloop.data.datasets import LoopDataset
from techloop.metric import Measurement, Metric, flat_metrics
from techloop.models.audio_vae import AudioVAE
from techloop.models.latent_discriminator import LatentDiscriminator
from techloop.models.sampling import sample
from techloop.params import AudioVAECell, TrainAudioVAE
from techloop.training.augmentation import random_crops
from techloop.training.decoder_losses import (
    FINE_DISTANCE,
    FRAME_DISTANCE,
    NOISE_DISTANCE,
    TONALITY_DISTANCE,
    frame_distance,
    sound_distance,
)
from techloop.training.distributed import all_gather
from techloop.training.held_out import (
    BATCH,
    evenly_spaced,
    reconstruction_distances,
    validation_loops,
)
from techloop.training.latent_summary import LatentSummary, dimension_metrics, latent_summary
from techloop.training.loop import Log
from techloop.training.losses import (
    ACTIVE_UNITS,
    BITS_PER_SECOND,
    KL_PER_FRAME,
    LINEAR_DISTANCE,
    LOG_DISTANCE,
    MMD,
    gaussian_kl,
    mmd,
    penalty_share,
    rate,
)
from techloop.training.optimizer import ParameterGroup
from techloop.training.sampler import Sampler, shuffled_rows
from techloop.training.task import ModelTask
from techloop.training.train import train

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PCA_BARS = 512  # of the training set, for the principal components that the model starts from
CODEC_RATE = 0.05  # of the learning rate; at the full rate, its first steps undo the start

# Do not compare these numbers between regularisers.
LOSS = Metric("loss", "loss")
PENALTY = Metric("penalty", "penalty")


def train_audio_vae(
    loops_folder: str | Path,
    folder: str | Path,
    fabric: "Fabric",
    *,
    params: TrainAudioVAE,
    cell: AudioVAECell,
    seed: int,
    log: Log,
    checkpoints: Path = Path("checkpoints"),
    sampler: Sampler = shuffled_rows,
) -> dict[str, Measurement]:
    """Train an audio VAE on the training split and write its folder, see `train`.

    Args:
        loops_folder: a prepared data set.
        folder: is replaced.
        fabric: launched, see `techloop.training.distributed`.
        params: sizes of the model and of the training.
        cell: the regulariser and its weight.
        seed: of initial weights, order of loops, augmentation and noise.
        log: see `fit`.
        checkpoints: see `fit`.
        sampler: see `fit`.

    Returns:
        Metrics on the validation split.

    Raises:
        ValueError: no usable loops, or sizes that do not fit the grid.
    """
    task = AudioVAETask(loops_folder, params, cell, seed, fabric.device)
    return train(
        task,
        fabric,
        folder,
        training=params.training,
        seed=seed,
        log=log,
        checkpoints=checkpoints,
        sampler=sampler,
    )


class AudioVAETask(ModelTask[Tensor]):
    """An audio VAE (for `wae-gan` with its discriminator) and the loops it is trained on.

    A step sees a part of each loop of its batch (see `random_crops`). A batch is a tensor of whole
    loops.
    """

    def __init__(
        self,
        loops_folder: str | Path,
        params: TrainAudioVAE,
        cell: AudioVAECell,
        seed: int,
        device: torch.device,
    ) -> None:
        loops = LoopDataset(loops_folder, "train")
        self.held_out = validation_loops(loops_folder)
        self.grid, self.cell, self.seed = loops.grid, cell, seed
        self.frames = max(1, round(params.crop_fraction * self.grid.frames))
        torch.manual_seed(seed)
        self.model: AudioVAE = AudioVAE(self.grid, **params.model.model_dump())
        self.model.init_from_pca(_values_for_pca(loops))
        adversarial = cell.regulariser == "wae-gan"
        self.module = LatentDiscriminator(self.model) if adversarial else self.model
        self.read = loops.reader(device)
        self.loop_ids = list(loops.index["loop_id"])
        self.settings = params.model_dump(exclude={"cells"})
        self.notes = {
            "data": loops.card["fingerprint"],
            "preparation": loops.card["preparation"],
            "cell": cell.model_dump(),
            "seed": seed,
        }
        self.metrics = (
            LOSS,
            LOG_DISTANCE,
            LINEAR_DISTANCE,
            FINE_DISTANCE,
            TONALITY_DISTANCE,
            FRAME_DISTANCE,
            NOISE_DISTANCE,
            KL_PER_FRAME,
            PENALTY,
            BITS_PER_SECOND,
            ACTIVE_UNITS,
            MMD,
        )
        self.dimension_metrics = dimension_metrics(self.model.latent_dim)

    def groups(self, learning_rate: float) -> Sequence[ParameterGroup]:
        """The linear codec, which starts as the best one, and slowly; and all the rest."""
        linear = (self.model.encoder.linear, self.model.predictor.linear)
        codec = [p for layer in linear for p in layer.parameters()]
        rest = [p for p in self.module.parameters() if all(p is not c for c in codec)]
        return [
            ParameterGroup(rest, learning_rate),
            ParameterGroup(codec, CODEC_RATE * learning_rate),
        ]

    def batch(self, rows: Sequence[int]) -> Tensor:  # noqa: D102
        return self.read(rows)

    def loss(  # noqa: D102
        self, module: nn.Module, batch: Tensor, generator: torch.Generator, seen: int
    ) -> dict[str, Tensor]:
        x = random_crops(batch, self.grid, self.frames, generator)
        return audio_vae_loss(module, x, self.cell, generator, seen)

    def validate(self) -> dict[str, float]:
        """Metrics of the latents and spectral distances of reconstructions, on validation loops."""
        summary = posterior_summary(self.model, self.held_out)
        metrics = summary.metrics(self.grid.frame_rate_hz)
        dimensions = zip(self.dimension_metrics, summary.kl_per_dimension, strict=True)
        return {
            **flat_metrics(metrics),
            **{metric.name: value for metric, value in dimensions},
            **reconstruction_distances(self.model, self.held_out, self.seed),
        }


def audio_vae_loss(
    vae: nn.Module,
    x: Float[Tensor, "b samples"],
    cell: AudioVAECell,
    generator: torch.Generator,
    seen: int,
) -> dict[str, Tensor]:
    """The `loss` and its terms.

    The sum of the distance of the decoded waveform (see `sound_distance`), the `frame_distance` of
    what the decoder predicts on its way, and the penalty.

    Args:
        vae: an `AudioVAE`, or a `LatentDiscriminator` around one.
        x: this process's share of the batch, circles of whole hops.
        cell: the regulariser, its weight, and the loops over which the weight rises.
        generator: of the samples of the posterior and the prior, and of noise.
        seen: loops seen so far.
    """
    outputs = vae(x, generator)
    # Repeat each scalar for every row, because `all_gather` joins rows.
    rows = [part if part.ndim else part.expand(len(x)) for part in (x, *outputs)]
    x, values, mu, sigma, predicted, first, second, *cross_entropy = map(all_gather, rows)
    sound = sound_distance(x, first, second)
    frames = frame_distance(values, predicted)
    kl = gaussian_kl(mu, sigma)
    if cell.regulariser == "kl":
        penalty = rate(kl, cell.free_nats)
    elif cell.regulariser == "wae":
        z = sample(mu, sigma, generator).mT.flatten(0, 1)
        penalty = mmd(z, torch.randn(z.shape, generator=generator, device=z.device))
    else:
        penalty = cross_entropy[0].mean()
    weight = cell.weight * penalty_share(seen, cell.warmup_loops)
    return {
        "loss": sound.loss + frames.loss + weight * penalty,
        LOG_DISTANCE.name: sound.log,
        LINEAR_DISTANCE.name: sound.linear,
        NOISE_DISTANCE.name: sound.noise,
        FRAME_DISTANCE.name: frames.loss,
        FINE_DISTANCE.name: frames.fine,
        TONALITY_DISTANCE.name: frames.tonality,
        KL_PER_FRAME.name: rate(kl),
        PENALTY.name: penalty,
    }


def posterior_summary(vae: AudioVAE, x: Float[Tensor, "n samples"]) -> LatentSummary:
    """The summary of the posteriors of loops: rate, active units, MMD to the prior."""
    device = next(vae.parameters()).device
    posteriors = [vae.encode(part.to(device)) for part in x.split(BATCH)]
    mu, sigma = (torch.cat(values) for values in zip(*posteriors, strict=True))
    return latent_summary(mu, sigma)


def _values_for_pca(loops: LoopDataset) -> Float[Tensor, "n v frames"]:
    """Every fourth frame of loops spread over a data set, see `frame_values`."""
    rows = evenly_spaced(len(loops), max(1, PCA_BARS // loops.grid.bars))
    parts = (
        torch.from_numpy(loops.audio(part)) for part in np.array_split(rows, -(-len(rows) // 16))
    )
    return torch.cat([frame_values(x, loops.grid.hop)[..., ::4].contiguous() for x in parts])
