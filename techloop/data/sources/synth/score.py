"""The score of a loop: which steps and notes are played, and how."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from techloop.data.sources.synth.factors import Factors
from techloop.grid import STEPS_PER_BEAT, Grid

# Kicks in sixteenths of a 4/4 bar, from straight to broken; `kick_pattern` is the index.
KICKS = (
    (0, 4, 8, 12),
    (0, 4, 8, 12),  # with a pick-up
    (0, 3, 8, 11),
    (0, 6, 10),
    (0, 10),
)
SCALES = (  # semitones above the root
    (0, 2, 3, 5, 7, 8, 10),  # minor
    (0, 1, 3, 5, 7, 8, 10),  # phrygian
    (0, 2, 3, 5, 7, 9, 10),  # dorian
    (0, 1, 4, 5, 7, 8, 10),  # phrygian dominant
)
CHORDS = (  # as degrees of the scale
    (0, 2, 4),
    (0, 2, 4, 6),
    (0, 4, 6, 9),
    (0, 3, 6),
    (0, 4, 7, 8),
)


class Hits(NamedTuple):
    """The sixteenths that sound, ascending, and how hard each is struck (0 to 1)."""

    steps: Int[np.ndarray, " hits"]
    velocity: Float[np.ndarray, " hits"]


class BassLine(NamedTuple):
    """Notes of the bass; a tied note slides from the note before."""

    steps: Int[np.ndarray, " hits"]
    semitones: Int[np.ndarray, " hits"]
    accent: Bool[np.ndarray, " hits"]
    tied: Bool[np.ndarray, " hits"]


@dataclass(frozen=True)
class Score:
    """What is played, and settings of the instruments that are not factors."""

    kick: Hits
    hat: Hits
    open_hat: Hits
    clap: Hits
    percussion: tuple[Hits, Hits]
    bass: BassLine
    chord: Hits
    chord_semitones: tuple[int, ...]
    kick_sweep_octaves: float
    kick_sweep_s: float
    kick_click: float
    hat_level: float
    hat_metal: float
    open_hat_decay_s: float
    snare: bool
    clap_decay_s: float
    percussion_level: float
    percussion_decay_s: float
    percussion_fm: float
    percussion_ratio: float
    bass_square: bool
    bass_gate: float
    bass_decay_s: float
    chord_lfo_cycles: int
    chord_lfo_octaves: float
    chord_lfo_phase: float
    chord_env_octaves: float
    delay_feedback: float


def compose(grid: Grid, factors: Factors, rng: np.random.Generator) -> Score:
    """The score of a loop: its first bar, and the bars after it with small variations.

    The number of random draws does not depend on the factors, so that a factor changes nothing but
    what it names.
    """
    per_bar = grid.beats_per_bar * STEPS_PER_BEAT
    in_bar = np.tile(np.arange(per_bar), (grid.bars, 1))
    in_beat = in_bar % STEPS_PER_BEAT

    def uniform() -> Float[np.ndarray, "bars steps"]:
        bar = np.tile(rng.random(per_bar), (grid.bars, 1))
        other, again = rng.random((2, *bar.shape))
        return np.where((again < 0.15) & (np.arange(grid.bars)[:, None] > 0), other, bar)

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def one_in(n: int) -> bool:
        return bool(rng.integers(n) == 0)

    def hits(mask: Bool[np.ndarray, "bars steps"], velocity: Float[np.ndarray, "..."]) -> Hits:
        return Hits(np.flatnonzero(mask), np.broadcast_to(velocity, mask.shape)[mask])

    pickup = (7, 11, 14, 15)[rng.integers(4)]
    pattern = int(factors["kick_pattern"])
    kick_mask = np.isin(in_bar % 16, KICKS[pattern])
    pickup_mask = ((in_bar % 16) == pickup) & (pattern == 1)
    kick = hits(kick_mask | pickup_mask, np.where(pickup_mask, 0.75, 1.0))

    off_beat = np.where(in_beat == 2, between(-0.3, 1.0), 0)
    hat_velocity = 0.45 + 0.25 * uniform() + 0.3 * (in_beat == 2)
    hat = hits(_densest(uniform() - off_beat, factors["hat_density"]), hat_velocity)
    open_every = (4, 4, 8)[rng.integers(3)]
    open_hat = hits(in_bar % open_every == open_every - 2, np.ones(()))

    ghost = (uniform() < 0.06) & one_in(2)
    backbeat = in_bar % 8 == 4
    clap = hits(backbeat | ghost, np.where(backbeat, 1.0, 0.4))

    density = factors["percussion_density"]
    turns = rng.integers(per_bar, size=2)
    accents = 0.6 + 0.4 * uniform()
    percussion = (
        hits(_euclid(in_bar + turns[0], round(density * per_bar), per_bar), accents),
        hits(_euclid(in_bar + turns[1], round(density * per_bar / 2), per_bar), 0.8 * accents),
    )

    scale = SCALES[rng.integers(len(SCALES))]
    rolling = between(-0.3, 0.9)  # moves the bass away from the kick
    bass_mask = _densest(uniform() + rolling * (in_beat == 0), factors["bass_density"])
    degrees = np.array(
        [0, 12, scale[rng.integers(1, 7)], scale[rng.integers(1, 7)] - 12 * one_in(4)]
    )
    wander = between(0.1, 0.7)
    pitch = np.digitize(uniform(), [1 - wander, 1 - 0.65 * wander, 1 - 0.3 * wander])
    accent = uniform() < between(0.1, 0.4)
    tied = uniform() < between(0.0, 0.4)
    if tied[bass_mask].all():  # a note must begin somewhere
        tied[:] = False
    bass = BassLine(
        np.flatnonzero(bass_mask), degrees[pitch][bass_mask], accent[bass_mask], tied[bass_mask]
    )

    stabs = rng.choice(per_bar, size=min(int(rng.integers(1, 5)), per_bar), replace=False)
    chord = hits(np.isin(in_bar, stabs), 0.7 + 0.3 * uniform())
    shape = CHORDS[rng.integers(len(CHORDS))]
    root = int(rng.choice([0, 0, 0, 3, 5]))
    return Score(
        kick=kick,
        hat=hat,
        open_hat=open_hat,
        clap=clap,
        percussion=percussion,
        bass=bass,
        chord=chord,
        chord_semitones=tuple(
            24 + scale[(root + d) % 7] + 12 * ((root + d) // 7) - 12 * (root > 2) for d in shape
        ),
        kick_sweep_octaves=between(1.8, 3.2),
        kick_sweep_s=between(0.015, 0.045),
        kick_click=between(0.1, 0.8),
        hat_level=between(0.15, 0.4),
        hat_metal=between(0.0, 0.8),
        open_hat_decay_s=between(0.08, 0.25),
        snare=one_in(3),
        clap_decay_s=between(0.05, 0.14),
        percussion_level=between(0.1, 0.45),
        percussion_decay_s=between(0.02, 0.12),
        percussion_fm=between(0.0, 1.5) * (not one_in(3)),
        percussion_ratio=between(1.3, 2.6),
        bass_square=one_in(3),
        bass_gate=between(0.4, 0.95),
        bass_decay_s=between(0.05, 0.3),
        chord_lfo_cycles=int(rng.integers(1, 3)),
        chord_lfo_octaves=between(0.2, 1.2),
        chord_lfo_phase=between(0.0, 2 * np.pi),
        chord_env_octaves=between(0.0, 2.0),
        delay_feedback=between(0.2, 0.65) * (not one_in(3)),
    )


def _densest(
    rank: Float[np.ndarray, "bars steps"], density: float
) -> Bool[np.ndarray, "bars steps"]:
    """The steps of lowest rank in each bar; their share is `density`."""
    chosen: np.ndarray = rank.argsort(axis=1).argsort(axis=1) < round(density * rank.shape[1])
    return chosen


def _euclid(
    step: Int[np.ndarray, "bars steps"], pulses: int, steps: int
) -> Bool[np.ndarray, "bars steps"]:
    """`pulses` spread over `steps` as evenly as possible (Euclidean rhythm; Toussaint, 2005)."""
    pulse: np.ndarray = (step * pulses) % steps < pulses
    return pulse
