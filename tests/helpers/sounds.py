"""Sounds of a quarter of a second and more that tests make by formula."""

import math

import torch

HOP, FRAMES = 128, 60
SAMPLES = HOP * FRAMES


def partials(*hz: float, samples: int = SAMPLES) -> torch.Tensor:
    """A chord of partials that make whole cycles in the loop."""
    t = torch.arange(samples, dtype=torch.double) / samples
    turns = [round(f * samples / 16_000) for f in hz]
    return torch.stack([0.1 * torch.cos(2 * math.pi * n * t + n) for n in turns]).sum(0).float()
