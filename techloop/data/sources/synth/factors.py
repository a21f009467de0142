"""The factors of a loop: its ground truth, drawn independently of one another."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Factors = Mapping[str, float]


class Range(NamedTuple):
    """The range of a factor, which is drawn uniformly or uniformly in its logarithm."""

    low: float
    high: float
    log: bool = False

    def at(self, u: float) -> float:
        """The value at the fraction `u` of the range."""
        if self.log:
            return float(self.low * (self.high / self.low) ** u)
        return float(self.low + (self.high - self.low) * u)


# Levels are relative to the kick; at their lower ends instruments are inaudible, which makes sparse
# loops. A density is the share of the sixteenths that sound.
FACTORS: dict[str, Range] = {
    "kick_pattern": Range(0.0, 4.0),  # drawn from KICK_PATTERNS instead
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
    "swing": Range(0.0, 0.33),  # delay of every second sixteenth, in sixteenths
    "sidechain_db": Range(0.0, 24.0),
    "room_s": Range(0.1, 1.2, log=True),  # decay of the room by 60 dB
    "drive_db": Range(0.0, 12.0),
}
KICK_PATTERNS = (0, 0, 0, 0, 0, 1, 1, 2, 3, 4)


def draw_factors(seed: int, loop: int) -> dict[str, float]:
    """The factors of one loop, each drawn independently."""
    drawn = np.random.default_rng([seed, loop, 0]).random(len(FACTORS))
    factors = {name: spec.at(u) for (name, spec), u in zip(FACTORS.items(), drawn, strict=True)}
    pattern = KICK_PATTERNS[int(drawn[0] * len(KICK_PATTERNS))]
    return factors | {"kick_pattern": float(pattern)}
