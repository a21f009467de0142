"""VAE 2: whole loops of VAE 1's latents to `length` points, down to one, and back.

    (mu, log sigma) of VAE 1, whitened -> patches -> residual blocks -> `length` posteriors
    `length` points -> residual blocks -> patches -> a Gaussian for every value of the trajectory

It works at a resolution of sixteenths or a little finer: `steps` is the smallest multiple of
`length` that divides the frames and is no less than the sixteenths of the loop. All steps of a
point are read by one matrix, so that what is inside a point has a position, and what is between
points is convolved around the circle: rotation by whole points rotates the points exactly. A
single point has nowhere to rotate to: it holds the loop as it lies, and where it begins is part of
what it says (training shows it every loop from each of its beats).

What differs between two lengths is the number of points, and the two matrices between them and the
steps, whose size follows: capacity is `length * latent_dim` numbers a loop, all else the same.

Points of one loop belong together, which independent draws from N(0, 1) would not know. So the
prior that loops are drawn from is the Gaussian of all points of a loop together, found from the
training set once the network is trained.
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
MOST_NUMBERS = 8192  # a loop; the prior of as many takes 256 MB


class LatentVAE(Model):
    """The latent VAE of a grid.

    Args:
        grid: the loops' grid.
        audio_latent_dim: dimensions of VAE 1.
        length: points a loop, any divisor of its frames.
        latent_dim: numbers a point.
        channels: width.
        blocks: rounds of three residual blocks (dilations 1, 2, 4) on either side.

    Raises:
        ValueError: `length` does not divide the frames, or its points are too many numbers for the
            prior, which is a Gaussian of them all.
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
        if length * latent_dim > MOST_NUMBERS:
            raise ValueError(
                f"{length} points of {latent_dim} numbers are {length * latent_dim} a loop, and "
                f"the prior of them together is a matrix of as many squared: {MOST_NUMBERS} are "
                "the limit. Take a smaller length, or a smaller latent_dim."
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
        inside = self.steps // length
        values = 2 * audio_latent_dim * self.patch
        self.embed = nn.Conv1d(values, channels, 1)
        self.encoder = residual_stack(channels, blocks, DILATIONS)
        self.to_points = nn.Conv1d(channels * inside, 2 * latent_dim, 1)
        self.from_points = nn.Conv1d(latent_dim, channels * inside, 1)
        self.decoder = residual_stack(channels, blocks, DILATIONS)
        self.unembed = nn.Conv1d(channels, values, 1)

    def whiten(self, mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """VAE 1's means and deviations on the scale of the training set's means."""
        return (mu - self.mean) / self.std, sigma / self.std

    def encode(
        self, mu: Float[Tensor, "b c frames"], sigma: Float[Tensor, "b c frames"]
    ) -> tuple[Float[Tensor, "b d length"], Float[Tensor, "b d length"]]:
        """Posterior mean and deviation of the points of loops, given VAE 1's posteriors."""
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
        """Mean and deviation of the predicted Gaussian, in VAE 1's units."""
        mu_hat, sigma_hat = self.decode_whitened(points)
        return mu_hat * self.std + self.mean, sigma_hat * self.std

    def sample_prior(self, noise: Float[Tensor, "b d length"]) -> Float[Tensor, "b d length"]:
        """Points of the learned prior, given standard normal ones; linear.

        Before `fit_prior` it is N(0, 1), and this the identity.
        """
        return self.prior_mean + (noise.flatten(1) @ self.prior_factor.T).view_as(noise)

    @torch.no_grad()
    def fit_prior(
        self, mean: Float[Tensor, "n d length"], std: Float[Tensor, "n d length"]
    ) -> None:
        """Make the prior the Gaussian with the moments of the aggregate posterior.

        Over loops, of all points of a loop together; the covariance is Cov(mean) + diag(E std^2).

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
        self, mu: Tensor, sigma: Tensor, draw: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predicted Gaussian (whitened) from sampled points, and the points' posterior."""
        mean, std = self.encode(mu, sigma)
        return *self.decode_whitened(sample_shard(mean, std, draw)), mean, std
