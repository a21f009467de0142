"""The synthesiser as a source of loops.

A loop is drawn in three steps: factors (ground truth, independent of one another), a score (which
steps and notes) and a performance of the score under the factors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from techloop.audio.recording import Recording, Unreadable
from techloop.data.source import Item
from techloop.data.sources.synth.factors import Factors, draw_factors
from techloop.data.sources.synth.filters import Signal
from techloop.data.sources.synth.mix import perform
from techloop.data.sources.synth.score import compose
from techloop.grid import Grid


@dataclass
class SynthSource:
    """Loops of the synthesiser; each depends only on `grid`, `seed` and its number.

    Args:
        grid: of the loops.
        loops: how many.
        seed: of all random draws.

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
        """Each loop with its factors; each is its own group, as loops are independent."""
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
            Unreadable: the item is not one of this source.
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
    """The loop with these factors, and with the score and noise of (seed, loop)."""
    score = compose(grid, factors, np.random.default_rng([seed, loop, 1]))
    return perform(grid, factors, score, np.random.default_rng([seed, loop, 2]))
