"""A drum machine and acid synthesiser that plays techno bars straight onto the grid.

A loop is drawn in three steps: factors (ground truth, independent of one another), a score (which
steps, which notes) and a performance of the score under the factors (`techloop.data.sources.voices`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from techloop.audio.recording import Recording, Unreadable
from techloop.data.source import Item
from techloop.data.sources.voices import BassLine, Hits, Score, Signal, perform
from techloop.grid import STEPS_PER_BEAT, Grid

Factors = dict[str, float]


class Range(NamedTuple):
    """Where a factor is drawn from: uniformly, or uniformly in its logarithm."""

    low: float
    high: float
    log: bool = False

    def at(self, u: float) -> float:
        """The value at the fraction `u` of the range."""
        if self.log:
            return float(self.low * (self.high / self.low) ** u)
        return float(self.low + (self.high - self.low) * u)


# Levels are against the kick's; their lower ends are as good as absent, which makes sparse loops.
# A density is the part of the sixteenths that sound.
FACTORS: dict[str, Range] = {
    "kick_pattern": Range(0.0, 4.0),  # drawn from KICK_PATTERNS_DRAWN instead
    "kick_decay_s": Range(0.06, 0.3, log=True),
    "kick_pitch_hz": Range(42.0, 65.0, log=True),
    "kick_drive_db": Range(0.0, 16.0),
    "hat_density": Range(0.05, 1.0),
    "hat_decay_s": Range(0.012, 0.07, log=True),
    "hat_cutoff_hz": Range(2_500.0, 6_000.0, log=True),
    "open_hat_level_db": Range(-36.0, -5.0),
    "clap_level_db": Range(-36.0, 0.0),
    "percussion_density": Range(0.0, 0.6),
    "percussion_pitch_hz": Range(180.0, 900.0, log=True),
    "rumble_level_db": Range(-34.0, -6.0),
    "bass_root_hz": Range(41.0, 65.0, log=True),
    "bass_density": Range(0.0, 1.0),
    "bass_level_db": Range(-24.0, -2.0),
    "bass_cutoff_hz": Range(120.0, 1_500.0, log=True),
    "bass_resonance": Range(0.0, 0.92),
    "bass_env_octaves": Range(0.0, 3.5),
    "chord_level_db": Range(-36.0, -2.0),
    "chord_cutoff_hz": Range(300.0, 3_000.0, log=True),
    "chord_decay_s": Range(0.05, 1.5, log=True),
    "swing": Range(0.0, 0.33),  # of a sixteenth, by which every second one is late
    "sidechain_db": Range(0.0, 24.0),
    "room_s": Range(0.1, 1.2, log=True),  # until the room has fallen by 60 dB
    "drive_db": Range(0.0, 12.0),
}

# Sixteenths of a 4/4 bar, from straight to broken; `kick_pattern` is the index.
KICKS = (
    (0, 4, 8, 12),
    (0, 4, 8, 12),  # and a pick-up
    (0, 3, 8, 11),
    (0, 6, 10),
    (0, 10),
)
KICK_PATTERNS_DRAWN = (0, 0, 0, 0, 0, 1, 1, 2, 3, 4)
SCALES = (  # semitones over the root
    (0, 2, 3, 5, 7, 8, 10),  # minor
    (0, 1, 3, 5, 7, 8, 10),  # phrygian
    (0, 2, 3, 5, 7, 9, 10),  # dorian
    (0, 1, 4, 5, 7, 8, 10),  # phrygian dominant
)
CHORDS = (  # degrees of the scale
    (0, 2, 4),
    (0, 2, 4, 6),
    (0, 4, 6, 9),
    (0, 3, 6),
    (0, 4, 7, 8),
)


def draw_factors(seed: int, loop: int) -> Factors:
    """The factors of one loop, each drawn on its own."""
    drawn = np.random.default_rng([seed, loop, 0]).random(len(FACTORS))
    factors = {name: spec.at(u) for (name, spec), u in zip(FACTORS.items(), drawn, strict=True)}
    pattern = KICK_PATTERNS_DRAWN[int(drawn[0] * len(KICK_PATTERNS_DRAWN))]
    return factors | {"kick_pattern": float(pattern)}


@dataclass
class SynthSource:
    """Loops of a built-in drum machine, each a function of `seed` and its number alone.

    Raises:
        ValueError: `loops` is not positive or `seed` is negative.
    """

    grid: Grid
    loops: int
    seed: int
    name: str = field(default="synth", init=False)

    def __post_init__(self) -> None:
        if self.loops < 1:
            raise ValueError(f"synth: loops is {self.loops}; there must be at least one")
        if self.seed < 0:
            raise ValueError(f"synth: seed is {self.seed}; it must not be negative")

    def items(self) -> Sequence[Item]:
        """Each loop with its factors; a loop is its own group, as none shares anything."""
        return [
            Item(
                name=name,
                group=name,
                author="techloop",
                licence="CC0-1.0",
                bpm=self.grid.bpm,
                factors=draw_factors(self.seed, loop),
            )
            for loop in range(self.loops)
            for name in [_name(loop)]
        ]

    def read(self, item: Item) -> Recording:
        """Render a loop, as long as the grid's loop, peak below 1.

        Raises:
            Unreadable: the item is none of this source's.
        """
        number = item.name.removeprefix("synth/")
        loop = int(number) if number.isdecimal() else self.loops
        if loop >= self.loops or item.name != _name(loop):
            raise Unreadable(f"{item.name} is none of the {self.loops} loops of the synthesiser")
        audio = render(self.grid, draw_factors(self.seed, loop), self.seed, loop)
        return Recording(audio, self.grid.sample_rate_hz)


def _name(loop: int) -> str:
    return f"synth/{loop:06d}"


def render(grid: Grid, factors: Factors, seed: int, loop: int) -> Signal:
    """The loop that `factors` give to the score and the noise of (seed, loop)."""
    score = compose(grid, factors, np.random.default_rng([seed, loop, 1]))
    return perform(grid, factors, score, np.random.default_rng([seed, loop, 2]))


def compose(grid: Grid, factors: Factors, rng: np.random.Generator) -> Score:
    """A score for the loop: a bar, and bars after it that vary it a little.

    Whatever the factors, the same numbers are drawn, so that a factor changes what it names alone.
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
    rolling = between(-0.3, 0.9)  # keeps the bass off the kick
    bass_mask = _densest(uniform() + rolling * (in_beat == 0), factors["bass_density"])
    degrees = np.array(
        [0, 12, scale[rng.integers(1, 7)], scale[rng.integers(1, 7)] - 12 * one_in(4)]
    )
    wander = between(0.1, 0.7)
    pitch = np.digitize(uniform(), [1 - wander, 1 - 0.65 * wander, 1 - 0.3 * wander])
    accent = uniform() < between(0.1, 0.4)
    tied = uniform() < between(0.0, 0.4)
    if tied[bass_mask].all():  # a circle of slides would have no note that is struck
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
    """The steps of lowest rank in each bar, as many as the density says."""
    return rank.argsort(axis=1).argsort(axis=1) < round(density * rank.shape[1])


def _euclid(
    step: Int[np.ndarray, "bars steps"], pulses: int, steps: int
) -> Bool[np.ndarray, "bars steps"]:
    """`pulses` spread over `steps` as evenly as can be (Toussaint, 2005)."""
    return (step * pulses) % steps < pulses
