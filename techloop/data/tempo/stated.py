"""Tempi that somebody wrote down: in an annotation, in a file's name, in its tags."""

import re
from pathlib import PurePosixPath
from typing import NamedTuple

from techloop.audio.recording import Tags
from techloop.audio.tags import valid_tempo
from techloop.data.source import Item

# How many times likelier a tempo becomes when it is stated there. `number` weighs least: a bare
# number in a name may count something else.
STATED = {"annotation": 8.0, "name": 6.0, "acid": 5.0, "beats": 5.0, "tag": 5.0, "number": 3.0}
STATED_WITHIN_BPM = 1.0  # stated tempi are mostly whole numbers, rounded or cut off


class Stated(NamedTuple):
    """A tempo that somebody wrote down.

    Attributes:
        by: where, a key of `STATED`.
        bpm: beats per minute.
    """

    by: str
    bpm: float


def tempo_in_name(name: str) -> Stated | None:
    """The tempo that a file name states, by `name` or by `number`; None where it states none.

    `kick_128bpm`, `BPM 93.5 pad` and `bpm128` name it; in `loop_97` a number from 60 to 200 stands
    between separators. The last one counts, as names go from the general to the particular.
    """
    stem = PurePosixPath(name).stem.lower()
    number = r"(\d{2,3}(?:\.\d+)?)"
    labelled = re.findall(rf"(?<![\d.]){number}[\s_-]*bpm|bpm[\s_-]*{number}(?![\d])", stem)
    if labelled:
        return Stated("name", float("".join(labelled[-1])))
    numbers = [float(n) for n in re.findall(rf"(?:^|[\s_-]){number}(?=$|[\s_-])", stem)]
    numbers = [n for n in numbers if 60 <= n <= 200]
    return Stated("number", numbers[-1]) if numbers else None


def stated_tempi(item: Item, tags: Tags, duration_s: float) -> list[Stated]:
    """Every tempo that is written down for an item: its annotation, its name, its tags."""
    annotation = valid_tempo("annotation", item.bpm or 0.0)  # a typing error is not a tempo
    stated = [Stated(by, bpm) for by, bpm in annotation.items()]
    stated += [tempo] if (tempo := tempo_in_name(item.name)) else []
    if not tags.one_shot:  # editors write some tempo into single sounds too
        stated += [Stated(by, bpm) for by, bpm in tags.bpm.items()]
        stated += [Stated("beats", 60 * tags.beats / duration_s)] if tags.beats else []
    return stated
