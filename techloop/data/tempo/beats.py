"""A tempo, and where its beats and bars fall in a recording."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

BINS_PER_BEAT = 96  # places within a beat that are told apart


class Beats(NamedTuple):
    """How many beats have passed at which time; both rise.

    Attributes:
        time_s: times in seconds, in ascending order.
        passed: beats since the first downbeat at each of them; negative before it.
    """

    time_s: Float[np.ndarray, " times"]
    passed: Float[np.ndarray, " times"]


@dataclass(frozen=True)
class Tempo:
    """The tempo that a recording is taken to have.

    Attributes:
        bpm: beats per minute; the mean where the tempo drifts.
        confidence: how far the score of the best candidate is above that of the best one of
            another tempo: 0 for a draw, 1 where nothing else fits.
        downbeat_s: where the first whole bar begins, in seconds.
        source: the evidence that decided: a key of `stated.STATED` (which counts only together
            with the onsets or the length), `length` (a whole number of bars), or `onsets` alone.
        circular: the recording is a whole number of bars from its first sample to its last.
        evidence: which evidence supports which tempo, in words.
        beats: the beats passed over time where the tempo drifts, else None.
    """

    bpm: float
    confidence: float
    downbeat_s: float
    source: str
    circular: bool
    evidence: str = ""
    beats: Beats | None = None

    @property
    def steady(self) -> bool:
        """Whether one tempo holds throughout."""
        return self.beats is None

    def bar_lines_s(self, duration_s: float, beats_per_bar: int) -> Float[np.ndarray, " lines"]:
        """Where each whole bar begins and where the last one ends, in seconds."""
        if self.beats is None:
            bar_s = beats_per_bar * 60 / self.bpm
            bars = int((duration_s - self.downbeat_s) / bar_s + 1e-6)
            lines_s: np.ndarray = self.downbeat_s + np.arange(bars + 1) * bar_s
            return lines_s
        passed = np.arange(0, self.beats.passed[-1] + 1e-6, beats_per_bar)
        lines_s = np.interp(passed, self.beats.passed, self.beats.time_s)
        return lines_s
