"""Adversarial objectives against closed forms."""

import math
from typing import get_args

import pytest
import torch

from techloop.models.discriminators import Discriminators
from techloop.params import AdversarialObjective, Discriminator
from techloop.training.adversarial import accuracy, feature_distance, objective

NAMES = ("classical", "non-saturating", "hinge", "least-squares")
LOG2 = math.log(2)
# Losses of the discriminator and the generator where all scores are 0, and their derivatives: by
# the real score, by the decoded score, and the generator's.
AT_ZERO = {
    "classical": (2 * LOG2, -LOG2, -0.5, 0.5, -0.5),
    "non-saturating": (2 * LOG2, LOG2, -0.5, 0.5, -0.5),
    "hinge": (2, 0, -1, 1, -1),
    "least-squares": (0.5, 0.5, -1, 0, -1),
}


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_for_scores_of_zero(name: str) -> None:
    game = objective(name)
    real, fake, decoded = (torch.zeros(3, 2, requires_grad=True) for _ in range(3))
    discriminator, generator = game.discriminator(real, fake), game.generator(decoded)
    assert discriminator.shape == generator.shape == (3, 2)
    (discriminator.sum() + generator.sum()).backward()
    values = (discriminator, generator, real.grad, fake.grad, decoded.grad)
    for value, expected in zip(values, AT_ZERO[name], strict=True):
        torch.testing.assert_close(value.detach(), torch.full((3, 2), float(expected)))


@pytest.mark.parametrize(
    ("name", "optimum"),
    [
        # p = density of real loops over that of both together.
        ("classical", lambda p: math.log(p / (1 - p))),
        ("non-saturating", lambda p: math.log(p / (1 - p))),
        ("hinge", lambda p: math.copysign(1, p - 0.5)),
        ("least-squares", lambda p: p),
    ],
)
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_the_optimal_score_is_that_of_theory(name: str, optimum, share: float) -> None:
    scores = torch.linspace(-3, 3, 6001)
    game = objective(name)
    # The loss has a part for real and one for decoded loops, and a constant in each drops out.
    at = torch.zeros_like(scores)
    loss = share * game.discriminator(scores, at) + (1 - share) * game.discriminator(at, scores)
    assert float(scores[loss.argmin()]) == pytest.approx(optimum(share), abs=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_wants_a_higher_score_and_the_discriminator_a_lower(name: str) -> None:
    game, low, high = objective(name), torch.tensor(-0.4), torch.tensor(0.6)
    assert game.generator(high) < game.generator(low)
    assert game.discriminator(low, high) > game.discriminator(high, low)


def test_only_the_minimax_gradient_vanishes_where_the_discriminator_is_sure() -> None:
    gradients = {}
    for name in NAMES:
        score = torch.tensor(-12.0, requires_grad=True)
        objective(name).generator(score).backward()
        gradients[name] = abs(float(score.grad))
    assert gradients.pop("classical") < 1e-5
    assert min(gradients.values()) > 0.9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("score", [-1e4, 1e4])
def test_extreme_scores_are_finite(name: str, score: float) -> None:
    x = torch.tensor(score, requires_grad=True)
    (objective(name).discriminator(x, x) + objective(name).generator(x)).backward()
    assert x.grad.isfinite()


def test_accuracy() -> None:
    real, fake = torch.tensor([1.0, 1.0, -1.0, 0.0]), torch.tensor([-1.0, 1.0, 1.0, 0.0])
    assert accuracy(real, fake, 0.0).tolist() == [1, 0.5, 0, 0.5]
    boundary = objective("least-squares").boundary
    assert accuracy(torch.tensor([0.9, 0.4]), torch.tensor([0.1, 0.4]), boundary).tolist() == [
        1,
        0.5,
    ]


def test_feature_distance_is_relative() -> None:
    real = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    assert float(feature_distance(real, real)) == 1  # as far as from nothing
    assert float(feature_distance(real, 0 * real)) == 0
    assert float(feature_distance(real, real * torch.tensor([0.5, 0.1]))) == pytest.approx(0.3)
    # A ratio of means, so a silent loop in a batch does not dominate it.
    sizes, differences = torch.tensor([[0.0], [2.0]]), torch.tensor([[0.2], [0.2]])
    assert float(feature_distance(sizes, differences)) == pytest.approx(0.2)
    assert float(feature_distance(0 * sizes, 1e-5 * differences)) < 1


def test_the_names_are_those_of_params() -> None:
    assert get_args(AdversarialObjective) == NAMES
    with pytest.raises(ValueError, match="hinge or least-squares, got 'wasserstein'"):
        objective("wasserstein")
    assert len(Discriminators(get_args(Discriminator)).families) == 4
