"""Losses and the numbers made of them: one function per equation, its metric beside it."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from techloop.audio.frames import LOG_FLOOR, fine_structure, split_values
from techloop.audio.spectral import circular_stft, whole_hop
from techloop.metric import Metric

WINDOWS = (2048, 1024, 512, 256, 128)
ACTIVE_VARIANCE = 0.01
# Weights of terms beside the log terms (benchmarks/README.md).
LINEAR_WEIGHT, FINE_WEIGHT, TONALITY_WEIGHT = 2.5, 8.0, 12.0
UPPER_WEIGHT = 0.5  # of fine structure in the upper half of the band
MMD_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

LOG_DISTANCE = Metric("log_distance", "log distance", better="lower")
LINEAR_DISTANCE = Metric("linear_distance", "linear distance", better="lower")
NOISE_DISTANCE = Metric("noise_distance", "log distance of two draws of the noise")
FRAME_DISTANCE = Metric("frame_distance", "distance of predicted frames", better="lower")
FINE_DISTANCE = Metric("fine_distance", "fine distance", better="lower")
TONALITY_DISTANCE = Metric("tonality_distance", "tonality distance", better="lower")
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
    pairs = [_amplitudes(x, y, window) for window in windows]
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


class FrameDistance(NamedTuple):
    """How far predicted frames are from a target, in four terms.

    Attributes:
        log: `log_distance` of the short window, plus half of that of the long window.
        linear: the same of `linear_distance`.
        fine: mean squared difference of the fine structure of the long window, which carries pitch
            and hardly counts in the other terms; the lower half of the band counts twice. It is
            squared because the absolute difference is smallest for a flat prediction: partials are
            few among many bins.
        tonality: mean squared difference of the tonality of bands.
    """

    log: Float[Tensor, ""]
    linear: Float[Tensor, ""]
    fine: Float[Tensor, ""]
    tonality: Float[Tensor, ""]

    @property
    def loss(self) -> Float[Tensor, ""]:
        """Their weighted sum."""
        return (
            self.log
            + LINEAR_WEIGHT * self.linear
            + FINE_WEIGHT * self.fine
            + TONALITY_WEIGHT * self.tonality
        )


def frame_distance(
    target: Float[Tensor, "b v frames"], predicted: Float[Tensor, "b v frames"]
) -> FrameDistance:
    """Distances of predicted values of frames (see `frames.frame_values`) to a target."""
    (long, short, tonal), (long_hat, short_hat, tonal_hat) = map(split_values, (target, predicted))
    pairs = ((short, short_hat, 1.0), (long, long_hat, 0.5))
    log = [weight * (a - b).abs().mean() for a, b, weight in pairs]
    linear = [weight * linear_distance(a.exp(), b.exp()) for a, b, weight in pairs]
    fine = fine_structure(long - long_hat).square()
    half = fine.shape[1] // 2
    return FrameDistance(
        log[0] + log[1],
        linear[0] + linear[1],
        fine[:, :half].mean() + UPPER_WEIGHT * fine[:, half:].mean(),
        (tonal - tonal_hat).square().mean(),
    )


class SoundDistance(NamedTuple):
    """How far decoded loops are from their originals, where the decoder plays noise.

    Attributes:
        log, linear: `spectral_distance` of one draw of the noise.
        noise: `log` of two draws to one another.
    """

    log: Float[Tensor, ""]
    linear: Float[Tensor, ""]
    noise: Float[Tensor, ""]

    @property
    def loss(self) -> Float[Tensor, ""]:
        """`log` - `noise` / 2, plus the weighted linear term.

        Without the second part the decoder would play no noise: a steady sound at its median is
        nearer to noise than another noise is.

        References:
            Gritsenko et al., A spectral energy distance for parallel speech synthesis, 2020,
            equation 5, halved.
        """
        return self.log - self.noise / 2 + LINEAR_WEIGHT * self.linear


def sound_distance(
    x: Float[Tensor, "b samples"],
    first: Float[Tensor, "b samples"],
    second: Float[Tensor, "b samples"],
) -> SoundDistance:
    """The distance of loops `x` to what is decoded from them with two draws of the noise."""
    return SoundDistance(*spectral_distance(x, first), log_distances(first, second))


def log_distances(
    x: Float[Tensor, "b samples"], y: Float[Tensor, "b samples"], windows: Sequence[int] = WINDOWS
) -> Float[Tensor, ""]:
    """The first term of `spectral_distance` alone."""
    return torch.stack([log_distance(*_amplitudes(x, y, w)) for w in windows]).mean()


def _amplitudes(x: Tensor, y: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """|STFT| of both, with a gradient that stays finite at zero."""
    hop = whole_hop(x.shape[-1], window)
    a, b = (
        torch.view_as_real(circular_stft(v, window, hop)).square().sum(-1).add(1e-12).sqrt()
        for v in (x, y)
    )
    return a, b


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
