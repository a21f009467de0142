"""16-bit samples, and WAV files that samplers play as loops."""

import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int16

from techloop.artifacts import atomic_write

INT16_SCALE = 32_768  # 16-bit value of 1.0, as soundfile reads it


def to_int16(x: Float[np.ndarray, "*shape"]) -> Int16[np.ndarray, "*shape"]:
    """16-bit samples; values beyond [-1, 1) are clipped, never wrapped around."""
    clipped: np.ndarray = np.clip(np.rint(x * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1)
    return clipped.astype(np.int16)


def write_loop(
    path: str | Path,
    samples: Float[np.ndarray, " samples"],
    sample_rate_hz: int,
    bpm: float,
    beats: int,
) -> None:
    """Write a 16-bit WAV that samplers loop over its whole length (`smpl`) at its tempo (`acid`).

    The file appears complete or not at all. A loop with samples beyond [-1, 1] is turned down.

    Args:
        path: the file; its folder is created where it is missing.
        samples: one channel.
        sample_rate_hz: their rate.
        bpm: tempo.
        beats: the length of the samples, in beats.

    Raises:
        ValueError: `samples` is empty, holds NaN or infinities, or is not `beats` beats long at
            `bpm`.
    """
    if not samples.size or not np.isfinite(samples).all():
        raise ValueError(
            f"{path} was not written: it would have {samples.size} samples, of which "
            f"{np.count_nonzero(~np.isfinite(samples))} are NaN or infinite."
        )
    expected = beats * 60 * sample_rate_hz / bpm
    if abs(expected - len(samples)) > 1:
        raise ValueError(
            f"{path} was not written: {beats} beats at {bpm:g} BPM are {expected:.1f} samples at "
            f"{sample_rate_hz} Hz, got {len(samples)}; a player would not stay in time with it."
        )
    data = to_int16(samples / max(1.0, float(np.abs(samples).max()))).tobytes()
    chunks = {
        b"fmt ": struct.pack("<HHIIHH", 1, 1, sample_rate_hz, 2 * sample_rate_hz, 2, 16),
        b"data": data,
        # One endless forward loop from the first sample to the last (inclusive).
        b"smpl": struct.pack("<9I", 0, 0, round(1e9 / sample_rate_hz), 60, 0, 0, 0, 1, 0)
        + struct.pack("<6I", 0, 0, 0, len(samples) - 1, 0, 0),
        b"acid": struct.pack("<IHHfIHHf", 0, 60, 0x8000, 0.0, beats, 4, 4, bpm),
    }
    # All of these chunks have an even number of bytes, so none needs padding.
    body = b"".join(name + struct.pack("<I", len(c)) + c for name, c in chunks.items())
    atomic_write(path, b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)
