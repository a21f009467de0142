"""Discriminators: circular, of the papers' shapes, and every width changes something."""

import math

import pytest
import torch

from techloop.models.discriminators import (
    Discriminators,
    FrameDiscriminator,
    fill,
    picture,
)
from techloop.models.discriminators import MultiPeriodDiscriminator as Period
from techloop.models.discriminators import MultiResolutionDiscriminator as Stft
from techloop.models.discriminators import MultiScaleDiscriminator as Scale

KINDS = ("scale", "period", "stft", "frame")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 10


# A discriminator, samples of the circle, a rotation, and the steps of each map that it equals.
ROTATIONS = {
    "scale": (lambda: Scale((4, 8, 8, 8, 8, 8)), 4096, 1024, (4, 2, 1)),
    "period": (
        lambda: Period((4, 8, 8), (2, 3)),
        9 * 6 * 20,
        9 * 6,
        (3, 2),
    ),
    "stft": (lambda: Stft((4, 4), (512, 256)), 4096, 128, (1, 2)),
    "frame": (lambda: FrameDiscriminator(8, (512, 256)), 4096, 128, (1, 2)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_rotation_by_the_stride_rotates_the_maps(kind: str) -> None:
    torch.manual_seed(0)
    make, samples, shift, steps = ROTATIONS[kind]
    network, x = make(), noise(2, samples)
    before, after = network(x), network(x.roll(shift, 1))
    assert len(before) == len(steps)
    for old, new, step in zip(before, after, steps, strict=True):
        # The maps of periods are (b, period, rows): time is their last axis, as everywhere.
        torch.testing.assert_close(new.score, old.score.roll(step, -1), atol=1e-5, rtol=1e-4)
        assert (new.score - old.score).abs().max() > 1e-4
        last, rotated = old.features[-1], new.features[-1]
        torch.testing.assert_close(rotated, last.roll(step, -1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_circle_of_any_length_has_finite_maps_by_loop(kind: str) -> None:
    network = Discriminators([kind])
    for samples in (48 * 128, 50 * 128, 128):
        for score, features in network(noise(3, samples)):
            assert score.isfinite().all()
            assert len(score) == 3
            assert all(len(values) == 3 for values in features)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_is_judged_by_itself(kind: str) -> None:
    """Scores of a loop do not depend on the others of its batch."""
    network, x = Discriminators([kind]), noise(3, 6144)
    for whole, alone in zip(network(x), network(x[1:2]), strict=True):
        torch.testing.assert_close(whole.score[1:2], alone.score, atol=1e-5, rtol=1e-4)


def test_a_circle_is_continued_to_a_whole_number_of_strides() -> None:
    x = torch.arange(5.0)[None]
    assert fill(x, 4).tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert fill(x, 5) is x
    assert fill(x, 12).tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]]


def test_layers_are_those_of_the_papers() -> None:
    """At the papers' widths, sizes of the weights are those of the published networks."""

    def shapes(network: torch.nn.Module) -> list[tuple[int, ...]]:
        weights = [m for name, m in network.named_parameters() if name.endswith("original1")]
        return [tuple(weight.shape) for weight in weights]

    scale = Scale((16, 64, 256, 1024, 1024, 1024))
    assert len(scale.networks) == 3
    assert shapes(scale.networks[0]) == [
        (16, 1, 15), (64, 4, 41), (256, 4, 41), (1024, 4, 41), (1024, 4, 41), (1024, 1024, 5),
        (1, 1024, 3),
    ]  # fmt: skip
    period = Period((32, 128, 512, 1024, 1024))
    assert period.periods == (2, 3, 5, 7, 11)
    assert shapes(period.networks[0]) == [
        (32, 1, 5), (128, 32, 5), (512, 128, 5), (1024, 512, 5), (1024, 1024, 5), (1, 1024, 3),
    ]  # fmt: skip


def test_each_network_of_the_periods_reads_columns_independently() -> None:
    """A change of one sample changes the scores of its own column alone."""
    network, x = Period((4, 8, 8), (3,)), noise(1, 9 * 3 * 4)
    changed = x.clone()
    changed[0, 7] += 1
    (before,), (after,) = network(x), network(changed)
    different = (after.score - before.score).abs().amax(-1)[0] > 1e-7
    assert different.tolist() == [False, True, False]  # 7 = 2 * 3 + 1


def test_default_sizes_are_small() -> None:
    counts = {k: sum(p.numel() for p in Discriminators([k]).parameters()) for k in KINDS}
    assert 4e5 < counts["scale"] + counts["period"] + counts["stft"] < 1e6
    assert sum(counts.values()) < 1.3e6


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (lambda: Scale((2, 4, 4, 4)), lambda: Scale((2, 8, 4, 4))),
        (lambda: Scale(scales=1), lambda: Scale(scales=2)),
        (lambda: Period((2, 4, 4)), lambda: Period((4, 4, 4))),
        (lambda: Period(periods=(2,)), lambda: Period(periods=(2, 3))),
        (lambda: Stft((2, 2)), lambda: Stft((2, 4))),
        (lambda: Stft(windows=(256,)), lambda: Stft(windows=(256, 512))),
        (lambda: FrameDiscriminator(8), lambda: FrameDiscriminator(16)),
        (lambda: FrameDiscriminator(8, (256,)), lambda: FrameDiscriminator(8, (512,))),
    ],
)
def test_each_size_changes_the_network(small, large) -> None:
    one, two = (sum(p.numel() for p in make().parameters()) for make in (small, large))
    assert one < two


@pytest.mark.parametrize(
    ("kinds", "got"), [([], "none"), (["scale", "scale"], "scale, scale"), (["mel"], "mel")]
)
def test_wrong_kinds_are_refused(kinds: list[str], got: str) -> None:
    with pytest.raises(ValueError, match=f"scale, period, stft, frame, each once; got {got}"):
        Discriminators(kinds)


def test_several_kinds_are_all_asked() -> None:
    assert len(Discriminators(["period", "frame"])(noise(1, 1280))) == 5 + 2


def test_a_picture_of_silence_is_zero_and_of_a_full_scale_sine_about_one() -> None:
    silence = torch.zeros(1, 4096, requires_grad=True)
    pixels = picture(silence, 512)
    assert pixels.abs().max() < 1e-6
    pixels.square().sum().backward()
    assert silence.grad.isfinite().all()
    sine = torch.sin(2 * math.pi * 64 / 512 * torch.arange(4096))[None]
    log_amplitude, real, imaginary = picture(sine, 512)[0]
    assert log_amplitude[64].mean() == pytest.approx(math.log(128 / 1e-3) / 4, rel=1e-3)
    size = (real.square() + imaginary.square()).sqrt()
    torch.testing.assert_close(size[64], torch.ones_like(size[64]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 6144),
        torch.full((1, 6144), 0.9),
        torch.eye(1, 6144),
        torch.sin(torch.arange(6144.0) / 20).mul(5).clamp(-1, 1)[None],
    ],
    ids=["silence", "constant", "impulse", "clipped"],
)
def test_odd_loops_have_finite_scores_and_gradients(kind: str, x: torch.Tensor) -> None:
    torch.manual_seed(0)
    network, x = Discriminators([kind]), x.clone().requires_grad_()
    sum(score.square().mean() for score, _ in network(x)).backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_learns_to_tell_bright_noise_from_dull(kind: str) -> None:
    torch.manual_seed(0)
    network = Discriminators([kind])
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, betas=(0.8, 0.99))
    for step in range(30):
        real = noise(4, 3072, seed=step)
        fake = noise(4, 3072, seed=-1 - step)
        fake = sum(fake.roll(i, 1) for i in range(8)) / 8**0.5  # the same level
        judged = network(torch.cat([real, fake]))
        loss = sum(
            (1 - score[:4]).relu().mean() + (1 + score[4:]).relu().mean() for score, _ in judged
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.75 * 2 * len(judged), "all scores 0 give 2"
