import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from techloop.training.decoder_losses import frame_distance, sound_distance
from techloop.training.losses import (
    active_units,
    gaussian_cross_entropy,
    gaussian_kl,
    gaussian_kl_between,
    gaussian_nll,
    mean_spectral_distance,
    mmd,
    rate,
    spectral_distance,
)


@pytest.fixture
def gaussians() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    mu, mu_hat = torch.randn(2, 3, 4, 5)
    sigma, sigma_hat = torch.rand(2, 3, 4, 5) + 0.1
    return mu, sigma, mu_hat, sigma_hat


def test_gaussian_divergences_equal_torch(gaussians: tuple[torch.Tensor, ...]) -> None:
    mu, sigma, mu_hat, sigma_hat = gaussians
    p, q = Normal(mu, sigma), Normal(mu_hat, sigma_hat)
    standard = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    torch.testing.assert_close(gaussian_kl(mu, sigma), kl_divergence(p, standard))
    torch.testing.assert_close(
        gaussian_kl_between(mu, sigma, mu_hat, sigma_hat), kl_divergence(p, q)
    )
    torch.testing.assert_close(gaussian_nll(mu, mu_hat, sigma_hat), -q.log_prob(mu))
    torch.testing.assert_close(
        gaussian_cross_entropy(mu, sigma, mu_hat, sigma_hat), kl_divergence(p, q) + p.entropy()
    )


def test_divergences_of_equal_distributions_vanish(gaussians: tuple[torch.Tensor, ...]) -> None:
    mu, sigma, *_ = gaussians
    assert gaussian_kl_between(mu, sigma, mu, sigma).abs().max() < 1e-6
    assert gaussian_kl(torch.zeros(1, 1, 1), torch.ones(1, 1, 1)).item() == 0


def test_free_nats_floor_each_dimension() -> None:
    kl = torch.stack([torch.full((2, 7), 0.01), torch.full((2, 7), 2.0)], 1)
    assert rate(kl).item() == pytest.approx(2.01)
    assert rate(kl, 0.5).item() == pytest.approx(2.5)
    kl.requires_grad_()
    rate(kl, 0.5).backward()
    assert kl.grad is not None
    assert (kl.grad[:, 0] == 0).all()
    assert (kl.grad[:, 1] > 0).all()


def test_spectral_distance_by_hand() -> None:
    x = torch.randn(2, 4_096) * 0.1
    log_term, linear_term = spectral_distance(x, 2 * x, windows=(512,))
    assert linear_term.item() == pytest.approx(1.0, rel=1e-5)
    assert log_term.item() == pytest.approx(math.log(2), rel=1e-2)
    assert [v.item() for v in spectral_distance(x, x)] == pytest.approx([0, 0])


def test_the_mean_over_batches_is_by_loop() -> None:
    x = torch.randn(5, 4_096) * 0.1
    far, near = (x[:4], 2 * x[:4]), (x[4:], 1.1 * x[4:])
    each = [[v.item() for v in spectral_distance(*pair)] for pair in (far, near)]
    expected = [(4 * a + b) / 5 for a, b in zip(*each, strict=True)]
    assert mean_spectral_distance([far, near]) == pytest.approx(tuple(expected))
    with pytest.raises(ValueError, match="no loops"):
        mean_spectral_distance([])


def test_spectral_distance_is_blind_to_phase_and_grows_with_noise() -> None:
    t = torch.arange(7_680) / 16_000
    x = torch.sin(2 * torch.pi * 500 * t)[None]
    turned = torch.cos(2 * torch.pi * 500 * t)[None]
    assert sum(spectral_distance(x, turned)).item() < 0.1
    torch.manual_seed(0)
    noise = torch.randn(1, 7_680)
    distances = [sum(spectral_distance(x, x + s * noise)).item() for s in (0.0, 0.01, 0.1, 1.0)]
    assert distances == sorted(distances)


def test_spectral_distance_of_silence_is_finite_with_finite_gradients() -> None:
    y = torch.zeros(1, 7_680, requires_grad=True)
    loss = sum(spectral_distance(torch.zeros(1, 7_680), y))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert y.grad is not None
    assert y.grad.isfinite().all()


def test_frame_distance_by_hand() -> None:
    torch.manual_seed(0)
    target = torch.randn(2, 1025 + 257 + 8, 12)
    assert [v.item() for v in frame_distance(target, target)] == [0, 0, 0, 0]
    louder = target.clone()
    louder[:, :-8] += math.log(2)
    expected = [1.5 * math.log(2), 1.5, 0, 0]
    assert [v.item() for v in frame_distance(target, louder)] == pytest.approx(expected, abs=1e-5)
    fine = ((30 / 31) ** 2 + 30 / 31**2) / 512  # of one bin that stands out, by half of the band
    for bin_, weight in ((100, 512 / 512), (800, 0.5 * 512 / 513)):
        dotted = target.clone()
        dotted[:, bin_] += 1
        distance = frame_distance(target, dotted)
        assert distance.log.item() == pytest.approx(0.5 / 1025, rel=1e-4)
        assert distance.fine.item() == pytest.approx(weight * fine, rel=1e-3)
        assert distance.tonality.item() == 0
    tonal = target.clone()
    tonal[:, -3] += 0.5
    assert frame_distance(target, tonal).tonality.item() == pytest.approx(0.25 / 8, rel=1e-4)


def test_the_distance_of_two_draws_asks_for_noise() -> None:
    """Noise that is the same in every draw is as near to noise as any, but not the energy's."""
    torch.manual_seed(0)
    x, fixed, first, second = (torch.randn(16, 7_680) for _ in range(4))
    plain, energy = [], []
    for share in (0.0, 0.3, 0.6, 1.0):
        y, again = ((1 - share) ** 0.5 * fixed + share**0.5 * v for v in (first, second))
        distance = sound_distance(x, y, again)
        plain.append(distance.log.item())
        energy.append((distance.log - distance.noise / 2).item())
        assert [v.item() for v in spectral_distance(x, y)] == pytest.approx(
            [distance.log.item(), distance.linear.item()], rel=1e-5
        )
    assert max(plain) < 1.01 * min(plain)
    assert energy == sorted(energy, reverse=True)
    assert energy[-1] == pytest.approx(plain[-1] / 2, rel=0.02)


def test_mmd_is_near_zero_for_one_distribution_and_grows_with_the_shift() -> None:
    torch.manual_seed(0)
    prior = torch.randn(1_000, 8)
    assert abs(mmd(torch.randn(1_000, 8), prior).item()) < 0.02
    shifted = [mmd(torch.randn(1_000, 8) + s, prior).item() for s in (0.3, 0.6, 1.2)]
    assert 0.02 < shifted[0] < shifted[1] < shifted[2]
    narrow = mmd(0.1 * torch.randn(1_000, 8), prior).item()
    assert narrow > 0.1


def test_mmd_by_the_double_sum() -> None:
    torch.manual_seed(0)
    z, prior = torch.randn(2, 5, 3)
    scales, c = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0), 3

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(2 * c * s / (2 * c * s + float((a - b).square().sum())) for s in scales)

    pairs = [(i, j) for i in range(5) for j in range(5)]
    within = sum(k(z[i], z[j]) + k(prior[i], prior[j]) for i, j in pairs if i != j) / 20
    between = sum(k(z[i], prior[j]) for i, j in pairs) / 25
    assert mmd(z, prior).item() == pytest.approx(within - 2 * between, abs=1e-4)


def test_active_units_counts_dimensions_that_vary() -> None:
    mu = torch.randn(10, 3, 20)
    mu[:, 1] = 0.5
    mu[:, 2] *= 0.05
    assert active_units(mu) == 1
