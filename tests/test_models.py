import math
from pathlib import Path

import pytest
import torch

from techloop.artifacts import read_json, write_json
from techloop.audio.frames import BANDS, frame_values, values_per_frame
from techloop.audio.level import loop_loudness_lufs
from techloop.audio.spectral import circular_stft
from techloop.grid import Grid
from techloop.models.audio_vae import AudioVAE, limit, shift_level
from techloop.models.base import Model, model_fingerprint
from techloop.models.latent_vae import LatentVAE
from techloop.models.layers import CircularConv, patchify, unpatchify
from techloop.models.refiner import Refiner, sharpen
from tests.helpers.params import GRID

AUDIO = {"latent_dim": 4, "channels": 32, "blocks": 1}
LATENT = {"audio_latent_dim": 4, "latent_dim": 6, "channels": 32, "blocks": 1}


def perturbed(model: Model, by: float = 0.1) -> Model:
    """A model without zero weights: blocks that start as the identity would hide mistakes."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def audio_vae() -> AudioVAE:
    torch.manual_seed(0)
    vae = AudioVAE(GRID, **AUDIO)
    vae.init_from_pca(frame_values(0.1 * torch.randn(2, GRID.samples), GRID.hop))
    model = perturbed(vae, 0.02)
    assert isinstance(model, AudioVAE)
    return model


def latent_vae(length: int, grid: Grid = GRID) -> LatentVAE:
    model = perturbed(LatentVAE(grid, length=length, **LATENT))
    assert isinstance(model, LatentVAE)
    return model


def test_patchify_and_unpatchify_are_inverse_and_preserve_time_order() -> None:
    x = torch.arange(12.0).reshape(1, 2, 6)
    assert patchify(x, 3)[0, :, 0].tolist() == [0, 1, 2, 6, 7, 8]
    assert torch.equal(unpatchify(patchify(x, 3), 3), x)


def test_a_convolution_longer_than_its_circle() -> None:
    conv, x = CircularConv(2, 2, 3, dilation=9), torch.randn(1, 2, 4)
    assert torch.allclose(conv(x.roll(1, -1)), conv(x).roll(1, -1))


@pytest.mark.parametrize("k", [1, 7, 60, -13])
@torch.no_grad()
def test_audio_vae_turns_with_the_loop(audio_vae: AudioVAE, k: int) -> None:
    x = 0.1 * torch.randn(2, GRID.samples)
    mu, sigma = audio_vae.encode(x)
    mu_k, sigma_k = audio_vae.encode(x.roll(128 * k, -1))
    torch.testing.assert_close(mu_k, mu.roll(k, -1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sigma_k, sigma.roll(k, -1), atol=1e-5, rtol=1e-4)
    noise = torch.randn(2, GRID.samples)
    y = audio_vae.decode(mu, noise)
    y_k = audio_vae.decode(mu.roll(k, -1), noise.roll(128 * k, -1))
    assert y.std() > 0.01  # equal, but not because both are silent
    torch.testing.assert_close(y_k, y.roll(128 * k, -1), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_noise_is_drawn_from_the_generator(audio_vae: AudioVAE) -> None:
    z = torch.randn(3, 4, 20)
    first, again, other = (
        audio_vae.draw_noise(z, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first.shape == (3, 20 * 128)
    assert torch.equal(first, again)
    assert first.std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(audio_vae.decode(z, first), audio_vae.decode(z, again))
    assert (audio_vae.decode(z, first) - audio_vae.decode(z, other)).abs().max() > 1e-3
    one_for_all = audio_vae.decode(z, first[:1])
    torch.testing.assert_close(one_for_all[:1], audio_vae.decode(z[:1], first[:1]))


def test_every_parameter_of_the_decoder_learns_from_its_sound(audio_vae: AudioVAE) -> None:
    """And the latents do: nothing on the way from them to the waveform stops gradients."""
    z = torch.randn(2, 4, 30, requires_grad=True)
    audio_vae.zero_grad()
    audio_vae.decode(z, torch.randn(2, 30 * 128)).square().sum().backward()
    assert z.grad is not None
    assert (z.grad.abs().amax((0, 2)) > 0).all()
    for part in (audio_vae.predictor, audio_vae.refiner):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
    assert all(p.grad is None for p in audio_vae.encoder.parameters())
    audio_vae.zero_grad()


@torch.no_grad()
def test_a_refiner_plays_noise_where_bands_are_not_tonal() -> None:
    """Untrained: steady partials from tonal bands, noise from others, no noise below 500 Hz."""
    refiner = Refiner(GRID, 8, 1).eval()
    values = torch.full((2, values_per_frame(128), 60), -1.0)
    values[:, -BANDS:] = torch.tensor([1.0, 0.0])[:, None, None]
    level, features = torch.zeros(2, 1, 60), torch.zeros(2, 8, 60)
    spectrum = refiner(values, level, features)
    hz = torch.arange(257) * 16_000 / 512
    tonal, noisy = spectrum.noise_gain.square() / math.exp(-2)
    assert tonal.max() < 1e-3
    assert noisy[hz < 500].max() == 0
    share = ((hz - 500) / 500).clamp(0, 1)[:, None].expand_as(noisy)
    torch.testing.assert_close(noisy, share, atol=0.01, rtol=0)
    noise = torch.randn(2, 60 * 128)
    x, other = (refiner.sound(spectrum, v) for v in (noise, noise.flip(0)))
    change = (circular_stft(x - other, 512, 128).abs() / circular_stft(x, 512, 128).abs()).median(2)
    assert change.values[0].max() < 0.1
    assert change.values[1, 40:].min() > 0.5


@torch.no_grad()
def test_rotation_by_less_than_a_hop_is_another_loop(audio_vae: AudioVAE) -> None:
    x = 0.1 * torch.randn(1, GRID.samples)
    assert not torch.allclose(audio_vae.encode(x.roll(5, -1))[0], audio_vae.encode(x)[0], atol=1e-3)


@torch.no_grad()
def test_any_circle_of_hops_goes_through(audio_vae: AudioVAE) -> None:
    mu, _ = audio_vae.encode(torch.zeros(3, 128 * 5))
    assert mu.shape == (3, 4, 5)
    assert audio_vae.decode(mu, torch.randn(1, 640)).shape == (3, 640)


def test_it_starts_as_the_codec_of_level_and_principal_components() -> None:
    """Spectra of as few dimensions as latents are reconstructed exactly, from white latents."""
    torch.manual_seed(0)
    vae = AudioVAE(GRID, **AUDIO).eval()
    basis = torch.randn(2, values_per_frame(GRID.hop))
    spectra = (torch.randn(6, 240, 2) @ basis - 6).mT / 4
    spectra = shift_level(spectra, torch.randn(6, 1, 240) - vae.levels(spectra))
    vae.init_from_pca(spectra)
    # At the start the encoder's residual blocks add little, and the decoder's nothing.
    level = vae.levels(spectra) - vae.level_mean
    z = torch.cat(
        [level / vae.level_std, vae.encoder.linear(shift_level(spectra - vae.mean, -level))], 1
    )
    torch.testing.assert_close(vae.posterior(spectra)[0][:, :1], z[:, :1])
    cov = torch.cov(z[:, 1:].mT.flatten(0, 1).T)
    torch.testing.assert_close(cov, torch.eye(3), atol=1e-3, rtol=0)
    assert z[:, 0].std().item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(vae.predict(z), spectra, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_the_first_latent_is_level_and_the_others_do_not_depend_on_it(audio_vae: AudioVAE) -> None:
    spectrum = frame_values(0.1 * torch.randn(2, GRID.samples), GRID.hop)
    (mu, sigma), (louder, louder_sigma) = map(
        audio_vae.posterior, (spectrum, shift_level(spectrum, torch.ones(2, 1, 240)))
    )
    torch.testing.assert_close(
        louder[:, 0] - mu[:, 0], torch.full((2, 240), 1 / audio_vae.level_std)
    )
    torch.testing.assert_close(louder[:, 1:], mu[:, 1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(louder_sigma, sigma, atol=1e-4, rtol=1e-4)
    z = torch.randn(2, 4, 30)
    level = (audio_vae.levels(audio_vae.predict(z)) - audio_vae.level_mean) / audio_vae.level_std
    torch.testing.assert_close(level[:, 0], z[:, 0], atol=1e-2, rtol=1e-2)


@torch.no_grad()
def test_an_untrained_model_preserves_loudness(audio_vae: AudioVAE) -> None:
    """Kicks, a fading chord, and noise, none of which the model has seen."""
    t = torch.arange(GRID.samples) / GRID.sample_rate_hz
    kicks = torch.sin(2 * math.pi * 60 * t) * (-20 * (t % 0.48)).exp()
    chord = (torch.sin(2 * math.pi * 220 * t) + torch.sin(2 * math.pi * 1_760 * t)) * (1 - t / 3)
    loops = torch.stack([0.5 * kicks, 0.05 * chord, 0.2 * torch.randn(GRID.samples)])
    again = audio_vae.reconstruct(loops, torch.Generator().manual_seed(0))
    for x, y in zip(loops.numpy(), again.numpy(), strict=True):
        before, after = (loop_loudness_lufs(v, GRID.sample_rate_hz) for v in (x, y))
        assert after == pytest.approx(before, abs=1)


def test_no_amplitude_is_beyond_full_scale() -> None:
    vae = AudioVAE(GRID, **AUDIO).eval()
    vae.init_from_pca(torch.randn(2, values_per_frame(GRID.hop), 60))
    far = 1e4 * torch.randn(1, 4, 30)
    assert vae.predict(far)[:, :-BANDS].max() <= math.log(1024)
    assert vae.decode(far, torch.randn(1, 30 * 128)).abs().max() <= 1


def test_the_limit_changes_loud_samples_only() -> None:
    x = torch.tensor([0.0, 0.1, -0.5, 0.7, 0.99, 5.0, -1e4])
    y = limit(x)
    torch.testing.assert_close(y[:3], x[:3], atol=1e-3, rtol=0)
    assert y[3] > 0.69
    assert y.abs().max() <= 1
    assert (y[:6].diff()[[0, 2, 3, 4]] > 0).all()


def test_sharpening_changes_fine_structure_only() -> None:
    flat = torch.linspace(1, 0, 1025)[None, :, None].repeat(1, 1, 3)
    inside = slice(20, -20)
    torch.testing.assert_close(sharpen(flat)[:, inside], flat[:, inside], atol=1e-4, rtol=0)
    comb = flat + 0.3 * torch.cos(torch.arange(flat.shape[1]))[:, None]
    sharper = sharpen(comb)
    assert (sharper - flat)[:, inside].std() > 2 * (comb - flat)[:, inside].std()


@pytest.mark.parametrize("length", [2, 3, 4, 5, 12, 16, 60, 240])
@torch.no_grad()
def test_points_turn_with_the_loop(length: int) -> None:
    vae, shift = latent_vae(length), 3 * GRID.frames // length
    mu, sigma = torch.randn(2, 4, GRID.frames), torch.rand(2, 4, GRID.frames) + 0.1
    points, _ = vae.encode(mu, sigma)
    turned, _ = vae.encode(mu.roll(shift, -1), sigma.roll(shift, -1))
    assert points.shape == (2, 6, length)
    torch.testing.assert_close(turned, points.roll(3, -1), atol=1e-5, rtol=1e-4)
    for a, b in zip(vae.decode(points.roll(3, -1)), vae.decode(points), strict=True):
        torch.testing.assert_close(a, b.roll(shift, -1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("length", GRID.lengths)
def test_every_length_is_a_model(length: int) -> None:
    vae = latent_vae(length)
    assert vae.steps % length == 0
    assert vae.steps * vae.patch == GRID.frames
    assert vae.steps >= min(GRID.steps, GRID.frames)
    mu_hat, sigma_hat, mean, std = vae(
        torch.randn(2, 4, 240), torch.ones(2, 4, 240), torch.Generator().manual_seed(0)
    )
    assert mu_hat.shape == sigma_hat.shape == (2, 4, 240)
    assert mean.shape == std.shape == (2, 6, length)
    assert (sigma_hat > 0).all()
    assert (std > 0).all()


@torch.no_grad()
def test_the_learned_prior_has_the_moments_of_the_aggregate_posterior() -> None:
    vae = latent_vae(4)
    noise = torch.randn(20_000, 6, 4)
    assert torch.equal(vae.sample_prior(noise), noise)
    # The points of a loop differ little from each other, and loops differ much.
    mean = torch.randn(500, 6, 1).expand(500, 6, 4) + 0.1 * torch.randn(500, 6, 4) + 3
    std = torch.full((500, 6, 4), 0.5)
    vae.fit_prior(mean, std)
    samples, points = vae.sample_prior(noise).flatten(1), mean.flatten(1)
    torch.testing.assert_close(samples.mean(0), points.mean(0), atol=0.05, rtol=0)
    expected = torch.cov(points.T) + 0.25 * torch.eye(24)
    torch.testing.assert_close(torch.cov(samples.T), expected, atol=0.06, rtol=0)
    samples = samples.view(-1, 6, 4)
    assert torch.corrcoef(torch.stack([samples[:, 2, 0], samples[:, 2, 3]]))[0, 1] > 0.7


def test_four_bars_down_to_one_point() -> None:
    assert latent_vae(1, Grid(bars=4)).steps == 64


def test_a_length_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="7 does not divide the 240"):
        latent_vae(7)


@torch.no_grad()
def test_points_of_more_numbers_than_a_prior_can_have() -> None:
    with pytest.raises(ValueError, match="240 points of 64 numbers are 15360"):
        LatentVAE(GRID, audio_latent_dim=4, length=240, latent_dim=64, channels=16, blocks=1)


@torch.no_grad()
def test_the_latent_vae_works_in_the_units_of_the_audio_vae() -> None:
    vae, mu, sigma = latent_vae(4), torch.randn(2, 4, 240), torch.ones(2, 4, 240)
    plain, plain_hat = vae.encode(mu, sigma)[0], vae.decode(torch.zeros(1, 6, 4))
    vae.mean.fill_(2.0)
    vae.std.fill_(3.0)
    torch.testing.assert_close(vae.encode(3 * mu + 2, sigma)[0], plain, atol=1e-5, rtol=1e-4)
    for a, b in zip(vae.decode(torch.zeros(1, 6, 4)), plain_hat, strict=True):
        assert not torch.allclose(a, b)
    torch.testing.assert_close(vae.decode(torch.zeros(1, 6, 4))[0], 3 * plain_hat[0] + 2)


def test_a_saved_model_is_the_same_model(audio_vae: AudioVAE, tmp_path: Path) -> None:
    audio_vae.save(tmp_path, data="abc")
    again, x = AudioVAE.load(tmp_path), torch.randn(1, 1_280)
    assert torch.equal(again.encode(x)[0], audio_vae.encode(x)[0])
    assert again.notes["data"] == "abc"
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]
    before = model_fingerprint(tmp_path)
    (tmp_path / "history.csv").write_text("not part of the model")
    assert model_fingerprint(tmp_path) == before


def test_folders_that_do_not_fit(audio_vae: AudioVAE, tmp_path: Path) -> None:
    audio_vae.save(tmp_path)
    with pytest.raises(ValueError, match="another grid"):
        AudioVAE.load(tmp_path, Grid(bars=2))
    with pytest.raises(ValueError, match="holds a AudioVAE, not a LatentVAE"):
        LatentVAE.load(tmp_path)
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", config | {"format": 1})
    with pytest.raises(ValueError, match=r"format 1.*older.*`dvc repro` trains it anew"):
        AudioVAE.load(tmp_path)
    write_json(tmp_path / "config.json", config)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated, missing or of another version"):
        AudioVAE.load(tmp_path)
    with pytest.raises(ValueError, match="not a complete artifact"):
        AudioVAE.load(tmp_path / "nothing")
