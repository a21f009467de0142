"""The beat grid: exact relations between samples, latent frames, sixteenths, beats and bars."""

from dataclasses import dataclass

STEPS_PER_BEAT = 4  # sixteenth notes


@dataclass(frozen=True)
class Grid:
    """Where every loop's samples and latent frames fall.

    A loop is `bars` bars of `beats_per_bar` beats at `bpm`, sampled at `sample_rate_hz`; a
    latent frame covers `hop` samples. Bars are whole numbers of hops.

    Raises:
        ValueError: a value is not positive, or a bar is not a whole number of hops.
    """

    sample_rate_hz: int = 16_000
    hop: int = 128
    bpm: float = 125.0
    beats_per_bar: int = 4
    bars: int = 1

    def __post_init__(self) -> None:
        for name in ("sample_rate_hz", "hop", "bpm", "beats_per_bar", "bars"):
            if getattr(self, name) <= 0:
                raise ValueError(f"grid: {name} is {getattr(self, name)}; it must be positive")
        one_frame_bpm = 60 * self.sample_rate_hz * self.beats_per_bar / self.hop
        exact = one_frame_bpm / self.bpm
        # A tempo is written with a few decimals, so a millionth of a hop is allowed.
        if round(exact) < 1 or abs(exact - round(exact)) > 1e-6 * exact:
            below = max(int(exact), 1)
            slower, faster = one_frame_bpm / (below + 1), one_frame_bpm / below
            raise ValueError(
                f"grid: at {self.bpm:g} BPM a bar of {self.beats_per_bar} beats is {exact:.4g} "
                f"hops of {self.hop} samples at {self.sample_rate_hz} Hz, and must be a whole "
                f"number of them. The nearest tempi that are: {slower:.10g} and {faster:.10g} BPM "
                f"(any {one_frame_bpm:g} / n)."
            )

    @property
    def frames_per_bar(self) -> int:
        """Latent frames in a bar."""
        return round(60 * self.sample_rate_hz * self.beats_per_bar / (self.hop * self.bpm))

    @property
    def samples_per_bar(self) -> int:
        """Samples in a bar."""
        return self.frames_per_bar * self.hop

    @property
    def frames(self) -> int:
        """Latent frames in a loop."""
        return self.frames_per_bar * self.bars

    @property
    def samples(self) -> int:
        """Samples in a loop."""
        return self.samples_per_bar * self.bars

    @property
    def beats(self) -> int:
        """Beats in a loop."""
        return self.beats_per_bar * self.bars

    @property
    def steps(self) -> int:
        """Sixteenth notes in a loop."""
        return self.beats * STEPS_PER_BEAT

    @property
    def frame_rate_hz(self) -> float:
        """Latent frames per second."""
        return self.sample_rate_hz / self.hop

    @property
    def duration_s(self) -> float:
        """Seconds in a loop."""
        return self.samples / self.sample_rate_hz

    @property
    def lengths(self) -> list[int]:
        """Every length (points per loop) that a latent VAE can have: the divisors of `frames`."""
        return [n for n in range(1, self.frames + 1) if self.frames % n == 0]

    def check_length(self, length: int) -> None:
        """Check that a latent VAE can have this length.

        Raises:
            ValueError: it does not divide the frames of a loop; the message lists those that do.
        """
        if length not in self.lengths:
            raise ValueError(
                f"length: {length} does not divide the {self.frames} latent frames of a loop, so "
                f"its points would not cover equal parts of it. Lengths that do: "
                f"{', '.join(map(str, self.lengths))}."
            )
