"""How far a decoder is from its originals: in what it predicts of frames, and in what it plays."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from techloop.audio.frames import fine_structure, split_values
from techloop.metric import Metric
from techloop.training.losses import WINDOWS, amplitudes, linear_distance, log_distance

# Weights of terms beside the log terms (benchmarks/README.md).
LINEAR_WEIGHT, FINE_WEIGHT, TONALITY_WEIGHT = 2.5, 8.0, 12.0
UPPER_WEIGHT = 0.5  # of fine structure in the upper half of the band

NOISE_DISTANCE = Metric("noise_distance", "log distance of two draws of the noise")
FRAME_DISTANCE = Metric("frame_distance", "distance of predicted frames", better="lower")
FINE_DISTANCE = Metric("fine_distance", "fine distance", better="lower")
TONALITY_DISTANCE = Metric("tonality_distance", "tonality distance", better="lower")


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
    terms = []
    for window in WINDOWS:
        a, b, c = (amplitudes(v, window) for v in (x, first, second))
        terms.append(torch.stack([log_distance(a, b), linear_distance(a, b), log_distance(b, c)]))
    return SoundDistance(*torch.stack(terms).mean(0))
