"""New loops from a model folder: `python examples/generate.py data/instrument/kl-posterior-4`.

Needs the base installation alone: `pip install .`
"""

from pathlib import Path
from typing import Annotated

import typer

from techloop import Instrument
from techloop.allocator import keep_freed_memory
from techloop.audio.wav import write_loop


def main(
    model: Annotated[Path, typer.Argument(help="Folder of an instrument.")],
    out: Annotated[Path, typer.Option(help="Folder for the WAV files.")] = Path("out"),
    loops: int = 4,
    seed: int = 0,
) -> None:
    """Write new loops as WAV files that a sampler repeats without a seam."""
    keep_freed_memory()  # twice as fast on Linux
    instrument = Instrument.load(model)
    grid = instrument.grid
    for i, loop in enumerate(instrument.generate(loops, seed)):
        file = out / f"loop-{i:02d}-{grid.bpm:g}bpm.wav"
        write_loop(file, loop, grid.sample_rate_hz, grid.bpm, grid.beats)
        print(file)


if __name__ == "__main__":
    typer.run(main)
