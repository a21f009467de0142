import pytest
import torch

from techloop.filterbank import FilterBank


@pytest.mark.parametrize("bands", [1, 4, 16])
def test_round_trip_within_minus_60_db(bands: int) -> None:
    bank, x = FilterBank(bands), torch.randn(2, 7_680)
    y = bank.synthesise(bank.analyse(x))
    assert (y - x).norm() < 1e-3 * x.norm() * 1.05


@pytest.mark.parametrize("bands", [4, 16])
def test_rotation_is_exact(bands: int) -> None:
    bank, x = FilterBank(bands), torch.randn(1, 7_680)
    sub = bank.analyse(x)
    assert torch.equal(bank.analyse(x.roll(3 * bands, -1)), sub.roll(3, -1))
    assert torch.equal(bank.synthesise(sub.roll(5, -1)), bank.synthesise(sub).roll(5 * bands, -1))


def test_a_tone_lands_in_its_band() -> None:
    t = torch.arange(7_680) / 16_000
    for band in (0, 3, 15):
        x = torch.sin(2 * torch.pi * (500 * band + 250) * t)[None]
        energy = FilterBank(16).analyse(x).square().sum(-1)[0]
        assert energy.argmax() == band
        assert energy[band] > 0.999 * energy.sum()


def test_it_keeps_energy() -> None:
    x = torch.randn(1, 30_720)
    assert torch.allclose(FilterBank(16).analyse(x).norm(), x.norm(), rtol=2e-3)
