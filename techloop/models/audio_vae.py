"""The audio VAE: loops to Gaussian latents at the hop rate, and back.

    loop -> log amplitudes at two windows -> (level of each frame, the rest) -> (mu, sigma)
    z -> the rest at its level -> log amplitudes -> phases -> loop

The network sees and predicts amplitudes only (`techloop.audio.vocoder` turns them into sound), so
the latents carry no phase. The first latent is by definition the K-weighted level of the frame: the
decoded sound is exactly that loud, however unlike the training data it is. The other latents do not
depend on the level, except near the floor of log amplitudes. They start as a linear codec of the
training set's principal components; residual blocks learn what the linear codec cannot express.
Everything is circular and convolutional: `decode(roll(z, k)) == roll(decode(z), k * hop)`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from techloop.audio.spectral import k_weights
from techloop.audio.vocoder import (
    LONG,
    SHORT,
    fine_structure,
    log_amplitudes,
    split_windows,
    synthesise,
    values_per_frame,
)
from techloop.grid import Grid
from techloop.models.base import Model
from techloop.models.layers import CircularConv, residual_stack
from techloop.models.sampling import sample_shard

SIGMA_FLOOR = 0.05  # keeps some noise where no loss asks for it (wae)
SIGMA_START = 0.5  # gives a rate near that of the trained model
DILATIONS = (1, 3, 9)
# Gains of fine structure when decoding: a prediction is a mean, so its contrast is too low. Valleys
# between partials can be deepened more than peaks can be raised, since the peaks carry the level.
VALLEYS, PEAKS = 4.0, 2.0
PCA_LONG, PCA_FINE = 0.5, 2.0  # weights of the long window and of its fine structure in the PCA


class AudioVAE(Model):
    """The audio VAE of a grid.

    Args:
        grid: sample rate, hop and length of the loops it will be trained on.
        latent_dim: numbers per latent frame; the first is its level; at least two.
        channels: width of the residual blocks.
        blocks: rounds of three residual blocks (dilations 1, 3, 9) in encoder and decoder each.
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
        self.decoder = Decoder(values, channels, blocks, latent_dim)

    def encode(
        self, x: Float[Tensor, "b samples"]
    ) -> tuple[Float[Tensor, "b c frames"], Float[Tensor, "b c frames"]]:
        """Posterior mean and standard deviation of any circle of whole hops, in [-1, 1]."""
        return self.posterior(log_amplitudes(x, self.grid.hop))

    def decode(self, z: Float[Tensor, "b c frames"]) -> Float[Tensor, "b samples"]:
        """Audio of latents, for any number of frames; within full scale."""
        return limit(synthesise(sharpen(self.predict(z))))

    def posterior(
        self, spectrum: Float[Tensor, "b v frames"]
    ) -> tuple[Float[Tensor, "b c frames"], Float[Tensor, "b c frames"]]:
        """Posterior mean and standard deviation, given log amplitudes."""
        level = self.levels(spectrum) - self.level_mean
        mu, sigma = self.encoder(spectrum - self.mean - level)
        return torch.cat([level / self.level_std, mu], 1), sigma

    def predict(self, z: Float[Tensor, "b c frames"]) -> Float[Tensor, "b v frames"]:
        """Log amplitudes of latents, before their contrast is restored.

        No value exceeds the log amplitude of a constant at full scale in the long window, however
        extreme the latents are.
        """
        spectrum = self.decoder(z) + self.mean
        level = self.level_mean + self.level_std * z[:, :1]
        spectrum = spectrum + (level - self.levels(spectrum))
        ceiling = math.log(LONG * self.grid.hop / 2)
        return ceiling - F.softplus(ceiling - spectrum, beta=4)

    def levels(self, spectrum: Float[Tensor, "b v frames"]) -> Float[Tensor, "b 1 frames"]:
        """K-weighted levels of frames in the short window, in nepers (8.7 dB), unscaled."""
        power = 2 * split_windows(spectrum)[1] + self.log_k_weights
        return power.logsumexp(1, keepdim=True) / 2

    def forward(
        self, spectrum: Float[Tensor, "b v frames"], generator: torch.Generator
    ) -> tuple[
        Float[Tensor, "b v frames"], Float[Tensor, "b c frames"], Float[Tensor, "b c frames"]
    ]:
        """Log amplitudes of a sample of the posterior, and the posterior's mean and deviation."""
        mu, sigma = self.posterior(spectrum)
        return self.predict(sample_shard(mu, sigma, generator)), mu, sigma

    @torch.no_grad()
    def init_from_pca(self, spectrum: Float[Tensor, "n v frames"]) -> None:
        """Set the weights to a linear codec of some log amplitudes: level and principal components.

        Fine structure counts threefold in the components. By its variance alone it would get hardly
        any of them, and the network takes long to learn pitch without.

        Args:
            spectrum: log amplitudes of loops of the training set.
        """
        levels = self.levels(spectrum)
        self.level_mean.copy_(levels.mean())
        self.level_std.copy_(levels.std().clamp_min(1e-2))
        self.mean.copy_(spectrum.double().mean((0, 2))[:, None])
        frames = (spectrum - levels).mT.flatten(0, 1).double()
        weighting = torch.eye(len(self.mean), dtype=torch.double, device=frames.device)
        fine = fine_structure(weighting[None])[0]
        weighting[: len(fine)] = PCA_LONG * (weighting[: len(fine)] + PCA_FINE * fine)
        variance, directions = torch.linalg.eigh(weighting @ torch.cov(frames.T) @ weighting.T)
        first = 1 - self.latent_dim
        scale = variance[first:].flip(0).clamp_min(1e-6).sqrt()
        directions = directions[:, first:].flip(1)
        self.encoder.linear.weight.copy_(((directions / scale).T @ weighting)[..., None])
        self.decoder.linear.weight.copy_(
            torch.linalg.solve(weighting, directions * scale)[..., None]
        )


class Encoder(nn.Module):
    """Log amplitudes to a posterior: a matrix plus residual blocks."""

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

    def forward(self, spectrum: Float[Tensor, "b v t"]) -> tuple[Tensor, Tensor]:  # noqa: D102
        mu, raw = self.head(self.stack(self.stem(spectrum / 2))).float().split(self.sizes, 1)
        return mu + self.linear(spectrum).float(), SIGMA_FLOOR + F.softplus(raw)


class Decoder(nn.Module):
    """Latents to log amplitudes, whose level is set afterwards: a matrix plus residual blocks."""

    def __init__(self, values: int, channels: int, blocks: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(latent_dim - 1, values, 1, bias=False)
        self.stem = CircularConv(latent_dim, channels, 3)
        self.stack = residual_stack(channels, blocks, DILATIONS)
        self.head = nn.Conv1d(channels, values, 1)
        nn.init.zeros_(self.head.weight)  # starts as the matrix
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, z: Float[Tensor, "b c t"]) -> Float[Tensor, "b v t"]:  # noqa: D102
        spectrum: Tensor = self.head(self.stack(self.stem(z))).float()
        spectrum = spectrum + self.linear(z[:, 1:]).float()
        return spectrum


def sharpen(spectrum: Float[Tensor, "b v frames"]) -> Float[Tensor, "b v frames"]:
    """Log amplitudes with the contrast of their fine structure restored."""
    long, short = split_windows(spectrum)
    fine = fine_structure(spectrum)
    sharper = long + (VALLEYS - 1) * fine.clamp_max(0) + (PEAKS - 1) * fine.clamp_min(0)
    return torch.cat([sharper, short], 1)


def limit(x: Tensor) -> Tensor:
    """Audio within full scale: nearly unchanged where quiet (1 % less at 0.72), at most 1."""
    x = x.clamp(-16, 16)  # whose eighth power is finite
    return (x * (1 + x.abs().pow(8)).pow(-1 / 8)).clamp(-1, 1)
