"""The adversary of the audio VAE's latents: trained beside it, not saved."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from techloop.models.audio_vae import AudioVAE, Reconstruction
from techloop.models.sampling import draw_shard, sample_shard

WIDTH = 128


class LatentDiscriminator(nn.Module):
    """An audio VAE, and a discriminator of its latent frames against draws of the prior.

    One loss trains both. The gradient that improves the discriminator changes its sign on the way
    into the encoder, so the encoder learns to make frames that look like draws of the prior.

    References:
        Tolstikhin et al., Wasserstein Auto-Encoders, 2018, algorithm 1 (WAE-GAN), in its minimax
        form; Ganin et al., Domain-adversarial training of neural networks, 2016, for the reversal.
    """

    def __init__(self, vae: AudioVAE) -> None:
        super().__init__()
        self.vae = vae
        self.discriminator = nn.Sequential(
            nn.Linear(vae.latent_dim, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, 1),
        )

    def forward(
        self, x: Float[Tensor, "b samples"], generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """The outputs of `AudioVAE.forward`, and the discriminator's cross-entropy in nats.

        The cross-entropy is the mean of that of the prior's frames and that of the encoder's, both
        of this process's share of the batch: log 2 where the two cannot be told apart.
        """
        outputs: Reconstruction = self.vae(x, generator)
        mu = outputs.mu
        frames = sample_shard(mu, outputs.sigma, generator).mT.flatten(0, 1)
        frames = GradientReversal.apply(frames)  # type: ignore[no-untyped-call]  # torch's
        prior = draw_shard(torch.randn, size=mu.shape, generator=generator).mT.flatten(0, 1)
        logits = self.discriminator(torch.cat([prior, frames]))[:, 0].float()
        truth = torch.cat(
            [torch.ones_like(logits[: len(prior)]), torch.zeros_like(logits[len(prior) :])]
        )
        return *outputs, F.binary_cross_entropy_with_logits(logits, truth)


class GradientReversal(torch.autograd.Function):
    """The identity, whose gradient has the other sign."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:  # noqa: D102
        return x.view_as(x)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:  # noqa: D102
        return -gradients[0]
