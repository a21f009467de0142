"""The latent VAE: the audio VAE's latents of a whole loop to `length` points, and back.

    (mu, log sigma) of the audio VAE, whitened -> patches -> residual blocks -> `length` posteriors
    `length` points -> residual blocks -> patches -> a Gaussian for every value of the trajectory

The network works at a resolution of sixteenths or a little finer: `steps` is the smallest multiple
of `length` that divides the frames and is at least the number of sixteenths in the loop. One matrix
reads all steps of a point, so a position inside a point is represented. Between points there are
circular convolutions, so rotating a loop by whole points rotates the points exactly. A single point
cannot rotate: it also encodes where the loop begins, and training shows it every loop from each of
its beats.

Two lengths differ in the number of points and in the two matrices between points and steps, whose
sizes follow. Capacity is `length * latent_dim` numbers per loop; all else is the same.

The points of one loop depend on each other, and independent draws from N(0, 1) would not. So loops
are sampled from a Gaussian over all points of a loop together, which is fitted to the training set
after the network is trained.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from techloop.grid import Grid
from techloop.models.base import Model
from techloop.models.layers import patchify, residual_stack, unpatchify
from techloop.models.sampling import sample_shard

SIGMA_FLOOR = 0.05
DILATIONS = (1, 2, 4)
MAX_NUMBERS = 8192  # per loop; the prior of so many takes 256 MB


class LatentVAE(Model):
    """The latent VAE of a grid.

    Args:
        grid: the loops' grid.
        audio_latent_dim: dimensions of the audio VAE.
        length: points per loop, any divisor of its frames.
        latent_dim: numbers per point.
        channels: width of the residual blocks.
        blocks: rounds of three residual blocks (dilations 1, 2, 4) in encoder and decoder each.

    Raises:
        ValueError: `length` does not divide the frames, or the points have too many numbers for
            the prior, which is a Gaussian over all of them.
    """

    mean: Tensor
    std: Tensor
    log_sigma_mean: Tensor
    log_sigma_std: Tensor
    prior_mean: Tensor
    prior_factor: Tensor

    def __init__(
        self,
        grid: Grid,
        *,
        audio_latent_dim: int,
        length: int,
        latent_dim: int,
        channels: int,
        blocks: int,
    ) -> None:
        super().__init__(
            grid,
            audio_latent_dim=audio_latent_dim,
            length=length,
            latent_dim=latent_dim,
            channels=channels,
            blocks=blocks,
        )
        grid.check_length(length)
        if length * latent_dim > MAX_NUMBERS:
            raise ValueError(
                f"{length} points of {latent_dim} numbers are {length * latent_dim} per loop; the "
                f"prior is a matrix of that size squared, so the limit is {MAX_NUMBERS}. Take a "
                "smaller length or a smaller latent_dim."
            )
        self.length, self.latent_dim = length, latent_dim
        self.steps = min(
            n for n in grid.lengths if n % length == 0 and n >= min(grid.steps, grid.frames)
        )
        self.patch = grid.frames // self.steps
        for name, value in (("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.full((audio_latent_dim, 1), value))
            self.register_buffer(f"log_sigma_{name}", torch.full((audio_latent_dim, 1), value))
        self.register_buffer("prior_mean", torch.zeros(latent_dim, length))
        self.register_buffer("prior_factor", torch.eye(latent_dim * length))
        steps_per_point = self.steps // length
        values = 2 * audio_latent_dim * self.patch
        self.embed = nn.Conv1d(values, channels, 1)
        self.encoder = residual_stack(channels, blocks, DILATIONS)
        self.to_points = nn.Conv1d(channels * steps_per_point, 2 * latent_dim, 1)
        self.from_points = nn.Conv1d(latent_dim, channels * steps_per_point, 1)
        self.decoder = residual_stack(channels, blocks, DILATIONS)
        self.unembed = nn.Conv1d(channels, values, 1)

    def whiten(self, mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The audio VAE's means and deviations on the scale of the training set's means."""
        return (mu - self.mean) / self.std, sigma / self.std

    def encode(
        self, mu: Float[Tensor, "b c frames"], sigma: Float[Tensor, "b c frames"]
    ) -> tuple[Float[Tensor, "b d length"], Float[Tensor, "b d length"]]:
        """Posterior mean and deviation of the points of loops, given the audio VAE's posteriors."""
        x = torch.cat(
            [(mu - self.mean) / self.std, (sigma.log() - self.log_sigma_mean) / self.log_sigma_std],
            1,
        )
        h = self.encoder(self.embed(patchify(x, self.patch)))
        mean, raw = self.to_points(patchify(h, self.steps // self.length)).float().chunk(2, 1)
        return mean, F.softplus(raw) + 1e-3

    def decode_whitened(
        self, points: Float[Tensor, "b d length"]
    ) -> tuple[Float[Tensor, "b c frames"], Float[Tensor, "b c frames"]]:
        """Mean and deviation of the predicted Gaussian, on the whitened scale."""
        h = unpatchify(self.from_points(points), self.steps // self.length)
        mu_hat, raw = unpatchify(self.unembed(self.decoder(h)), self.patch).float().chunk(2, 1)
        return mu_hat, F.softplus(raw) + SIGMA_FLOOR

    def decode(
        self, points: Float[Tensor, "b d length"]
    ) -> tuple[Float[Tensor, "b c frames"], Float[Tensor, "b c frames"]]:
        """Mean and deviation of the predicted Gaussian, in the audio VAE's units."""
        mu_hat, sigma_hat = self.decode_whitened(points)
        return mu_hat * self.std + self.mean, sigma_hat * self.std

    def sample_prior(self, noise: Float[Tensor, "b d length"]) -> Float[Tensor, "b d length"]:
        """Points of the fitted prior, given standard normal noise: a linear map of the noise.

        Before `fit_prior` the prior is N(0, 1), and this function the identity.
        """
        return self.prior_mean + (noise.flatten(1) @ self.prior_factor.T).view_as(noise)

    @torch.no_grad()
    def fit_prior(
        self, mean: Float[Tensor, "n d length"], std: Float[Tensor, "n d length"]
    ) -> None:
        """Set the prior to the Gaussian with the moments of the aggregate posterior.

        It is a Gaussian over all points of a loop together; its covariance over loops is
        Cov(mean) + diag(E std^2).

        Args:
            mean, std: posteriors of the training loops' points.

        References:
            Ghosh et al., From variational to deterministic autoencoders, 2020, section 4 (ex-post
            density estimation); Hoffman & Johnson, ELBO surgery, 2016, for the aggregate posterior.
        """
        points = mean.flatten(1).double()
        centred = points - points.mean(0)
        covariance = centred.T @ centred / len(points)
        covariance.diagonal().add_(std.flatten(1).double().square().mean(0))
        self.prior_mean.copy_(points.mean(0).view_as(self.prior_mean))
        self.prior_factor.copy_(torch.linalg.cholesky(covariance))

    def forward(
        self, mu: Tensor, sigma: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predicted Gaussian (whitened) from sampled points, and the points' posterior."""
        mean, std = self.encode(mu, sigma)
        return *self.decode_whitened(sample_shard(mean, std, generator)), mean, std
