"""A small world that tests share: loops on the grid, an audio VAE and a latent VAE of them."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")


LONG = (
    "test_pipeline.py",
    "test_outbox.py",
    "test_tracking.py",
    "test_parallel.py",
    "test_flow.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes run first: at the end, one worker would be busy alone."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository, the current folder; nothing in the environment names another."""
    (tmp_path / ".dvc").mkdir()
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def loops_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/loops` of 60 rendered bars, in several shards."""
    from techloop.data.build import prepare_loops
    from techloop.data.sources.synth.source import SynthSource
    from tests.helpers.params import GRID, preparation, recipe, small_params

    folder = tmp_path_factory.mktemp("world") / "loops"
    loops = small_params().prepare_loops.synth.loops
    checkpoints = folder.parent / "checkpoints"
    arguments = preparation() | {"checkpoints": checkpoints, "workers": 0}
    prepare_loops(SynthSource(GRID, loops, 0), folder, GRID, recipe(), **arguments)
    return folder


@pytest.fixture(scope="session")
def audio_vae_folder(loops_folder: Path) -> Path:
    """`data/audio_vae/kl`, hardly trained."""
    from tests.helpers.params import train_small_audio_vae

    folder = loops_folder.parent / "audio_vae" / "kl"
    train_small_audio_vae(loops_folder, folder)
    return folder


@pytest.fixture(scope="session")
def decoder_folder(loops_folder: Path, audio_vae_folder: Path) -> Path:
    """`data/decoder/kl`: that audio VAE with a decoder hardly fine-tuned."""
    from tests.helpers.params import finetune_small_decoder

    folder = loops_folder.parent / "decoder" / "kl"
    finetune_small_decoder(loops_folder, audio_vae_folder, folder)
    return folder


@pytest.fixture(scope="session")
def latents_folder(loops_folder: Path, audio_vae_folder: Path) -> Path:
    """`data/latents/kl` of these loops and this audio VAE."""
    from techloop.training.latents import extract_latents
    from tests.helpers.params import small_params

    folder = loops_folder.parent / "latents" / "kl"
    extract_latents(audio_vae_folder, loops_folder, folder, small_params().extract_latents)
    return folder


@pytest.fixture(scope="session")
def latent_vae_folder(latents_folder: Path) -> Path:
    """`data/latent_vae/kl-posterior-4`, hardly trained: a whole instrument."""
    from tests.helpers.params import train_small_latent_vae

    folder = latents_folder.parent.parent / "latent_vae" / "kl-posterior-4"
    train_small_latent_vae(latents_folder, folder, "kl-posterior-4")
    return folder


@pytest.fixture(scope="session")
def instrument_folder(latent_vae_folder: Path, decoder_folder: Path) -> Path:
    """`data/instrument/kl-posterior-4`: that latent VAE, which the tuned decoder plays."""
    from techloop.instrument import assemble_instrument

    folder = latent_vae_folder.parent.parent / "instrument" / "kl-posterior-4"
    assemble_instrument(latent_vae_folder, decoder_folder, folder)
    return folder
