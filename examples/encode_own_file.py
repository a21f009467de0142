"""Latents of a recording: `python examples/encode_own_file.py MODEL "my loop 128bpm.wav"`.

Needs the base installation; where the tempo is in doubt, also `pip install '.[data]'` (librosa).
"""

from pathlib import Path

import numpy as np
import torch
import typer

from techloop import Instrument
from techloop.audio.wav import INT16_SCALE
from techloop.data.loops import prepare_item
from techloop.data.source import Item
from techloop.data.sources.folder import FolderSource
from techloop.preparation_config import PreparationConfig


def main(model: Path, file: Path, out: Path = Path("latents.npz")) -> None:
    """Cut a recording into loops on the model's grid, and save the posterior means of both VAEs."""
    instrument = Instrument.load(model)
    config, source = PreparationConfig(**instrument.preparation), FolderSource(file.parent)
    loops, _, rejected = prepare_item(source, Item(file.name), instrument.grid, config)
    if not loops:
        raise SystemExit(f"{file} gave no loop: {rejected[0]['detail']}")
    audio = np.stack(loops) / np.float32(INT16_SCALE)
    points = instrument.embed(audio)  # (loops, dimensions, points)
    with torch.inference_mode():  # (loops, dimensions, frames)
        frames, _ = instrument.audio_vae.encode(torch.from_numpy(audio).to(instrument.device))
    np.savez(out, points=points.numpy(), frames=frames.cpu().numpy())
    print(f"{out}: points {tuple(points.shape)}, frames {tuple(frames.shape)}")


if __name__ == "__main__":
    typer.run(main)
