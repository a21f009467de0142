"""How fast latents are extracted, and how fast they are read.

    python benchmarks/latents.py data/audio_vae/kl data/loops

Extracts into a temporary folder, then writes a data set of a gigabyte with the same card and reads
it, in order and at random, from a warm cache.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from techloop.allocator import keep_freed_memory
from techloop.artifacts import read_json, write_json
from techloop.data.datasets import LatentDataset, LoopDataset, latents_header
from techloop.params import ExtractLatents
from techloop.training.latents import extract_latents

SHARDS, LOOPS = 4, 4_000  # a loop has 2 x 31 kB at 32 dimensions


def write_large(folder: Path, to: Path) -> LatentDataset:
    """A data set of many random loops, with the card of another."""
    card, small = read_json(folder / "card.json"), LatentDataset(folder)
    to.mkdir()
    header = latents_header(card["model"], small.grid)
    card["shards"] = [
        {"file": f"latents-{i:05d}.safetensors", "loops": LOOPS} for i in range(SHARDS)
    ]
    for shard in card["shards"]:
        values = torch.randn(2, LOOPS, *small.mu.shape[1:])
        save_file({"mu": values[0], "sigma": values[1].abs()}, to / shard["file"], header)
    places = [(i, j) for i in range(SHARDS) for j in range(LOOPS)]
    pd.DataFrame(places, columns=["shard", "row"]).assign(split="train").to_parquet(
        to / "index.parquet"
    )
    write_json(to / "card.json", card)
    return LatentDataset(to)


def main() -> None:
    """Extract, read, and print the speeds."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("audio_vae", help="the folder of a trained audio VAE")
    parser.add_argument("loops", help="a prepared data set")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, loops = Path(place) / "latents", LoopDataset(arguments.loops)
        start = time.perf_counter()
        params = ExtractLatents(batch_size=16, shard_mb=256)
        extract_latents(
            arguments.audio_vae, arguments.loops, folder, params, Path(place) / "checkpoints"
        )
        seconds = time.perf_counter() - start
        print(f"extraction: {len(loops) * loops.grid.duration_s / seconds:.0f} times real time")
        latents = write_large(folder, Path(place) / "large")
        size = sum(v.nbytes for v in latents[0])

        def read(name: str, loader: object) -> None:
            start, count = time.perf_counter(), 0
            for mu, _ in loader:  # type: ignore[attr-defined]
                count += len(mu)
            seconds = time.perf_counter() - start
            print(f"{name}: {count * size / seconds / 1e9:.1f} GB/s")

        read("first reading, in batches of 64", DataLoader(latents, batch_size=64))
        read("in order", DataLoader(latents, batch_size=64))
        read("at random", DataLoader(latents, batch_size=64, shuffle=True))
        rows = torch.randint(len(latents), (5_000,)).tolist()
        start = time.perf_counter()
        for row in rows:
            latents[row]
        print(f"an item at random: {1e6 * (time.perf_counter() - start) / len(rows):.0f} us")


if __name__ == "__main__":
    main()
