"""Speed of the descriptors on one core: `python benchmarks/descriptors.py [LOOPS]`.

All descriptors of frames and loops, compared with those that librosa has of the same frames.
LOOPS is a folder of `prepare_loops`; without it, noise of the same size is used.
"""

import argparse
import time
from collections.abc import Callable

import librosa
import numpy as np
import torch

from techloop.allocator import keep_freed_memory
from techloop.audio.descriptors import WINDOW, frame_descriptors, loop_descriptors
from techloop.data.datasets import LoopDataset
from techloop.grid import Grid

BATCH, ROUNDS = 8, 5


def fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of `ROUNDS` calls, after a first one."""
    call()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def by_librosa(loop: np.ndarray, grid: Grid) -> None:
    """The frame descriptors that librosa has, from one spectrogram."""
    magnitude = np.abs(librosa.stft(loop, n_fft=WINDOW, hop_length=grid.hop))
    given = {"S": magnitude, "sr": grid.sample_rate_hz}
    centroid = librosa.feature.spectral_centroid(**given)
    librosa.feature.spectral_bandwidth(**given, centroid=centroid)
    librosa.feature.spectral_rolloff(**given)
    librosa.feature.spectral_flatness(S=magnitude)
    librosa.feature.rms(S=magnitude, frame_length=WINDOW)
    librosa.feature.zero_crossing_rate(loop, frame_length=WINDOW, hop_length=grid.hop)
    librosa.onset.onset_strength(
        y=loop, sr=grid.sample_rate_hz, n_fft=512, hop_length=grid.hop, n_mels=40
    )


def main() -> None:
    """Print the table."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loops", nargs="?", help="folder of prepare_loops")
    folder = parser.parse_args().loops
    torch.set_num_threads(1)
    if folder:
        loops = LoopDataset(folder, "test")
        grid, audio = loops.grid, torch.from_numpy(loops.audio(range(min(64, len(loops)))))
    else:
        grid = Grid()
        audio = 0.1 * torch.randn(64, grid.samples, generator=torch.Generator().manual_seed(0))
    duration_s = len(audio) * grid.duration_s

    def each(describe: Callable[[torch.Tensor], object]) -> Callable[[], None]:
        def call() -> None:
            for part in audio.split(BATCH):
                describe(part)

        return call

    rows = {
        "frame descriptors (10)": each(
            lambda x: frame_descriptors(x, grid.sample_rate_hz, grid.hop)
        ),
        "loop descriptors (13, and so all)": each(lambda x: loop_descriptors(x, grid)),
        "librosa's of the frame (7)": lambda: [by_librosa(x, grid) for x in audio.numpy()],
    }
    print(f"{len(audio)} loops, {duration_s:.0f} s; one thread\n")
    for name, call in rows.items():
        seconds = fastest(call)
        print(f"{name:36}{duration_s / seconds:8.0f} x real time")


if __name__ == "__main__":
    main()
