"""Recordings of one sound, which have no tempo."""

import numpy as np

from techloop.audio.recording import Rejected
from techloop.data.tempo.envelope import Envelope

SECOND_ONSET = 0.15  # share of the strongest onset from which on another one counts
DECAY_DB = 20.0  # how far a single hit has fallen by its last third


def refuse_single_hit(envelope: Envelope) -> None:
    """Refuse a recording of one onset that dies away: nothing in it says how fast to play it.

    Raises:
        Rejected: `single_hit`.
    """
    flux, level = envelope.onsets, np.expm1(envelope.level).sum(axis=1)
    nearby = np.lib.stride_tricks.sliding_window_view(np.pad(flux, 8, mode="wrap"), 17)
    onsets = (flux == nearby.max(axis=1)) & (flux > SECOND_ONSET * flux.max(initial=1e-9))
    if onsets.sum() > 1:
        return
    tail = level[2 * len(level) // 3 : -8]  # later windows reach the first sample again
    fall_db = 20 * np.log10((level.max() + 1e-9) / (tail.max() + 1e-9))
    if fall_db > DECAY_DB:
        raise Rejected("single_hit", "onsets, after which it dies away", float(onsets.sum()), 2.0)
