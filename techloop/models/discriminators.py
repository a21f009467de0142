"""Adversaries of the VAEs, trained beside them and not kept."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from techloop.models.audio_vae import AudioVAE
from techloop.models.sampling import draw_shard, sample_shard

WIDTH = 128


class LatentDiscriminator(nn.Module):
    """An audio VAE and a discriminator that tells its latent frames from draws of the prior.

    One loss trains both: the gradient that improves the discriminator is turned around on its way
    into the encoder, which so learns to be mistaken for the prior.

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
        self, spectrum: Float[Tensor, "b v frames"], draw: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, ""]]:
        """What the VAE gives (see `AudioVAE.forward`), and the discriminator's cross-entropy.

        Of this process's share of the batch.

        Half that of the prior's frames plus half that of the encoder's, in nats: log 2 where it
        cannot tell them apart.
        """
        predicted, mu, sigma = self.vae(spectrum, draw)
        frames = GradientReversal.apply(sample_shard(mu, sigma, draw).mT.flatten(0, 1))
        prior = draw_shard(torch.randn, size=mu.shape, draw=draw).mT.flatten(0, 1)
        told = self.discriminator(torch.cat([prior, frames]))[:, 0].float()
        truth = torch.cat(
            [torch.ones_like(told[: len(prior)]), torch.zeros_like(told[len(prior) :])]
        )
        return predicted, mu, sigma, F.binary_cross_entropy_with_logits(told, truth)


class GradientReversal(torch.autograd.Function):
    """The identity, whose gradient has the other sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]
