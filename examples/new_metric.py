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

CREST_FACTOR = Metric("crest_factor", "crest factor", "dB", baselines=("real",))


def crest_factor_db(audio: Float[np.ndarray, "n samples"]) -> float:
    """Peak over root mean square in dB, mean of the loops: 0 for a square wave, 3 for a sine.

    A silent loop has none and is left out; nan where every loop is silent.
    """
    peak, rms = np.abs(audio).max(1), np.sqrt(np.square(audio).mean(1))
    loud = peak > 0
    return float((20 * np.log10(peak[loud] / rms[loud])).mean()) if loud.any() else math.nan


def main(model: Path, loops: Path, out: Path = Path("metrics.json"), n: int = 32) -> None:
    """Measure generated loops and as many real ones."""
    generated = Instrument.load(model).generate(n, seed=0)
    real = LoopDataset(loops, split="test").audio()[:n]
    measured = CREST_FACTOR.measured(crest_factor_db(generated), real=crest_factor_db(real))
    write_metrics(out, by_name(measured))
    print(out.read_text())


if __name__ == "__main__":
    typer.run(main)
