"""Where a channel is cut off by the limits of its format."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from techloop.audio.recording import NOWHERE

STEPS = {"PCM_S8": 2**-7, "PCM_U8": 2**-7, "PCM_24": 2**-23, "PCM_32": 2**-23}  # of full scale
LOSSY = frozenset({"VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"})


class Clipping:
    """Where one channel is cut off (see `read_audio`), found as its blocks come by.

    The peak is known only in the end, so what is near the peak so far is kept as runs of equal
    samples, which take next to no memory.
    """

    def __init__(self, rate_hz: int, subtype: str) -> None:
        self.rate_hz = rate_hz
        self.step = STEPS.get(subtype, 2**-15)  # floats were 16 bits often enough
        self.lossy = subtype in LOSSY
        self.low, self.high = math.inf, -math.inf
        self.runs = [np.empty((0, 3))]  # first, one past the last, value

    def _equal(self, difference: Any) -> Any:
        """Whether samples that differ by so much are one plateau; rounding of floats is not."""
        return self.lossy | (np.abs(difference) <= self._peak() * 2**-22)

    def _peak(self) -> float:
        return max(self.high, -self.low)

    def _near(self) -> float:
        """The magnitude from which on samples may be cut off."""
        return 1.0 if self.lossy else 0.999 * self._peak()

    def add(self, x: Float[np.ndarray, " samples"], start: int) -> None:
        """The next block, which begins at the sample `start` of the channel."""
        high, low = float(x.max()), float(x.min())
        self.high, self.low = max(self.high, high), min(self.low, low)
        if max(high, -low) < self._near() or self._peak() == 0:
            return
        at = np.flatnonzero(np.abs(x) >= self._near())
        ends = np.flatnonzero((np.diff(at) > 1) | ~self._equal(np.diff(x[at])))
        first, last = at[np.append(0, ends + 1)], at[np.append(ends, len(at) - 1)]
        # Those at the edges of the block may go on in the next.
        kept = (last - first >= 2) | (first == 0) | (last == len(x) - 1)
        run = np.stack([start + first, start + last + 1, x[first]], axis=1, dtype=np.float64)
        self.runs.append(run[kept])

    def samples(self) -> Int64[np.ndarray, " clipped"]:
        """Numbers of the samples, once all blocks were added."""
        first, end, value = np.concatenate(self.runs).T
        if not len(first) or self.low == self.high:  # what never moves is not cut off
            return NOWHERE
        joins = (first[1:] == end[:-1]) & self._equal(np.diff(value))
        first, value = first[np.append(True, ~joins)], value[np.append(True, ~joins)]
        end = end[np.append(~joins, True)]
        long = end - first >= self._shortest()
        kept = np.flatnonzero(long & (np.abs(value) >= self._near()))
        runs = [np.arange(first[i], end[i], dtype=np.int64) for i in kept]
        return np.concatenate(runs) if runs else NOWHERE

    def _shortest(self) -> int:
        """Samples a run must have: in lossy formats 3, else more than a sine stays on its crest.

        There cos(w) > 1 - step / peak, so |w| < sqrt(2 step / peak), at 2 pi 30 / rate a sample.
        """
        if self.lossy:
            return 3
        stays = math.sqrt(2 * self.step / self._peak()) * self.rate_hz / (math.pi * 30)
        return max(5, math.floor(stays) + 2)
