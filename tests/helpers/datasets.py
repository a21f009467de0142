"""Small loop and latent folders for the tests of the evaluation, written as the stages would."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from techloop.artifacts import write_json
from techloop.data.datasets import latents_header
from tests.helpers.params import GRID


def kicks(n: int, seed: int = 0) -> np.ndarray:
    """`n` loops of four kicks and some hiss, each with another brightness and decay."""
    rng = np.random.default_rng(seed)
    t = np.arange(GRID.samples) / GRID.sample_rate_hz
    loops = []
    for _ in range(n):
        hit = np.exp(-t / rng.uniform(0.05, 0.15)) * np.sin(2 * np.pi * rng.uniform(45, 70) * t)
        beat = GRID.samples // GRID.beats
        kick = sum(np.roll(hit, b * beat) for b in range(GRID.beats))
        hiss = np.convolve(rng.standard_normal(t.size + 7), np.ones(8) / 8, "valid")
        loops.append(0.5 * kick + rng.uniform(0.005, 0.1) * hiss)
    return np.stack(loops).astype(np.float32)


def write_loops(folder: Path, audio: np.ndarray, splits: list[str], **factors: np.ndarray) -> Path:
    """A loops folder; keyword arguments become columns `factor_<name>`."""
    folder.mkdir()
    n = len(audio)
    np.save(folder / "audio-00000.npy", np.rint(audio.clip(-1, 1) * 32767).astype(np.int16))
    names = [f"made/{i:03d}" for i in range(n)]
    columns = {"loop_id": names, "name": names, "shard": 0, "row": range(n), "split": splits}
    columns |= {f"factor_{name}": values for name, values in factors.items()}
    pd.DataFrame(columns).to_parquet(folder / "index.parquet")
    card = {"format": 1, "grid": asdict(GRID), "splits": {}, "fingerprint": "0" * 16}
    write_json(folder / "card.json", card | {"shards": [{"file": "audio-00000.npy", "loops": n}]})
    return folder


def write_latents(folder: Path, loops: Path, mu: np.ndarray) -> Path:
    """A latents folder with the given means, for the loops of another folder."""
    folder.mkdir()
    tensor = torch.from_numpy(mu).contiguous()
    file, model = "latents-00000.safetensors", "1" * 16
    save_file(
        {"mu": tensor, "sigma": torch.full_like(tensor, 0.1)},
        folder / file,
        latents_header(model, GRID),
    )
    pd.read_parquet(loops / "index.parquet").to_parquet(folder / "index.parquet")
    card = {"format": 2, "grid": asdict(GRID), "splits": {}, "model": model}
    card |= {"shards": [{"file": file, "loops": len(mu)}]}
    card |= {"mean": mu.mean((0, 2)).tolist(), "std": mu.std((0, 2)).tolist()}
    write_json(folder / "card.json", card)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder: their content by relative path."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
