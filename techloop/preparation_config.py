"""How recordings are brought to the grid: the section `prepare_loops.recipe` of params.yaml."""

from dataclasses import dataclass
from typing import Literal

StretchMethod = Literal["resample", "preserve_pitch"]
TrackerName = Literal["librosa", "beat_this"]


@dataclass(frozen=True)
class PreparationConfig:
    """What turns a recording into loops, besides the grid. Stored with each dataset and model.

    Attributes:
        min_bpm: lowest tempo a recording is taken to have; others are folded to an octave.
        max_bpm: highest.
        min_confidence: recordings whose tempo is less certain are rejected; in [0, 1].
        tracker: the beat tracker asked besides our own estimate: `librosa`, or `beat_this` where
            it is installed.
        stretch: `resample`, where pitch follows tempo, or `preserve_pitch`.
        loudness_lufs: what loops are normalised to, as far as their peaks allow.
        silence_lufs: quieter loops are rejected.
        max_clipped_share: loops with a larger share of clipped samples are rejected; in [0, 1].
        max_dc_offset: loops with a larger mean (1 is full scale) are rejected, a smaller mean is
            removed; in [0, 1].

    Raises:
        ValueError: the tempi are not a range, or a share is not in [0, 1].
    """

    min_bpm: float = 90.0
    max_bpm: float = 180.0
    min_confidence: float = 0.2
    tracker: TrackerName = "librosa"
    stretch: StretchMethod = "resample"
    loudness_lufs: float = -16.0
    silence_lufs: float = -60.0
    max_clipped_share: float = 0.05
    max_dc_offset: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.min_bpm < self.max_bpm:
            raise ValueError(
                f"min_bpm {self.min_bpm:g} and max_bpm {self.max_bpm:g} are not a range of tempi: "
                "min_bpm must be positive and lower. 90 and 180 are one octave, which gives each "
                "tempo one place."
            )
        for name in ("min_confidence", "max_clipped_share", "max_dc_offset"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} is {value:g}; it must be from 0 to 1")
