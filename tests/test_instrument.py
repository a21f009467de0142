import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from techloop.artifacts import read_json, write_json
from techloop.data.datasets import LoopDataset
from techloop.grid import Grid
from techloop.instrument import (
    Instrument,
    assemble_instrument,
    closed_walk,
    interpolate,
    interpolate_spherically,
)
from techloop.models.audio_vae import AudioVAE
from techloop.models.base import MODEL_FILES


@pytest.fixture(scope="module")
def instrument(latent_vae_folder: Path) -> Instrument:
    return Instrument.load(latent_vae_folder)


def test_a_seed_gives_the_same_loops(instrument: Instrument) -> None:
    a, b = instrument.generate(3, seed=1), instrument.generate(3, seed=1)
    np.testing.assert_array_equal(a, b)
    assert a.shape == (3, instrument.grid.samples)
    assert a.dtype == np.float32
    assert np.abs(a).max() <= 1
    assert not np.array_equal(a, instrument.generate(3, seed=2))
    assert not np.allclose(a[0], a[1])


def test_a_folder_is_enough(
    latent_vae_folder: Path, instrument: Instrument, tmp_path: Path
) -> None:
    copy = shutil.copytree(latent_vae_folder, tmp_path / "elsewhere")
    again = Instrument.load(copy)
    assert again.fingerprint == instrument.fingerprint
    np.testing.assert_array_equal(again.generate(1, 0), instrument.generate(1, 0))


def test_a_sequence_is_one_circle(instrument: Instrument) -> None:
    points = instrument.sample(3, seed=0)
    joined = instrument.render_sequence(points)
    assert joined.shape == (3 * instrument.grid.samples,)
    # Rotating the sequence by one loop rotates the audio, so all bar lines are alike.
    latents = instrument.latents(points)
    with torch.inference_mode():
        chains = [torch.cat([*z], -1)[None] for z in (latents, latents.roll(1, 0))]
        noise = instrument.draw_noise(chains[0], seed=0)
        noises = (noise, noise.roll(instrument.grid.samples, -1))
        audio = [
            instrument.audio_vae.decode(chain, own)[0]
            for chain, own in zip(chains, noises, strict=True)
        ]
    np.testing.assert_allclose(joined, audio[0].numpy(), atol=1e-5)
    assert np.abs(joined - instrument.render(points).ravel()).max() > 1e-3
    torch.testing.assert_close(
        audio[1], audio[0].roll(instrument.grid.samples), atol=1e-4, rtol=1e-4
    )


def test_bars_are_whole_loops(instrument: Instrument, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrument, "grid", Grid(bars=2))
    with pytest.raises(ValueError, match="5 bars are not a whole number of loops"):
        instrument.walk(5, seed=0)


def test_reconstruct_is_render_of_embed(instrument: Instrument, loops_folder: Path) -> None:
    audio = LoopDataset(loops_folder, "test").audio()[:2]
    points = instrument.embed(audio)
    assert points.shape == (2, *instrument.point_shape)
    np.testing.assert_array_equal(instrument.reconstruct(audio), instrument.render(points))


def test_a_morph_is_a_line_between_both_loops(instrument: Instrument, loops_folder: Path) -> None:
    a, b = LoopDataset(loops_folder, "test").audio()[:2]
    out = instrument.morph(a, b, 4)
    assert out.shape == (4 * instrument.grid.samples,)
    ends = instrument.embed(np.stack([a, b]))
    path = interpolate(ends[0], ends[1], 4)
    torch.testing.assert_close(path[[0, -1]], ends)
    np.testing.assert_array_equal(out, instrument.render_sequence(path))


def test_interpolation_is_even() -> None:
    a, b = torch.zeros(2, 3), torch.ones(2, 3)
    assert interpolate(a, b, 5)[:, 0, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    with pytest.raises(ValueError, match="needs 2 bars or more, got 1"):
        interpolate(a, b, 1)


def test_a_walk_is_closed_smooth_and_normally_distributed() -> None:
    walk = closed_walk(64, (8, 4), seed=0)
    assert walk.shape == (64, 8, 4)
    steps = (walk - walk.roll(1, 0)).flatten(1).norm(dim=1)
    assert steps.max() < 0.3 * walk[0].norm()
    assert steps[0] < 2 * steps.median()  # from the last point back to the first
    many = torch.stack([closed_walk(4, (8, 4), seed=s) for s in range(300)])
    assert many.std(0).sub(1).abs().max() < 0.2
    with pytest.raises(ValueError, match="needs 2 bars or more, got 0"):
        closed_walk(0, (8, 4), seed=0)


def test_samples_and_walks_come_from_the_prior(instrument: Instrument) -> None:
    vae = instrument.latent_vae
    assert not torch.equal(vae.prior_factor, torch.eye(len(vae.prior_factor)))
    noise = torch.randn(2, *instrument.point_shape, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(instrument.sample(2, seed=5), vae.sample_prior(noise))
    points = vae.sample_prior(closed_walk(3, instrument.point_shape, seed=5))
    np.testing.assert_array_equal(
        instrument.walk(3, seed=5), instrument.render_sequence(points, seed=5)
    )


def test_noise_is_that_of_its_loop_and_seed(
    instrument: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("techloop.instrument.BATCH", 2)
    latents = instrument.latents(instrument.sample(1, seed=0)).expand(5, -1, -1)
    own, same = instrument.decode(latents, 7), instrument.decode(latents, 7, same_noise=True)
    np.testing.assert_allclose(own[:3], instrument.decode(latents[:3], 7), atol=1e-5)
    np.testing.assert_allclose(same, np.repeat(same[:1], 5, 0), atol=1e-5)
    np.testing.assert_allclose(same[0], own[0], atol=1e-5)
    for a, b in itertools.combinations([*own, instrument.decode(latents[:1], 8)[0]], 2):
        assert np.abs(a - b).max() > 1e-4
    points = torch.randn(1, 100, generator=torch.Generator().manual_seed(7))
    assert not torch.isin(instrument.draw_noise(latents, 7), points).any()


def test_audio_of_another_grid(instrument: Instrument) -> None:
    with pytest.raises(ValueError, match=r"\(n, 30720\)"):
        instrument.embed(np.zeros((1, 1000), np.float32))


def test_models_of_two_runs(latent_vae_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(latent_vae_folder, tmp_path / "mixed")
    config = read_json(copy / "audio_vae" / "config.json")
    write_json(copy / "audio_vae" / "config.json", {**config, "seed": 99})
    with pytest.raises(ValueError, match="files of two runs are mixed"):
        Instrument.load(copy)


def test_an_assembled_instrument_plays_the_tuned_decoder(
    latent_vae_folder: Path, decoder_folder: Path, instrument_folder: Path, instrument: Instrument
) -> None:
    names = {p.relative_to(instrument_folder).as_posix() for p in instrument_folder.rglob("*")}
    assert names == {"audio_vae"} | {
        f"{place}{name}" for place in ("", "audio_vae/") for name in MODEL_FILES
    }
    tuned = Instrument.load(instrument_folder)
    decoder = AudioVAE.load(decoder_folder)
    points = instrument.sample(2, seed=0)
    latents = instrument.latents(points)
    assert torch.equal(tuned.latents(points), latents)
    with torch.inference_mode():
        noise = tuned.draw_noise(latents, seed=0)
        expected = decoder.decode(latents, noise).numpy()
    np.testing.assert_allclose(tuned.render(points), expected, atol=1e-5)
    assert np.abs(tuned.render(points) - instrument.render(points)).max() > 1e-4
    # The encoder is the same, so a recording has the same points.
    audio = instrument.render(points)
    assert torch.equal(tuned.embed(audio), instrument.embed(audio))
    assert tuned.preparation == instrument.preparation
    assert tuned.fingerprint == instrument.fingerprint, "its controls are those of its latent VAE"


def test_an_assembled_instrument_may_play_the_audio_vae_of_its_latents(
    latent_vae_folder: Path, audio_vae_folder: Path, instrument: Instrument, tmp_path: Path
) -> None:
    assemble_instrument(latent_vae_folder, audio_vae_folder, tmp_path / "plain")
    plain = Instrument.load(tmp_path / "plain")
    np.testing.assert_array_equal(plain.generate(1, 0), instrument.generate(1, 0))


def test_a_decoder_tuned_from_another_audio_vae_is_refused(
    latent_vae_folder: Path, decoder_folder: Path, instrument_folder: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(decoder_folder, tmp_path / "other")
    config = read_json(other / "config.json")
    write_json(other / "config.json", {**config, "audio_vae": "0123456789abcdef"})
    with pytest.raises(ValueError, match=r"tuned from 0123456789abcdef, but .* two runs are mixed"):
        assemble_instrument(latent_vae_folder, other, tmp_path / "instrument")
    assert not (tmp_path / "instrument").exists()
    mixed = shutil.copytree(instrument_folder, tmp_path / "mixed")
    shutil.copyfile(other / "config.json", mixed / "audio_vae" / "config.json")
    with pytest.raises(ValueError, match="files of two runs are mixed"):
        Instrument.load(mixed)


def test_an_arc_keeps_its_ends_its_norm_and_its_speed() -> None:
    a, b = torch.tensor([[3.0], [0.0]]), torch.tensor([[0.0], [3.0]])
    arc = interpolate_spherically(a, b, 4)[..., 0]
    torch.testing.assert_close(arc[[0, -1]], torch.stack([a, b])[..., 0])
    angle = torch.atan2(arc[:, 1], arc[:, 0])
    torch.testing.assert_close(angle, torch.linspace(0, torch.pi / 2, 4))
    torch.testing.assert_close(arc.norm(dim=1), torch.full((4,), 3.0))
    # The norm goes from that of one end to that of the other. Without an arc: the straight line.
    norms = interpolate_spherically(a, 2 * b, 3).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([3.0, 4.5, 6.0]))
    for end in (2 * a, -a, 0 * a):
        torch.testing.assert_close(interpolate_spherically(a, end, 5), interpolate(a, end, 5))
    with pytest.raises(ValueError, match="2 bars or more"):
        interpolate_spherically(a, b, 1)
