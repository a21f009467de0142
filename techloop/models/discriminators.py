"""Discriminators of loops: what tells a decoded loop from a real one, in training only.

Four kinds, each a family of small convolutional networks. A network gives a map of scores (high:
real) and the outputs of its layers. `scale`, `period` and `stft` follow the papers that they name,
in fewer layers and at far smaller widths, for two CPU cores; `frame` is ours. Every width is an
argument.

Time wraps: the waveform is a circle in all of them. Rotating a loop by `stride` samples rotates the
maps by one step, if the loop is a whole number of strides. If it is not, the circle is continued
until it is, so that some samples at its beginning are seen twice (`fill`).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from techloop.audio.spectral import circular_stft, whole_hop, wrap

# About an eighth of the papers' widths: 1.2 million weights in all four kinds.
SCALE_CHANNELS = (4, 16, 64, 128, 64, 64)
PERIODS, PERIOD_CHANNELS = (2, 3, 5, 7, 11), (8, 16, 64, 128)
STFT_WINDOWS, STFT_CHANNELS = (2048, 1024, 512, 256), (8, 16, 32)
FRAME_WINDOWS, FRAME_CHANNELS = (2048, 512), 192

AMPLITUDE_FLOOR = 1e-3  # of the STFT, unscaled: as in the log distance
COMPRESSION = 0.3  # exponent of amplitudes beside phases


class Judgement(NamedTuple):
    """What one network says of a batch.

    Attributes:
        score: `(b, ...)`, high where it takes the loop for real.
        features: outputs of its layers, each `(b, ...)`.
    """

    score: Tensor
    features: list[Tensor]


class Discriminators(nn.Module):
    """Some kinds of discriminators together, at their default sizes.

    Args:
        kinds: of `scale`, `period`, `stft` and `frame`.

    Raises:
        ValueError: no kind, one twice, or an unknown one.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__()
        families = {
            "scale": MultiScaleDiscriminator,
            "period": MultiPeriodDiscriminator,
            "stft": MultiResolutionDiscriminator,
            "frame": FrameDiscriminator,
        }
        if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(families):
            raise ValueError(
                f"discriminators must be one or more of {', '.join(families)}, each once; "
                f"got {', '.join(kinds) or 'none'}"
            )
        self.families = nn.ModuleDict({kind: families[kind]() for kind in kinds})

    def forward(self, x: Float[Tensor, "b samples"]) -> list[Judgement]:
        """The judgement of every network."""
        return [judgement for family in self.families.values() for judgement in family(x)]


class MultiScaleDiscriminator(nn.Module):
    """Waveforms at their own rate, a half and a quarter of it.

    Each network: a convolution of 15 taps, then grouped ones of 41 taps and stride 4, each group
    reading four channels, then 5 taps, then the score from 3 taps.

    Args:
        channels: of all layers but the last, four of them strided; the paper's are 16, 64, 256,
            1024, 1024, 1024.
        scales: how many; each halves the rate by average pooling over 4 samples.

    References:
        Kumar et al., MelGAN, 2019, section 2.2 and appendix A, table 4.
    """

    def __init__(self, channels: Sequence[int] = SCALE_CHANNELS, scales: int = 3) -> None:
        super().__init__()
        self.stride = 4 ** (len(channels) - 2) * 2 ** (scales - 1)
        sizes = list(pairwise(channels[:-1]))
        self.networks = nn.ModuleList(
            Network(
                StridedConv(1, channels[0], 15),
                *(StridedConv(a, b, 41, 4, groups=max(1, a // 4)) for a, b in sizes),
                StridedConv(channels[-2], channels[-1], 5),
                StridedConv(channels[-1], 1, 3),
            )
            for _ in range(scales)
        )

    def forward(self, x: Float[Tensor, "b samples"]) -> list[Judgement]:  # noqa: D102
        h, judgements = fill(x, self.stride)[:, None], []
        for network in self.networks:
            judgements.append(network(h))
            h = F.avg_pool1d(wrap(h, 1, 1), 4, 2)
        return judgements


class MultiPeriodDiscriminator(nn.Module):
    """Every p-th sample at a time: a loop in rows of p samples, its columns read independently.

    Each network: convolutions of 5 rows and stride 3 (the last has stride 1), then the score from
    3 rows. All columns share the weights, so a column is an item of the
    batch.

    Args:
        channels: of all layers but the last; the paper's are 32, 128, 512, 1024, 1024.
        periods: p of each network.

    References:
        Kong et al., HiFi-GAN, 2020, section 2.3 and its published code.
    """

    def __init__(
        self, channels: Sequence[int] = PERIOD_CHANNELS, periods: Sequence[int] = PERIODS
    ) -> None:
        super().__init__()
        self.periods, self.rows = tuple(periods), 3 ** (len(channels) - 1)
        sizes = list(pairwise((1, *channels[:-1])))
        self.networks = nn.ModuleList(
            Network(
                *(StridedConv(a, b, 5, 3) for a, b in sizes),
                StridedConv(channels[-2], channels[-1], 5),
                StridedConv(channels[-1], 1, 3),
                slope=0.1,
            )
            for _ in periods
        )

    def forward(self, x: Float[Tensor, "b samples"]) -> list[Judgement]:  # noqa: D102
        return [
            self._judge(network, fill(x, self.rows * period), period)
            for network, period in zip(self.networks, self.periods, strict=True)
        ]

    def _judge(self, network: nn.Module, x: Tensor, period: int) -> Judgement:
        columns = x.unflatten(1, (-1, period)).mT.flatten(0, 1)
        score, features = network(columns[:, None])

        by_loop = nn.Unflatten(0, (len(x), period))
        return Judgement(by_loop(score), [by_loop(values) for values in features])


class MultiResolutionDiscriminator(nn.Module):
    """Complex spectrograms at several windows, as pictures: 2-D convolutions.

    A picture has three channels: log amplitudes, and real and imaginary part with compressed
    amplitudes, |c|^0.3 e^(i phase), as raw ones would hide all but the loudest bins. Each network:
    convolutions over 9 bins and 3 frames, of stride 4 over the bins, the last over 5 bins and of
    stride 2; then the score from 3 x 3. Frequencies do not wrap. The hop is
    at most a quarter of the window.

    Args:
        channels: of all layers but the last; UnivNet's are 32 each, EnCodec's too.
        windows: of the STFT of each network.

    References:
        Jang et al., UnivNet, 2021, section 2.3; Défossez et al., EnCodec, 2022, section 3.4 (real
        and imaginary parts); Caillon & Esling's RAVE v2 (published code) has the like.
    """

    def __init__(
        self, channels: Sequence[int] = STFT_CHANNELS, windows: Sequence[int] = STFT_WINDOWS
    ) -> None:
        super().__init__()
        self.windows = tuple(windows)
        kernels = [(9, 4)] * (len(channels) - 1) + [(5, 2)]
        sizes = list(zip((3, *channels[:-1]), channels, kernels, strict=True))
        self.networks = nn.ModuleList(
            Network(
                *(PictureConv(a, b, bins, stride) for a, b, (bins, stride) in sizes),
                PictureConv(channels[-1], 1, 3, 1),
            )
            for _ in windows
        )

    def forward(self, x: Float[Tensor, "b samples"]) -> list[Judgement]:  # noqa: D102
        return [
            network(picture(x, window))
            for network, window in zip(self.networks, self.windows, strict=True)
        ]


class FrameDiscriminator(nn.Module):
    """Log amplitudes at several windows, frame by frame: a bin is a channel, so no bin is alike.

    Each network: a matrix from all bins, two convolutions over 3 frames (dilations 1 and 2), then
    the score from 3 frames. It costs least of all kinds.

    Args:
        channels: of all layers but the last.
        windows: of the STFT of each network, a quarter of which is the hop.
    """

    def __init__(
        self, channels: int = FRAME_CHANNELS, windows: Sequence[int] = FRAME_WINDOWS
    ) -> None:
        super().__init__()
        self.windows = tuple(windows)
        self.networks = nn.ModuleList(
            Network(
                StridedConv(window // 2 + 1, channels, 1),
                StridedConv(channels, channels, 3),
                StridedConv(channels, channels, 3, dilation=2),
                StridedConv(channels, 1, 3),
            )
            for window in windows
        )

    def forward(self, x: Float[Tensor, "b samples"]) -> list[Judgement]:  # noqa: D102
        return [
            network(picture(x, window)[:, 0])
            for network, window in zip(self.networks, self.windows, strict=True)
        ]


class Network(nn.Module):
    """Convolutions with normalised weights and leaky rectifiers between; the last gives the score.

    Args:
        layers: from the input up to the score.
        slope: of the rectifiers for negative values.
    """

    def __init__(self, *layers: "StridedConv | PictureConv", slope: float = 0.2) -> None:
        super().__init__()
        for layer in layers:  # keeps the size of values: PyTorch's default shrinks them by layer
            nn.init.kaiming_normal_(layer.conv.weight, slope)
            assert layer.conv.bias is not None
            nn.init.zeros_(layer.conv.bias)
            weight_norm(layer.conv)
        self.layers, self.slope = nn.ModuleList(layers), slope

    def forward(self, x: Tensor) -> Judgement:  # noqa: D102
        *hidden, last = self.layers
        features = []
        for layer in hidden:
            x = F.leaky_relu(layer(x), self.slope)
            features.append(x)
        return Judgement(last(x)[:, 0], features)


class StridedConv(nn.Module):
    """Convolution around a circle of whole strides; step t is centred on step `t * stride`.

    Args:
        inputs, outputs: channels.
        kernel: taps.
        stride: input steps per output step.
        groups: of channels that do not see each other.
        dilation: input steps from tap to tap.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, groups=groups, dilation=dilation)
        self.before, self.after = kernel // 2 * dilation, (kernel - 1) // 2 * dilation + 1 - stride

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b d u"]:  # noqa: D102
        result: Tensor = self.conv(wrap(x, self.before, self.after))
        return result


class PictureConv(nn.Module):
    """Convolution of a spectrogram: around the circle in time, with zeros beyond the bins.

    Args:
        inputs, outputs: channels.
        bins: taps over frequency; over time there are 3.
        stride: over frequency.
    """

    def __init__(self, inputs: int, outputs: int, bins: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (bins, 3), (stride, 1), padding=(bins // 2, 0))

    def forward(self, x: Float[Tensor, "b c bins t"]) -> Float[Tensor, "b d rows t"]:  # noqa: D102
        result: Tensor = self.conv(wrap(x, 1, 1))
        return result


def fill(x: Float[Tensor, "b samples"], stride: int) -> Float[Tensor, "b more"]:
    """A circle, continued past its end up to a whole number of strides."""
    missing = -x.shape[-1] % stride
    return wrap(x, 0, missing) if missing else x


def picture(x: Float[Tensor, "b samples"], window: int) -> Float[Tensor, "b 3 bins frames"]:
    """Log amplitudes, and real and imaginary part with compressed amplitudes; 0 for silence.

    With a = sqrt(|c|^2 + floor^2): log(a / floor) / 4, and c / a^0.7 over its value at full scale.
    """
    hop = whole_hop(x.shape[-1], window)
    parts = torch.view_as_real(circular_stft(x, window, hop))
    power = parts.square().sum(-1, keepdim=True) + AMPLITUDE_FLOOR**2
    log_amplitude = (power.log() / 2 - math.log(AMPLITUDE_FLOOR)) / 4
    compressed = parts * power.pow((COMPRESSION - 1) / 2) / (window / 4) ** COMPRESSION
    return torch.cat([log_amplitude, compressed], -1).movedim(-1, 1)
