"""Where a channel is clipped: cut off at the limits of its format."""

import math

import numpy as np
from jaxtyping import Bool, Float, Int64

from techloop.audio.recording import NOWHERE

# Size of a quantisation step, as a fraction of full scale, by libsndfile's name of the format.
STEPS = {"PCM_S8": 2**-7, "PCM_U8": 2**-7, "PCM_24": 2**-23, "PCM_32": 2**-23}
LOSSY = frozenset({"VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"})


class Clipping:
    """The clipped samples of one channel, detected block by block (see `read_audio`).

    A clipped channel stays at one value near its peak. The peak is known only after the last
    block, so runs of equal samples near the peak so far are stored as (first, one past the last,
    value), which takes little memory.

    Args:
        rate_hz: sample rate.
        subtype: libsndfile's name of the sample format, such as `PCM_16` or `VORBIS`.
    """

    def __init__(self, rate_hz: int, subtype: str) -> None:
        self.rate_hz = rate_hz
        self.step = STEPS.get(subtype, 2**-15)  # float files often come from 16-bit ones
        self.lossy = subtype in LOSSY
        self.low, self.high = math.inf, -math.inf
        self.runs = [np.empty((0, 3))]

    def add(self, x: Float[np.ndarray, " samples"], start: int) -> None:
        """Add the next block, whose first sample is number `start` of the channel."""
        high, low = float(x.max()), float(x.min())
        self.high, self.low = max(self.high, high), min(self.low, low)
        if max(high, -low) < self._threshold() or self._peak() == 0:
            return
        at = np.flatnonzero(np.abs(x) >= self._threshold())
        ends = np.flatnonzero((np.diff(at) > 1) | ~self._equal(np.diff(x[at])))
        first, last = at[np.append(0, ends + 1)], at[np.append(ends, len(at) - 1)]
        # A short run at an edge of the block may be part of a longer one.
        candidates = (last - first >= 2) | (first == 0) | (last == len(x) - 1)
        run = np.stack([start + first, start + last + 1, x[first]], axis=1, dtype=np.float64)
        self.runs.append(run[candidates])

    def samples(self) -> Int64[np.ndarray, " clipped"]:
        """Numbers of the clipped samples, ascending; call it after the last block."""
        first, end, value = np.concatenate(self.runs).T
        if not len(first) or self.low == self.high:  # a constant signal is not clipped
            return NOWHERE
        joins = (first[1:] == end[:-1]) & self._equal(np.diff(value))
        first, value = first[np.append(True, ~joins)], value[np.append(True, ~joins)]
        end = end[np.append(~joins, True)]
        long = end - first >= self._shortest()
        clipped = np.flatnonzero(long & (np.abs(value) >= self._threshold()))
        runs = [np.arange(first[i], end[i], dtype=np.int64) for i in clipped]
        return np.concatenate(runs) if runs else NOWHERE

    def _peak(self) -> float:
        return max(self.high, -self.low)

    def _threshold(self) -> float:
        """The magnitude from which samples may be clipped."""
        return 1.0 if self.lossy else 0.999 * self._peak()

    def _equal(self, difference: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which neighbours belong to one plateau: those equal up to the rounding of floats.

        In lossy formats all neighbours do, as clipped samples there are not equal.
        """
        equal: np.ndarray = np.abs(difference) <= self._peak() * 2**-22
        return equal | self.lossy

    def _shortest(self) -> int:
        """The fewest samples of a run: 3 in lossy formats, else more than the crest of a sine has.

        Near its crest a sine of 30 Hz is within one step while cos(w) > 1 - step / peak, so for
        |w| < sqrt(2 step / peak), where w grows by 2 pi 30 / rate per sample.
        """
        if self.lossy:
            return 3
        crest = math.sqrt(2 * self.step / self._peak()) * self.rate_hz / (math.pi * 30)
        return max(5, math.floor(crest) + 2)
