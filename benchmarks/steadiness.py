"""Whether the game of decoder and discriminators stays a game, over many seeds.

    python benchmarks/steadiness.py data/audio_vae/kl data/loops --seeds 10 --steps 500

Each seed is a training of `finetune_decoder` without warm-up, at the sizes of params.yaml. Every
eighth of its loops is replaced by an odd one: silence, a constant, a clipped sine, an impulse. The
last tenth of the steps is judged: steady means that all numbers are finite, and that the
discriminators are neither at chance nor perfect.
"""

import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from torch import Tensor

from techloop.params import DecoderCell, FinetuneDecoder, load_params
from techloop.training.collapse import CHANCE, PERFECT
from techloop.training.decoder import DecoderTask
from techloop.training.distributed import launch_fabric
from techloop.training.loop import fit

ODD_EVERY = 8
JUDGED_SHARE = 0.1  # of the steps, at the end
COLUMNS = ("discriminator_accuracy", "score_real", "score_fake", "feature_distance", "log_distance")


class SteadinessTask(DecoderTask):
    """The same training with odd loops among its batches, and no validation."""

    def batch(self, rows: Sequence[int]) -> Tensor:  # noqa: D102
        x = super().batch(rows)
        for i, row in enumerate(rows):
            if row % ODD_EVERY == 0:
                x[i] = odd_loop(row // ODD_EVERY, x.shape[1])
        return x

    def validate(self) -> dict[str, float]:  # noqa: D102
        return {}


def odd_loop(number: int, samples: int) -> Tensor:
    """Silence, a constant, a clipped sine or an impulse, in turn."""
    t = torch.arange(samples)
    kinds = (
        torch.zeros(samples),
        torch.full((samples,), 0.9),
        torch.sin(t / 20).mul(5).clamp(-1, 1),
        (t == samples // 3).float(),
    )
    return kinds[number % len(kinds)]


def play(
    audio_vae: Path, loops: Path, params: FinetuneDecoder, cell: DecoderCell, seed: int, steps: int
) -> dict[str, float]:
    """Means over the last steps of a training, its seconds per step, and whether it was steady."""
    total = steps * params.training.batch_size
    training = params.training.model_copy(
        update={
            "loops": total,
            "validate_every_loops": total // 4,  # a log is a twentieth
            "checkpoint_every_loops": total,
        }
    )
    params = params.model_copy(update={"training": training, "warmup_loops": 0})
    fabric = launch_fabric()
    task = SteadinessTask(loops, audio_vae, params, cell, seed, fabric.device)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as checkpoints:
        try:
            history = fit(
                task,
                fabric,
                training=training,
                seed=seed,
                log=lambda values, seen: None,
                checkpoints=Path(checkpoints),
            )
        except FloatingPointError as error:
            print(f"seed {seed}: {error}")
            return {"seed": seed, **dict.fromkeys(COLUMNS, math.nan), "steady": False}
    seconds = (time.process_time() - start) / steps
    rows = pd.DataFrame(history).query("split == 'train'")
    last = rows[rows["loops_seen"] > (1 - JUDGED_SHARE) * total][list(COLUMNS)].mean()
    steady = last.notna().all() and CHANCE < last["discriminator_accuracy"] < PERFECT
    return {"seed": seed, **last.to_dict(), "cpu_s_per_step": seconds, "steady": steady}


def main(
    audio_vae: Path,
    loops: Path,
    seeds: int = 10,
    steps: int = 500,
    cell: str = "kl",
    objective: Annotated[str, typer.Option(help="Instead of the cell's.")] = "",
    discriminators: Annotated[str, typer.Option(help="The same, as in scale,period.")] = "",
) -> None:
    """Print a row per seed, and how many were steady."""
    params = load_params().finetune_decoder
    changes = {"objective": objective, "discriminators": discriminators.split(",")}
    given = {name: value for name, value in changes.items() if value not in ("", [""])}
    chosen = DecoderCell.model_validate(params.cell(cell).model_dump() | given)
    print(f"{', '.join(chosen.discriminators)}; {chosen.objective}")
    rows = []
    for seed in range(seeds):
        rows.append(play(audio_vae, loops, params, chosen, seed, steps))
        print(pd.DataFrame(rows[-1:]).to_string(index=False, header=not seed), flush=True)
    print(f"steady: {sum(bool(row['steady']) for row in rows)} of {seeds}")


if __name__ == "__main__":
    typer.run(main)
