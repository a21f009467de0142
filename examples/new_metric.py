"""A metric of your own, on generated loops beside real ones: `new_metric.py MODEL data/loops`.

Needs `pip install '.[data]'`. docs/architecture.md says how the report gets to show it.
"""

import math
from pathlib import Path

import numpy as np
import typer
from jaxtyping import Float

from techloop import Instrument, LoopDataset
from techloop.metric import Metric, by_name, write_metrics

CREST_ERROR = Metric("crest_error", "error of crest factor", "dB", "lower", baselines=("real",))


def crest_factor_db(audio: Float[np.ndarray, "n samples"]) -> float:
    """Peak over root mean square in dB, mean of the loops: 0 for a square wave, 3 for a sine.

    A silent loop has none and is left out; nan where every loop is silent.
    """
    peak, rms = np.abs(audio).max(1), np.sqrt(np.square(audio).mean(1))
    loud = peak > 0
    return float((20 * np.log10(peak[loud] / rms[loud])).mean()) if loud.any() else math.nan


def main(model: Path, loops: Path, out: Path = Path("metrics.json"), n: int = 32) -> None:
    """Measure how far generated loops, and real test loops, are from training loops."""
    splits = (LoopDataset(loops, split) for split in ("train", "test"))
    goal, real = (crest_factor_db(split.audio(range(len(split))[:n])) for split in splits)
    own = crest_factor_db(Instrument.load(model).generate(n, seed=0))
    write_metrics(out, by_name(CREST_ERROR.measured(abs(own - goal), real=abs(real - goal))))
    print(out.read_text())


if __name__ == "__main__":
    typer.run(main)
