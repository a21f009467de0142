"""Judgements of listeners: tempo, meter and genres of a sound, and whether it is a loop."""

import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

SAME_TEMPO = 0.01  # relative difference up to which two tempi are the same

Judgement = Mapping[str, object]  # the answers of one listener about one sound, by question


def tempo_of(judgements: Sequence[Judgement], uploader: float | None) -> float | None:
    """The tempo that most listeners gave, in beats per minute; a tie is decided by the uploader.

    Without listeners it is the uploader's, which the makers of the data set read off the sound's
    name and tags. None: nobody gave one, or the listeners do not agree and none of them agrees
    with the uploader.
    """
    if not judgements:
        return uploader
    given = []
    for judgement in judgements:
        # Early judgements have no `defined_tempo`, but "none" as their tempo.
        bpm = parse_bpm(judgement.get("bpm"))
        if bpm is not None and _is_true(judgement.get("defined_tempo", True)):
            given.append(bpm)
    if not given:
        return None

    def votes(bpm: float) -> float:
        listeners = sum(math.isclose(bpm, other, rel_tol=SAME_TEMPO) for other in given)
        agrees = uploader is not None and math.isclose(bpm, uploader, rel_tol=SAME_TEMPO)
        return listeners + 0.5 * agrees

    most = max(votes(bpm) for bpm in given)
    winners = sorted(bpm for bpm in given if votes(bpm) == most)
    if not math.isclose(winners[0], winners[-1], rel_tol=SAME_TEMPO):
        return None
    return uploader if uploader in winners else statistics.median_low(winners)


def beats_per_bar_of(judgements: Sequence[Judgement]) -> int | None:
    """Upper number of the time signature ("3/4") that most listeners gave; None where they tie."""
    beats = Counter(
        int(match[1])
        for judgement in judgements
        if (match := re.fullmatch(r"\s*([1-9]\d?)\s*/\s*\d+\s*", str(judgement.get("signature"))))
    )
    ranking = beats.most_common(2)
    if not ranking or (len(ranking) == 2 and ranking[0][1] == ranking[1][1]):
        return None
    return ranking[0][0]


def well_cut(judgements: Sequence[Judgement]) -> bool | None:
    """Whether all listeners say that it is cut at bar lines; None where nobody was asked."""
    answers = [_is_true(j["well_cut"]) for j in judgements if "well_cut" in j]
    return all(answers) if answers else None


def genres_of(judgements: Sequence[Judgement]) -> set[str]:
    """All genres that listeners named: those in which they would use the loop."""
    lists = [j.get("genres") for j in judgements]
    return {str(genre).lower() for genres in lists if isinstance(genres, list) for genre in genres}


def is_genre(genre: str, wanted: str) -> bool:
    """Whether a genre (`house / techno`) is the wanted one, or the wanted one is a part of it."""
    wanted = wanted.strip().lower()
    return wanted == genre or wanted in [part.strip() for part in genre.split("/")]


def is_finished(judgement: Judgement) -> bool:
    """Whether the listener did not save the sound for later."""
    return not _is_true(judgement.get("save_for_later"))


def is_discarded(judgement: Judgement) -> bool:
    """Whether the listener says that the sound is not a loop."""
    return _is_true(judgement.get("discard"))


def parse_bpm(value: object) -> float | None:
    """A tempo from JSON, where it is a number or typed by hand; None where it is neither."""
    try:
        bpm = float(str(value).strip())
    except ValueError:
        return None
    return bpm if math.isfinite(bpm) and bpm > 0 else None


def _is_true(value: object) -> bool:
    return str(value).strip().lower() == "true"
