"""Counted costs against closed forms and against PyTorch's own profiler."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from techloop.models.audio_vae import AudioVAE
from techloop.params import AudioVAECell
from techloop.pipeline.costs import Card, Cost, Meter, at_batch, metered
from techloop.training.audio_vae import audio_vae_loss
from techloop.training.optimizer import ParameterGroup, make_optimizer
from tests.helpers.params import GRID

SIZES = (1, 2, 3)
FRAMES = 60


def train(regulariser: str, *batches: int) -> None:
    """One step per batch size of a small audio VAE."""
    cell = AudioVAECell(regulariser=regulariser, weight=1, warmup_loops=0, free_nats=0)
    vae = AudioVAE(GRID, latent_dim=8, channels=64, blocks=1)
    optimizer, generator = (
        make_optimizer([ParameterGroup(vae.parameters(), 1e-3)]),
        torch.Generator().manual_seed(0),
    )
    for batch in batches:
        x = 0.1 * torch.randn(batch, FRAMES * GRID.hop)
        audio_vae_loss(vae, x, cell, generator, 1)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()


def counted(regulariser: str, *batches: int) -> Meter:
    with metered() as meter:
        train(regulariser, *batches)
    assert len(meter.steps) == len(batches)
    return meter


def test_flops_of_a_convolution() -> None:
    b, inputs, outputs, kernel, t = 3, 5, 7, 3, 16
    layer, x = nn.Conv1d(inputs, outputs, kernel), torch.randn(b, inputs, t)
    forward = 2 * b * outputs * (t - kernel + 1) * inputs * kernel
    with metered() as meter:
        layer(x)
    assert meter.cost.flops == forward
    assert not meter.steps
    with metered() as meter, torch.inference_mode():
        layer(x)
    assert meter.cost.flops == forward
    optimizer = torch.optim.SGD(layer.parameters())
    with metered() as meter:
        layer(x.requires_grad_()).sum().backward()
        optimizer.step()
    (step,) = meter.steps
    assert step.cost.flops == 3 * forward  # and the gradients of weights and input
    assert step.parameters == outputs * (inputs * kernel + 1)
    assert step.saved == 4 * x.numel()
    optimizer.step()
    assert len(meter.steps) == 1, "it still counts"


@pytest.mark.parametrize("regulariser", ["kl", "wae"])
def test_three_small_batches_predict_a_larger_one(regulariser: str) -> None:
    (true,) = counted(regulariser, 12).steps
    predicted = at_batch(counted(regulariser, *SIZES).steps, SIZES, 12)
    assert predicted.cost.flops == pytest.approx(true.cost.flops, rel=1e-3)
    assert predicted.cost.moved == pytest.approx(true.cost.moved, rel=0.05)
    assert predicted.saved == pytest.approx(true.saved, rel=0.02)
    if regulariser == "wae":  # pairs of frames: a straight line would be more than a tenth off
        small, large = counted(regulariser, 1, 2).steps
        assert small.saved + 11 * (large.saved - small.saved) < 0.9 * true.saved


@pytest.mark.parametrize("regulariser", ["kl", "wae"])
def test_predicted_memory_is_near_that_of_the_profiler(tmp_path: Path, regulariser: str) -> None:
    predicted = at_batch(counted(regulariser, *SIZES).steps, SIZES, 12).memory
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        train(regulariser, 12, 12)
    trace = tmp_path / "trace.json"
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    peak = max(e["args"]["Total Allocated"] for e in events if e["name"] == "[memory]")
    assert 0.5 < predicted / peak < 2


def test_time_is_limited_by_the_scarcest_resource() -> None:
    card = Card(peak_flops=100.0, peak_bytes=10.0, used_flops=0.5, used_bytes=1.0, launch_s=1.0)
    assert card.seconds(Cost(flops=500.0, moved=20.0, operations=3.0)) == 12.0
    assert card.seconds(Cost(flops=50.0, moved=20.0, operations=7.0)) == 7.0
