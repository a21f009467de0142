"""Where nothing can be written: a clear error, what was there stays, and nothing is lost."""

import builtins
import ctypes
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from techloop.training.latents import extract_latents
from tests.helpers.datasets import contents
from tests.helpers.params import (
    ROOT,
    FullDisk,
    finetune_small_decoder,
    small_params,
    train_small_audio_vae,
    train_small_latent_vae,
)

EXTRACTION = """
import sys
from pathlib import Path
from stages import run_stage
from techloop.training.latents import extract_latents
from tests.helpers.params import small_params

vae, loops, folder, checkpoints = map(Path, sys.argv[1:])
sys.argv[1:] = []
settings = small_params().extract_latents, checkpoints
run_stage(lambda: extract_latents(vae, loops, folder, *settings))
"""


@pytest.fixture(params=["audio_vae", "decoder", "latents", "latent_vae"])
def make(
    request: pytest.FixtureRequest, loops_folder: Path, audio_vae_folder: Path, latents_folder: Path
) -> Callable[[Path], object]:
    """What writes such a folder."""
    params = small_params().extract_latents
    return {
        "audio_vae": lambda folder: train_small_audio_vae(loops_folder, folder),
        "decoder": lambda folder: finetune_small_decoder(loops_folder, audio_vae_folder, folder),
        "latents": lambda folder: extract_latents(
            audio_vae_folder, loops_folder, folder, params, folder.parent / "checkpoints"
        ),
        "latent_vae": lambda folder: train_small_latent_vae(latents_folder, folder, "kl-mean-16"),
    }[request.param]


def test_a_full_disk_costs_nothing_but_the_time(
    make: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "made"

    def on(disk: FullDisk) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(io, "open", disk.open)
            patch.setattr(builtins, "open", disk.open)
            make(folder)

    on(disk := FullDisk(float("inf")))
    before = contents(folder)
    for share in (0.02, 0.5, 0.98):  # at a first checkpoint or shard, at a later one, at the end
        shutil.rmtree(tmp_path / "checkpoints")
        with pytest.raises(OSError, match="No space left"):
            on(FullDisk(share * disk.written))
        assert contents(folder) == before
        assert {p.name for p in tmp_path.iterdir()} <= {"made", "checkpoints"}
    make(folder)
    assert contents(folder) == before
    assert {p.name for p in tmp_path.glob("checkpoints/*/*")} <= {"finished.pt"}


def without_privileges() -> None:
    """Have root, as in a container, be refused like anybody else."""
    if os.geteuid() == 0 and sys.platform == "linux":
        drop_from_bounding_set, override = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
        ctypes.CDLL(None).prctl(drop_from_bounding_set, override)


def test_a_place_that_cannot_be_written_is_named_and_stays(
    loops_folder: Path, audio_vae_folder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "extraction.py"
    script.write_text(EXTRACTION)
    paths = (
        audio_vae_folder,
        loops_folder,
        tmp_path / "data" / "latents",
        tmp_path / "checkpoints",
    )

    def extracted() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(script), *map(str, paths)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            preexec_fn=without_privileges,
            capture_output=True,
            text=True,
            check=False,
        )

    assert extracted().returncode == 0
    before = contents(tmp_path / "data")
    (tmp_path / "data").chmod(0o555)
    try:
        ended = extracted()
    finally:
        (tmp_path / "data").chmod(0o755)
    assert ended.returncode == 1
    assert "Permission denied" in ended.stderr
    assert "latents" in ended.stderr
    assert "make the place writable" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert contents(tmp_path / "data") == before
