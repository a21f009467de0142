"""Losses and the numbers made of them: one function per equation, its metric beside it."""

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from techloop.audio.frames import LOG_FLOOR
from techloop.audio.spectral import circular_stft, whole_hop
from techloop.metric import Metric

WINDOWS = (2048, 1024, 512, 256, 128)
ACTIVE_VARIANCE = 0.01
MMD_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

LOG_DISTANCE = Metric("log_distance", "log distance", better="lower")
LINEAR_DISTANCE = Metric("linear_distance", "linear distance", better="lower")
# Rates of cells with different regularisers are not comparable, so neither direction is better.
KL_PER_FRAME = Metric("kl_nats_per_frame", "KL to the prior", "nats/frame")
BITS_PER_SECOND = Metric("bits_per_second", "rate", "bit/s")
ACTIVE_UNITS = Metric("active_units", "active units", better="higher")
MMD = Metric("mmd", "MMD to the prior", better="lower")


def log_distance(
    a: Float[Tensor, "b bins frames"], b: Float[Tensor, "b bins frames"]
) -> Float[Tensor, ""]:
    """Mean |log(a + eps) - log(b + eps)| of STFT amplitudes, eps = 1e-3.

    References:
        Défossez et al., SING, 2018, equation 5, as a mean; equation 1 of Demerlé & Caillon, A
        hierarchical approach to techno loop generation.
    """
    return ((a + LOG_FLOOR).log() - (b + LOG_FLOOR).log()).abs().mean()


def linear_distance(
    a: Float[Tensor, "b bins frames"], b: Float[Tensor, "b bins frames"]
) -> Float[Tensor, ""]:
    """||a - b|| / ||a|| of the amplitudes of a batch; for a silent `a`, ||a|| is a floor.

    References:
        Caillon & Esling, RAVE, 2021, equation 4 (spectral convergence), without the square.
    """
    floor = LOG_FLOOR * math.sqrt(a.numel())
    distance: Tensor = (a - b).norm() / a.norm().clamp_min(floor)
    return distance


def spectral_distance(
    x: Float[Tensor, "b samples"], y: Float[Tensor, "b samples"], windows: Sequence[int] = WINDOWS
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """`log_distance` and `linear_distance` of `y` to the reference `x`, means over windows.

    The STFTs are circular, with a quarter of the window as hop. One window gives the formula of
    Demerlé & Caillon, A hierarchical approach to techno loop generation.
    """
    pairs = [(amplitudes(x, window), amplitudes(y, window)) for window in windows]
    log, linear = (
        torch.stack([distance(*pair) for pair in pairs]).mean()
        for distance in (log_distance, linear_distance)
    )
    return log, linear


def mean_spectral_distance(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Both terms of `spectral_distance` over batches of (reference, other): means over loops.

    Args:
        pairs: `(b, samples)` each; b may differ from pair to pair.

    Raises:
        ValueError: `pairs` is empty.
    """
    terms, loops = torch.zeros(2), 0
    for x, y in pairs:
        terms += torch.stack(spectral_distance(x, y)).cpu() * len(x)
        loops += len(x)
    if not loops:
        raise ValueError("got no loops to compute the mean spectral distance of")
    log_term, linear_term = (terms / loops).tolist()
    return log_term, linear_term


def amplitudes(x: Float[Tensor, "b samples"], window: int) -> Float[Tensor, "b bins frames"]:
    """|STFT| with a hop of a quarter of the window, and a gradient that stays finite at zero."""
    spectrum = circular_stft(x, window, whole_hop(x.shape[-1], window))
    return torch.view_as_real(spectrum).square().sum(-1).add(1e-12).sqrt()


def gaussian_kl(
    mu: Float[Tensor, "b c t"], sigma: Float[Tensor, "b c t"]
) -> Float[Tensor, "b c t"]:
    """KL(N(mu, sigma^2) || N(0, 1)) of each latent value, in nats.

    Not reduced: sum over `c` for the usual objective; average over `b` and `t` for the rate of
    each dimension.

    References:
        Kingma & Welling, Auto-Encoding Variational Bayes, 2014, appendix B.
    """
    return 0.5 * (mu.square() + sigma.square() - 1) - sigma.log()


def gaussian_kl_between(
    mu: Float[Tensor, "b c t"],
    sigma: Float[Tensor, "b c t"],
    mu_hat: Float[Tensor, "b c t"],
    sigma_hat: Float[Tensor, "b c t"],
) -> Float[Tensor, "b c t"]:
    """KL(N(mu, sigma^2) || N(mu_hat, sigma_hat^2)) of each value, in nats."""
    ratio = sigma / sigma_hat
    return 0.5 * (ratio.square() - 1 + ((mu - mu_hat) / sigma_hat).square()) - ratio.log()


def gaussian_nll(
    x: Float[Tensor, "b c t"], mu_hat: Float[Tensor, "b c t"], sigma_hat: Float[Tensor, "b c t"]
) -> Float[Tensor, "b c t"]:
    """-log N(x; mu_hat, sigma_hat^2) of each value, in nats."""
    return 0.5 * (((x - mu_hat) / sigma_hat).square() + math.log(2 * math.pi)) + sigma_hat.log()


def gaussian_cross_entropy(
    mu: Float[Tensor, "b c t"],
    sigma: Float[Tensor, "b c t"],
    mu_hat: Float[Tensor, "b c t"],
    sigma_hat: Float[Tensor, "b c t"],
) -> Float[Tensor, "b c t"]:
    """-E log N(z; mu_hat, sigma_hat^2) of z ~ N(mu, sigma^2), of each value, in nats.

    It equals the expectation of `gaussian_nll` over samples, and `gaussian_kl_between` plus the
    entropy of N(mu, sigma^2), so it compares predictions of different objectives.
    """
    return gaussian_nll(mu, mu_hat, sigma_hat) + 0.5 * (sigma / sigma_hat).square()


def rate(kl: Float[Tensor, "b c t"], free_nats: float = 0.0) -> Float[Tensor, ""]:
    """Nats per point of a representation: the mean KL of each dimension, summed over dimensions.

    Args:
        free_nats: lower bound of each dimension's mean KL (free bits); below it there is no
            gradient.

    References:
        Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, 2016,
        equation 15.
    """
    return kl.mean((0, 2)).clamp_min(free_nats).sum()


def penalty_share(seen: int, warmup_loops: int) -> float:
    """Share of a penalty's weight, which grows linearly from 0 to 1 over the first loops seen.

    Args:
        seen: loops seen so far.
        warmup_loops: after so many the share is 1; with 0 it always is.
    """
    return min(1.0, seen / warmup_loops) if warmup_loops else 1.0


def mmd(z: Float[Tensor, "n c"], prior: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """Unbiased squared maximum mean discrepancy between two samples of equal size.

    The kernel is a sum over seven scales s of the inverse multiquadratic C / (C + |a - b|^2) with
    C = 2 c s: 2 c is the expected squared distance of two draws of a standard normal. The value is
    near zero, sometimes below it, where both samples have the same distribution.

    References:
        Tolstikhin et al., Wasserstein Auto-Encoders, 2018, algorithm 2 and section 4.
    """
    n, c = z.shape

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)
        return torch.stack([2 * c * s / (2 * c * s + squared) for s in MMD_SCALES]).sum(0)

    def off_diagonal_mean(k: Tensor) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

    within = off_diagonal_mean(kernel(z, z)) + off_diagonal_mean(kernel(prior, prior))
    return within - 2 * kernel(z, prior).mean()


def active_units(mu: Float[Tensor, "b c t"]) -> int:
    """Dimensions whose posterior mean varies over the data (variance above `ACTIVE_VARIANCE`).

    References:
        Burda et al., Importance Weighted Autoencoders, 2016, section 5.2.
    """
    return int((mu.var((0, 2)) > ACTIVE_VARIANCE).sum())
