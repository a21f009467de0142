"""The layers of both VAEs. All are circular: a rotation of the input rotates the output."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from techloop.audio.spectral import wrap

RESIDUAL_KERNEL = 3


class CircularConv(nn.Conv1d):
    """Convolution of odd kernel size around the circle; the number of steps stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, dilation=dilation)
        self.reach = kernel // 2 * dilation

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b d t"]:  # noqa: D102
        return super().forward(wrap(x, self.reach, self.reach) if self.reach else x)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over channels, of each step by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:  # noqa: D102
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6) * self.gain


class ResidualBlock(nn.Module):
    """x + proj(silu(conv(norm(x)))): one dilated convolution, one matrix back to the channels."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)
        self.conv = CircularConv(channels, channels, RESIDUAL_KERNEL, dilation)
        self.proj = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj.weight)  # starts as the identity

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:  # noqa: D102
        change: Tensor = self.proj(F.silu(self.conv(self.norm(x))))
        return x + change


def residual_stack(channels: int, rounds: int, dilations: Sequence[int]) -> nn.Sequential:
    """Rounds of residual blocks, one block per dilation, and a norm at the end."""
    layers = [ResidualBlock(channels, d) for _ in range(rounds) for d in dilations]
    return nn.Sequential(*layers, RMSNorm(channels))


def patchify(x: Float[Tensor, "b c t"], factor: int) -> Float[Tensor, "b d u"]:
    """Time into channels: `(b, c, t)` to `(b, c * factor, t // factor)`; undoes `unpatchify`."""
    patches: Tensor = x.unflatten(-1, (-1, factor))
    return patches.transpose(2, 3).flatten(1, 2)


def unpatchify(x: Float[Tensor, "b d u"], factor: int) -> Float[Tensor, "b c t"]:
    """Channels into time (sub-pixel up-sampling): `(b, c * factor, u)` to `(b, c, u * factor)`."""
    patches: Tensor = x.unflatten(1, (-1, factor))
    return patches.transpose(2, 3).flatten(2)
