"""Do loops have the tempo of their grid, by an independent estimator."""

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats

from techloop.audio.descriptors import onset_strength
from techloop.data.tempo.librosa_tempo import librosa_tempo
from techloop.evaluation.baselines import OTHER_SAMPLES
from techloop.grid import Grid
from techloop.metric import Metric

# Half of all tempi would pass by chance: best at the value of real loops.
TEMPO_SHARE = Metric("tempo_share", "share of loops at the grid's tempo", baselines=OTHER_SAMPLES)


def tempo_share(audio: Float[np.ndarray, "n samples"], grid: Grid) -> float:
    """Share of loops whose tempo is the grid's, or half, twice, a third or three times it.

    Within 4 %. librosa estimates the tempo from the onset strength of each loop repeated four
    times: the highest peak of its tempogram between 30 and 300 BPM, without its preference for 120.
    A loop without onsets has no tempo. About half of all tempi pass by chance: compare with real
    loops.

    References:
        Gouyon et al., An experimental comparison of audio tempo induction algorithms, 2006,
        section 4 (accuracy 2).
    """
    strength = onset_strength(torch.from_numpy(audio), grid.sample_rate_hz, grid.hop).numpy()
    even, tempo = stats.uniform(30, 270), librosa_tempo()
    tempi = np.array(
        [
            tempo(onset_envelope=np.tile(x, 4), sr=grid.frame_rate_hz, hop_length=1, prior=even)[0]
            if x.any()
            else math.nan
            for x in strength
        ]
    )
    accepted = grid.bpm * np.array([1 / 3, 1 / 2, 1, 2, 3])
    return float((np.abs(tempi[:, None] / accepted - 1) <= 0.04).any(1).mean())
