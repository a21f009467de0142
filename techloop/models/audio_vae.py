"""The audio VAE: loops to Gaussian latents at the hop rate, and back to waveforms.

    loop -> values of each frame (`techloop.audio.frames`) -> (level, the rest) -> (mu, sigma)
    z -> the rest at its level -> tones and noise (`techloop.models.refiner`) -> loop

The encoder sees amplitudes and how tonal bands are, so the latents carry no phase: the decoder
finds phases for tones and is given noise for the rest. The first latent is by definition the
K-weighted level of the frame: the decoded loop has the power that its levels add up to, however
unlike the training data it is. The other latents do not depend on the level, except near the floor
of log amplitudes. They start as a linear codec of the training set's principal components; residual
blocks learn what the linear codec cannot express. Everything is circular and convolutional:
`decode(roll(z, k), roll(noise, k * hop)) == roll(decode(z, noise), k * hop)`.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from techloop.audio.frames import (
    BANDS,
    LONG,
    SHORT,
    fine_structure,
    frame_values,
    split_values,
    values_per_frame,
)
from techloop.audio.spectral import circular_stft, k_weights
from techloop.grid import Grid
from techloop.models.base import Model
from techloop.models.layers import CircularConv, residual_stack
from techloop.models.refiner import Refiner, Spectrum
from techloop.models.sampling import draw_shard, sample_shard

SIGMA_FLOOR = 0.05  # keeps some noise where no loss asks for it (wae)
SIGMA_START = 0.5  # gives a rate near that of the trained model
DILATIONS = (1, 3, 9)
# Weights in the PCA: of the long window, of its fine structure, of its upper half, of tonality.
PCA_LONG, PCA_FINE, PCA_UPPER, PCA_TONALITY = 0.5, 2.0, 0.5, 4.0


class Reconstruction(NamedTuple):
    """What a training step compares; a tuple of tensors, so that it passes through DDP.

    Attributes:
        values: of the loops, see `frame_values`.
        mu, sigma: the posterior.
        predicted: values of a sample of the posterior.
        first, second: loops decoded from that sample, with independent noise.
    """

    values: Float[Tensor, "b v frames"]
    mu: Float[Tensor, "b c frames"]
    sigma: Float[Tensor, "b c frames"]
    predicted: Float[Tensor, "b v frames"]
    first: Float[Tensor, "b samples"]
    second: Float[Tensor, "b samples"]


class AudioVAE(Model):
    """The audio VAE of a grid.

    Args:
        grid: sample rate, hop and length of the loops it will be trained on.
        latent_dim: numbers per latent frame; the first is its level; at least two.
        channels: width of the residual blocks.
        blocks: rounds of three residual blocks (dilations 1, 3, 9) in encoder, predictor and
            refiner each.
    """

    mean: Tensor
    level_mean: Tensor
    level_std: Tensor
    log_k_weights: Tensor

    def __init__(self, grid: Grid, *, latent_dim: int, channels: int, blocks: int) -> None:
        super().__init__(grid, latent_dim=latent_dim, channels=channels, blocks=blocks)
        self.latent_dim = latent_dim
        values = values_per_frame(grid.hop)
        self.register_buffer("mean", torch.zeros(values, 1))
        self.register_buffer("level_mean", torch.zeros(()))
        self.register_buffer("level_std", torch.ones(()))
        hz = torch.arange(SHORT * grid.hop // 2 + 1) * (grid.sample_rate_hz / (SHORT * grid.hop))
        log_k_weights = k_weights(hz).clamp_min(1e-9).log()[:, None]
        self.register_buffer("log_k_weights", log_k_weights, persistent=False)
        self.encoder = Encoder(values, channels, blocks, latent_dim)
        self.predictor = Predictor(values, channels, blocks, latent_dim)
        self.refiner = Refiner(grid, channels, blocks)

    def encode(
        self, x: Float[Tensor, "b samples"]
    ) -> tuple[Float[Tensor, "b c frames"], Float[Tensor, "b c frames"]]:
        """Posterior mean and standard deviation of any circle of whole hops, in [-1, 1]."""
        return self.posterior(frame_values(x, self.grid.hop))

    def decode(
        self, z: Float[Tensor, "b c frames"], noise: Float[Tensor, "n samples"]
    ) -> Float[Tensor, "b samples"]:
        """Audio of latents, for any number of frames; within full scale.

        Args:
            z: latents.
            noise: from N(0, 1), as `draw_noise` gives it; one for each loop, or one for all.
        """
        _, spectrum, level = self.analyse_latents(z)
        return self.sound(spectrum, level, noise)

    def reconstruct(
        self, x: Float[Tensor, "b samples"], generator: torch.Generator
    ) -> Float[Tensor, "b samples"]:
        """What is decoded from the posterior means of loops, with noise of the generator."""
        mu, _ = self.encode(x)
        return self.decode(mu, self.draw_noise(mu, generator))

    def draw_noise(
        self, z: Float[Tensor, "b c frames"], generator: torch.Generator
    ) -> Float[Tensor, "b samples"]:
        """White noise of the length of these loops, one for each."""
        size = (len(z), z.shape[-1] * self.grid.hop)
        return torch.randn(size, generator=generator, device=generator.device).to(z.device)

    def posterior(
        self, values: Float[Tensor, "b v frames"]
    ) -> tuple[Float[Tensor, "b c frames"], Float[Tensor, "b c frames"]]:
        """Posterior mean and standard deviation, given the values of frames."""
        level = self.levels(values) - self.level_mean
        mu, sigma = self.encoder(shift_level(values - self.mean, -level))
        return torch.cat([level / self.level_std, mu], 1), sigma

    def predict(self, z: Float[Tensor, "b c frames"]) -> Float[Tensor, "b v frames"]:
        """Values of the frames of latents, see `frame_values`: means, which are too smooth.

        No log amplitude exceeds that of a constant at full scale in the long window, however
        extreme the latents are.
        """
        return self._predict(z)[0]

    def analyse_latents(
        self, z: Float[Tensor, "b c frames"]
    ) -> tuple[Float[Tensor, "b v frames"], Spectrum, Float[Tensor, "b 1 frames"]]:
        """All that decoding takes from latents: predicted values, spectrum, levels in nepers."""
        values, features = self._predict(z)
        level = self._latent_levels(z)
        return values, self.refiner(values, level, features), level

    def sound(
        self,
        spectrum: Spectrum,
        level: Float[Tensor, "b 1 frames"],
        noise: Float[Tensor, "n samples"],
    ) -> Float[Tensor, "b samples"]:
        """The waveform of a spectrum, within full scale.

        One gain for the whole circle gives it the power of its levels, within 20 dB of what the
        spectrum has.
        """
        x = self.refiner.sound(spectrum, noise)
        window, hop = self.refiner.window, self.refiner.hop
        power = torch.view_as_real(circular_stft(x, window, hop)).square().sum(-1)
        power = (power * self.log_k_weights.exp()).sum((1, 2)).clamp_min(1e-12)
        gain = ((2 * level).exp().sum((1, 2)) / power).sqrt().clamp(0.1, 10)
        return limit(x * gain[:, None])

    def levels(self, values: Float[Tensor, "b v frames"]) -> Float[Tensor, "b 1 frames"]:
        """K-weighted levels of frames in the short window, in nepers (8.7 dB), unscaled."""
        power = 2 * split_values(values)[1] + self.log_k_weights
        return power.logsumexp(1, keepdim=True) / 2

    def forward(self, x: Float[Tensor, "b samples"], generator: torch.Generator) -> Reconstruction:
        """Loops, and what is decoded from a sample of their posterior."""
        values = frame_values(x, self.grid.hop)
        mu, sigma = self.posterior(values)
        z = sample_shard(mu, sigma, generator)
        return Reconstruction(values, mu, sigma, *self.decode_twice(z, generator))

    def decode_twice(
        self, z: Float[Tensor, "b c frames"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "b v frames"], Float[Tensor, "b samples"], Float[Tensor, "b samples"]]:
        """Predicted values, and audio of latents with two independent draws of the noise.

        In training: the noise is this process's share of that of the whole batch.
        """
        values, spectrum, level = self.analyse_latents(z)
        size = (len(z), z.shape[-1] * self.grid.hop)
        first, second = (
            self.sound(spectrum, level, draw_shard(torch.randn, size=size, generator=generator))
            for _ in range(2)
        )
        return values, first, second

    def _latent_levels(self, z: Float[Tensor, "b c frames"]) -> Float[Tensor, "b 1 frames"]:
        """Levels that latents ask for, in nepers."""
        return self.level_mean + self.level_std * z[:, :1]

    def _predict(self, z: Float[Tensor, "b c frames"]) -> tuple[Tensor, Tensor]:
        """Predicted values, and the predictor's features."""
        values, features = self.predictor(z)
        values = values + self.mean
        values = shift_level(values, self._latent_levels(z) - self.levels(values))
        ceiling = math.log(LONG * self.grid.hop / 2)
        amplitudes = ceiling - F.softplus(ceiling - values[:, :-BANDS], beta=4)
        return torch.cat([amplitudes, values[:, -BANDS:]], 1), features

    @torch.no_grad()
    def init_from_pca(self, values: Float[Tensor, "n v frames"]) -> None:
        """Set the weights to a linear codec of some frames: level and principal components.

        Fine structure counts threefold in the components. By its variance alone it would get hardly
        any of them, and the network takes long to learn pitch without.

        Args:
            values: of loops of the training set, see `frame_values`.
        """
        levels = self.levels(values)
        self.level_mean.copy_(levels.mean())
        self.level_std.copy_(levels.std().clamp_min(1e-2))
        self.mean.copy_(values.double().mean((0, 2))[:, None])
        frames = shift_level(values, -levels).mT.flatten(0, 1).double()
        weighting = torch.eye(len(self.mean), dtype=torch.double, device=frames.device)
        long = split_values(values)[0].shape[1]
        fine = fine_structure(weighting[None, :long, :long])[0]
        weighting[:long, :long] = PCA_LONG * (weighting[:long, :long] + PCA_FINE * fine)
        weighting[long // 2 : long] *= PCA_UPPER
        weighting[-BANDS:] *= PCA_TONALITY
        variance, directions = torch.linalg.eigh(weighting @ torch.cov(frames.T) @ weighting.T)
        first = 1 - self.latent_dim
        scale = variance[first:].flip(0).clamp_min(1e-6).sqrt()
        directions = directions[:, first:].flip(1)
        self.encoder.linear.weight.copy_(((directions / scale).T @ weighting)[..., None])
        self.predictor.linear.weight.copy_(
            torch.linalg.solve(weighting, directions * scale)[..., None]
        )


class Encoder(nn.Module):
    """Values of frames to a posterior: a matrix plus residual blocks."""

    def __init__(self, values: int, channels: int, blocks: int, latent_dim: int) -> None:
        super().__init__()
        self.sizes = (latent_dim - 1, latent_dim)  # means (the level's is computed), deviations
        self.linear = nn.Conv1d(values, latent_dim - 1, 1, bias=False)
        self.stem = nn.Conv1d(values, channels, 1)
        self.stack = residual_stack(channels, blocks, DILATIONS)
        self.head = nn.Conv1d(channels, sum(self.sizes), 1)
        assert self.head.bias is not None
        with torch.no_grad():  # starts close to the matrix
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.head.bias[-latent_dim:] = math.log(math.expm1(SIGMA_START - SIGMA_FLOOR))

    def forward(self, values: Float[Tensor, "b v t"]) -> tuple[Tensor, Tensor]:  # noqa: D102
        mu, raw = self.head(self.stack(self.stem(values / 2))).float().split(self.sizes, 1)
        return mu + self.linear(values).float(), SIGMA_FLOOR + F.softplus(raw)


class Predictor(nn.Module):
    """Latents to values of frames, whose level is set afterwards: a matrix plus residual blocks.

    It also gives the features that the last layer reads.
    """

    def __init__(self, values: int, channels: int, blocks: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(latent_dim - 1, values, 1, bias=False)
        self.stem = CircularConv(latent_dim, channels, 3)
        self.stack = residual_stack(channels, blocks, DILATIONS)
        self.head = nn.Conv1d(channels, values, 1)
        nn.init.zeros_(self.head.weight)  # starts as the matrix
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, z: Float[Tensor, "b c t"]) -> tuple[Tensor, Tensor]:  # noqa: D102
        features = self.stack(self.stem(z))
        values: Tensor = self.head(features).float() + self.linear(z[:, 1:]).float()
        return values, features


def shift_level(
    values: Float[Tensor, "b v frames"], shift: Float[Tensor, "b 1 frames"]
) -> Float[Tensor, "b v frames"]:
    """Values of frames that are louder by `shift` nepers; tonality does not depend on the level."""
    return torch.cat([values[:, :-BANDS] + shift, values[:, -BANDS:]], 1)


def limit(x: Tensor) -> Tensor:
    """Audio within full scale: nearly unchanged where quiet (1 % less at 0.72), at most 1."""
    x = x.clamp(-16, 16)  # whose eighth power is finite
    return (x * (1 + x.abs().pow(8)).pow(-1 / 8)).clamp(-1, 1)
