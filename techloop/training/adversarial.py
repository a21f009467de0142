"""Adversarial objectives: one function per equation, on maps of scores, not reduced.

A discriminator gives high scores to what it takes for real. Its loss is a sum over real and decoded
loops; the generator's is on decoded ones alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

FEATURE_FLOOR = 1e-4  # of the mean size of a layer's output that differences are relative to


class Objective(NamedTuple):
    """The two losses of a game.

    Attributes:
        discriminator: `(scores of real loops, scores of decoded ones)` to its loss.
        generator: scores of decoded loops to its loss.
        boundary: the score in the middle between real and decoded.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    boundary: float


def log_loss(real: Float[Tensor, "*n"], fake: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """-log D(real) - log(1 - D(fake)), D the logistic function of the score; 2 log 2 at chance.

    References:
        Goodfellow et al., Generative adversarial nets, 2014, equation 1.
    """
    return F.softplus(-real) + F.softplus(fake)


def minimax_generator_loss(fake: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log(1 - D(fake)): minus what the discriminator minimises. It is flat where D is sure.

    References:
        Goodfellow et al., Generative adversarial nets, 2014, equation 1.
    """
    return -F.softplus(fake)


def non_saturating_generator_loss(fake: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """-log D(fake): steepest where D is sure that it is decoded.

    References:
        Goodfellow et al., Generative adversarial nets, 2014, end of section 3.
    """
    return F.softplus(-fake)


def hinge_loss(real: Float[Tensor, "*n"], fake: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """max(0, 1 - real) + max(0, 1 + fake); 2 for scores of 0.

    References:
        Lim & Ye, Geometric GAN, 2017; Miyato et al., Spectral normalization, 2018, equation 16.
    """
    return F.relu(1 - real) + F.relu(1 + fake)


def hinge_generator_loss(fake: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """-fake.

    References:
        Miyato et al., Spectral normalization, 2018, equation 17.
    """
    return -fake


def least_squares_loss(real: Float[Tensor, "*n"], fake: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """(real - 1)^2 / 2 + fake^2 / 2: real loops have 1, decoded ones 0.

    References:
        Mao et al., Least squares generative adversarial networks, 2017, equation 9.
    """
    return ((real - 1).square() + fake.square()) / 2


def least_squares_generator_loss(fake: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """(fake - 1)^2 / 2.

    References:
        Mao et al., Least squares generative adversarial networks, 2017, equation 9.
    """
    return (fake - 1).square() / 2


def objective(name: str) -> Objective:
    """The losses of a cell's `objective`.

    Raises:
        ValueError: an unknown name.
    """
    match name:
        case "classical":
            return Objective(log_loss, minimax_generator_loss, 0.0)
        case "non-saturating":
            return Objective(log_loss, non_saturating_generator_loss, 0.0)
        case "hinge":
            return Objective(hinge_loss, hinge_generator_loss, 0.0)
        case "least-squares":
            return Objective(least_squares_loss, least_squares_generator_loss, 0.5)
        case _:
            raise ValueError(
                f"objective must be classical, non-saturating, hinge or least-squares, got {name!r}"
            )


def accuracy(
    real: Float[Tensor, "*n"], fake: Float[Tensor, "*n"], boundary: float
) -> Float[Tensor, "*n"]:
    """Share of right scores among the two of each place: 1/2 in the mean at chance, 1 if perfect.

    A score on the boundary counts half.
    """
    right = torch.sign(real - boundary) - torch.sign(fake - boundary)
    return (right + 2) / 4


def feature_distance(
    sizes: Float[Tensor, "b layers"], differences: Float[Tensor, "b layers"]
) -> Float[Tensor, ""]:
    """Feature matching: E|f(real) - f(fake)| / E|f(real)| of each layer, mean over layers.

    Args:
        sizes: mean |f(real)| of each loop's output of each layer.
        differences: mean |f(real) - f(fake)| of the same.

    References:
        Larsen et al., Autoencoding beyond pixels using a learned similarity metric, 2016, for the
        idea; Kumar et al., MelGAN, 2019, equation 3, without the division, which RAVE v2 has
        (published code of Caillon & Esling).
    """
    return (differences.mean(0) / sizes.mean(0).clamp_min(FEATURE_FLOOR)).mean()
