"""Adversarial fine-tuning of an audio VAE's decoder; the encoder does not change."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from techloop.audio.frames import frame_values
from techloop.data.datasets import LoopDataset
from techloop.metric import Measurement, Metric
from techloop.models.audio_vae import AudioVAE
from techloop.models.base import model_fingerprint
from techloop.models.discriminators import Discriminators
from techloop.models.sampling import rank_and_world_size, sample_shard
from techloop.params import DecoderCell, FinetuneDecoder
from techloop.training.adversarial import accuracy, feature_distance, objective
from techloop.training.augmentation import random_crops
from techloop.training.collapse import CollapseWatch
from techloop.training.decoder_losses import (
    FRAME_DISTANCE,
    NOISE_DISTANCE,
    frame_distance,
    sound_distance,
)
from techloop.training.distributed import all_gather
from techloop.training.held_out import reconstruction_distances, validation_loops
from techloop.training.loop import Log
from techloop.training.losses import LINEAR_DISTANCE, LOG_DISTANCE
from techloop.training.optimizer import ParameterGroup
from techloop.training.sampler import Sampler, shuffled_rows
from techloop.training.task import ModelTask
from techloop.training.train import train

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BETAS = (0.8, 0.99)  # of Adam, as HiFi-GAN and RAVE have them: gradients of a game age fast

LOSS = Metric("loss", "loss")
ADVERSARIAL_LOSS = Metric("adversarial_loss", "adversarial loss of the decoder")
DISCRIMINATOR_LOSS = Metric("discriminator_loss", "loss of the discriminators")
FEATURE_DISTANCE = Metric("feature_distance", "feature distance", better="lower")
# How a game stands; neither direction is better.
SCORE_REAL = Metric("score_real", "score of real loops")
SCORE_FAKE = Metric("score_fake", "score of decoded loops")
ACCURACY = Metric("discriminator_accuracy", "accuracy of the discriminators")
DECODER_NORM = Metric("gradient_norm_decoder", "gradient norm of the decoder")
DISCRIMINATOR_NORM = Metric("gradient_norm_discriminators", "gradient norm of the discriminators")

JUDGED = (DISCRIMINATOR_LOSS.name, SCORE_REAL.name, SCORE_FAKE.name, ACCURACY.name)


def finetune_decoder(
    loops_folder: str | Path,
    audio_vae_folder: str | Path,
    folder: str | Path,
    fabric: "Fabric",
    *,
    params: FinetuneDecoder,
    cell: DecoderCell,
    seed: int,
    log: Log,
    checkpoints: Path = Path("checkpoints"),
    sampler: Sampler = shuffled_rows,
) -> dict[str, Measurement]:
    """Fine-tune the decoder of an audio VAE on the training split and write a folder of both.

    The folder is that of an `AudioVAE` with the weights of the source's encoder, so the source's
    latents are its latents too. Its `config.json` names the source's fingerprint as `audio_vae`.

    Args:
        loops_folder: a prepared data set.
        audio_vae_folder: of the source.
        folder: is replaced.
        fabric: launched, see `techloop.training.distributed`.
        params: sizes of the training.
        cell: discriminators, objective and weights.
        seed: of the discriminators' weights, order of loops, augmentation and noise.
        log: see `fit`.
        checkpoints: see `fit`.
        sampler: see `fit`.

    Returns:
        Metrics on the validation split.

    Raises:
        ValueError: no usable loops, or an audio VAE of another grid.
    """
    task = DecoderTask(loops_folder, audio_vae_folder, params, cell, seed, fabric.device)
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


class DecoderTask(ModelTask[Tensor]):
    """An audio VAE with a frozen encoder, discriminators, and the loops that they see.

    A step sees a part of each loop (see `random_crops`). For the first `warmup_loops` the
    discriminators wait. A batch is a tensor of whole loops.
    """

    def __init__(
        self,
        loops_folder: str | Path,
        audio_vae_folder: str | Path,
        params: FinetuneDecoder,
        cell: DecoderCell,
        seed: int,
        device: torch.device,
    ) -> None:
        loops = LoopDataset(loops_folder, "train")
        self.grid, self.params, self.cell, self.seed = loops.grid, params, cell, seed
        self.frames = max(1, round(params.crop_fraction * self.grid.frames))
        self.model: AudioVAE = AudioVAE.load(audio_vae_folder, self.grid)
        self.game = self.module = Game(self.model, cell, seed)
        self.held_out = validation_loops(loops_folder)
        self.read = loops.reader(device)
        self.loop_ids = list(loops.index["loop_id"])
        self.watch = CollapseWatch()
        self.settings = params.model_dump(exclude={"cells"})
        self.notes = {
            "data": loops.card["fingerprint"],
            "preparation": loops.card["preparation"],
            "audio_vae": model_fingerprint(audio_vae_folder),
            "cell": cell.model_dump(),
            "seed": seed,
        }
        self.metrics = (
            LOSS,
            LOG_DISTANCE,
            LINEAR_DISTANCE,
            NOISE_DISTANCE,
            FRAME_DISTANCE,
            ADVERSARIAL_LOSS,
            FEATURE_DISTANCE,
            DISCRIMINATOR_LOSS,
            SCORE_REAL,
            SCORE_FAKE,
            ACCURACY,
            DECODER_NORM,
            DISCRIMINATOR_NORM,
        )

    def groups(self, learning_rate: float) -> Sequence[ParameterGroup]:
        """The decoder, and the discriminators with a learning rate of their own."""
        decoder = [p for p in self.model.parameters() if p.requires_grad]
        discriminators = self.game.discriminators.parameters()
        rate = self.params.discriminator_learning_rate
        return [
            ParameterGroup(decoder, learning_rate, BETAS, "decoder"),
            ParameterGroup(discriminators, rate, BETAS, "discriminators"),
        ]

    def resting(self, seen: int) -> Sequence[str]:
        """The discriminators, before the game begins."""
        return ["discriminators"] if seen < self.params.warmup_loops else []

    def batch(self, rows: Sequence[int]) -> Tensor:  # noqa: D102
        return self.read(rows)

    def loss(  # noqa: D102
        self, module: nn.Module, batch: Tensor, generator: torch.Generator, seen: int
    ) -> dict[str, Tensor]:
        x = random_crops(batch, self.grid, self.frames, generator)
        return decoder_loss(module, x, self.cell, generator, seen >= self.params.warmup_loops)

    def validate(self) -> dict[str, float]:
        """Spectral distances of reconstructions, on validation loops."""
        return reconstruction_distances(self.model, self.held_out, self.seed)

    def inspect(self, history: Sequence[Mapping[str, int | float | str]]) -> None:
        """Warn once of each way in which the game has collapsed."""
        self.watch(history)


class Game(nn.Module):
    """An audio VAE whose decoder plays against discriminators; both are trained by one loss.

    Args:
        vae: its encoder is frozen.
        cell: discriminators and objective.
        seed: of the discriminators' weights.
    """

    def __init__(self, vae: AudioVAE, cell: DecoderCell, seed: int) -> None:
        super().__init__()
        self.vae = vae
        self.vae.encoder.requires_grad_(False)
        torch.manual_seed(seed)
        self.discriminators = Discriminators(cell.discriminators)
        self.objective = objective(cell.objective)

    def forward(
        self, x: Float[Tensor, "b samples"], generator: torch.Generator, plays: bool
    ) -> tuple[tuple[Tensor, ...], dict[str, Float[Tensor, "rows ..."]]]:
        """What a step compares, and how the game stands.

        Args:
            x: circles of whole hops.
            generator: of the sample of the posterior, and the decoder's noise.
            plays: whether there is a game.

        Returns:
            Values of frames, their prediction, and loops decoded with two draws of the noise; what
            `play` returns for the first of these, if there is a game.
        """
        with torch.no_grad():
            values = frame_values(x, self.vae.grid.hop)
            z = sample_shard(*self.vae.posterior(values), generator)
        predicted, first, second = self.vae.decode_twice(z, generator)
        return (values, predicted, first, second), self.play(x, first) if plays else {}

    def play(
        self, real: Float[Tensor, "b samples"], decoded: Float[Tensor, "b samples"]
    ) -> dict[str, Float[Tensor, "rows ..."]]:
        """Losses and statistics of each loop, means over the networks of the discriminators.

        The discriminators are trained on the first half of the batch alone: an update of half the
        cost in each step instead of a whole one in every other. Their weights get no gradient from
        what trains the decoder (`adversarial_loss`, `differences`), and the decoder none from what
        trains them.

        Returns:
            What `JUDGED` names, for the first half: each `(judged_rows(b),)`. `adversarial_loss`
            `(b,)`, and `sizes` and `differences` of features, each `(b, layers)`, for all loops;
            see `feature_distance`.
        """
        n = judged_rows(len(real))
        judged = self.discriminators(torch.cat([real[:n], decoded[:n].detach()]))
        pairs = [(j.score[:n].float(), j.score[n:].float()) for j in judged]
        weights = {name: p.detach() for name, p in self.discriminators.named_parameters()}
        with torch.no_grad():
            targets = functional_call(self.discriminators, weights, (real,))
        trials = functional_call(self.discriminators, weights, (decoded,))
        features = [
            (target.float(), trial.float())
            for one, other in zip(targets, trials, strict=True)
            for target, trial in zip(one.features, other.features, strict=True)
        ]
        game = self.objective
        return {
            DISCRIMINATOR_LOSS.name: _by_loop([game.discriminator(*pair) for pair in pairs]).mean(
                1
            ),
            SCORE_REAL.name: _by_loop([real for real, _ in pairs]).mean(1),
            SCORE_FAKE.name: _by_loop([fake for _, fake in pairs]).mean(1),
            ACCURACY.name: _by_loop([accuracy(*p, game.boundary) for p in pairs]).mean(1),
            ADVERSARIAL_LOSS.name: _by_loop(
                [game.generator(trial.score.float()) for trial in trials]
            ).mean(1),
            "sizes": _by_loop([target.abs() for target, _ in features]),
            "differences": _by_loop([(target - trial).abs() for target, trial in features]),
        }


def judged_rows(share: int) -> int:
    """How many of this process's rows are, or may be, among the first half of the whole batch."""
    processes = rank_and_world_size()[1]
    return math.ceil(math.ceil(share * processes / 2) / processes)


def decoder_loss(
    game: nn.Module,
    x: Float[Tensor, "b samples"],
    cell: DecoderCell,
    generator: torch.Generator,
    plays: bool,
) -> dict[str, Tensor]:
    """The terms of a step, by the names of their metrics, and their sum `loss`.

    One gradient step of this sum is a step of both sides of the game: spectral, adversarial and
    feature terms, weighted, move the decoder alone; the discriminators' loss moves them alone.

    Args:
        game: a `Game`, maybe wrapped.
        x: this process's share of the batch, circles of whole hops.
        cell: weights of the terms.
        generator: of the samples of the posterior and the noise.
        plays: whether the discriminators take part. If not, their gradients are zero, and their
            group has to rest.
    """
    outputs, outcome = game(x, generator, plays)
    x, values, predicted, first, second = map(all_gather, (x, *outputs))
    sound, frames = sound_distance(x, first, second), frame_distance(values, predicted)
    weights = cell.weights
    loss = weights.spectral * (sound.loss + frames.loss)
    terms = {
        LOG_DISTANCE.name: sound.log,
        LINEAR_DISTANCE.name: sound.linear,
        NOISE_DISTANCE.name: sound.noise,
        FRAME_DISTANCE.name: frames.loss,
    }
    if plays:
        rows = {name: all_gather(values) for name, values in outcome.items()}
        distance = feature_distance(rows["sizes"], rows["differences"])
        adversarial = rows[ADVERSARIAL_LOSS.name].mean()
        half = math.ceil(len(rows["sizes"]) / 2)
        terms |= {name: rows[name][:half].mean() for name in JUDGED}
        terms |= {ADVERSARIAL_LOSS.name: adversarial, FEATURE_DISTANCE.name: distance}
        loss = loss + weights.adversarial * adversarial + weights.feature_matching * distance
        loss = loss + terms[DISCRIMINATOR_LOSS.name]
    else:  # several processes wait for a gradient of every parameter
        idle = [p.sum() for name, p in game.named_parameters() if "discriminators" in name]
        loss = loss + 0 * torch.stack(idle).sum()
    return {LOSS.name: loss, **terms}


def _by_loop(maps: Sequence[Tensor]) -> Float[Tensor, "b maps"]:
    """The mean of each map over all but the loops."""
    return torch.stack([values.flatten(1).mean(1) for values in maps], 1)
