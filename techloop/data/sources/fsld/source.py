"""The Freesound Loop Dataset as a source of loops (see `published`)."""

import itertools
import math
import os
import tempfile
from collections.abc import Sequence

from upath import UPath

from techloop.audio.io import read_audio
from techloop.audio.recording import Recording, Rejection, Unreadable
from techloop.data.source import Item
from techloop.data.sources.fsld import judgements as listeners
from techloop.data.sources.fsld.files import DAMAGE, leads_out, open_files
from techloop.data.sources.fsld.judgements import Judgement
from techloop.data.sources.fsld.licences import check_licence, is_licence, licence_of
from techloop.data.sources.fsld.metadata import read_judgements, read_metadata
from techloop.data.sources.fsld.published import TOP


class FSLDSource:
    """The loops of the data set, from its folder or out of its archive in place.

    An item's name is `FSL10K/audio/wav/<file>` either way. Its tempo is that of the listeners (see
    `tempo_of`), else the uploader's; its group is its author.

    Args:
        path: the folder `FSL10K`, a folder that holds it or `FSL10K.zip`, or that archive: a local
            path or a URI that fsspec knows.
        licences: those to take, as `CC0` or `CC-BY` (any version, but not `CC-BY-NC`) or
            `CC-BY-3.0`; empty: all.
        genres: those to take, as listeners named them (`house / techno`) or a part of the name
            between slashes (`techno`); empty: all, and sounds without a judgement too.
        min_bpm: lowest annotated tempo, taken literally (78 is not 156). Loops without one stay.
        max_bpm: the highest; None or infinity for any.

    Raises:
        ValueError: a licence that Freesound does not have, or `min_bpm` above `max_bpm`.
    """

    name = "fsld"

    def __init__(
        self,
        path: str,
        *,
        licences: Sequence[str] = (),
        genres: Sequence[str] = (),
        min_bpm: float = 0.0,
        max_bpm: float | None = None,
    ) -> None:
        # Absolute, as workers may run in other folders.
        self.path = str(UPath(path).absolute())
        self.licences = tuple(licences)
        self.genres = tuple(genres)
        self.min_bpm = min_bpm
        self.max_bpm = math.inf if max_bpm is None else max_bpm
        for licence in self.licences:
            check_licence(licence)
        if not self.min_bpm <= self.max_bpm:
            raise ValueError(f"fsld: no tempo is from {min_bpm:g} to {max_bpm:g} BPM")

    def items(self) -> list[Item]:
        """Every WAV, sorted by name; those that a filter or a listener refuses have a `rejection`.

        A WAV without metadata or judgements is an item too; it has fewer values.

        Raises:
            ValueError: the data set is not there, has no metadata, or a genre that was asked for
                is not among its genres.
        """
        open_files.cache_clear()  # the data set may have been replaced
        files = open_files(self.path, os.getpid())
        metadata = read_metadata(files)
        judgements = read_judgements(files)
        self._check_genres(judgements)
        items = []
        for name, size_bytes, version in files.wavs():
            # A name that leads out of the data set is not one of its sounds.
            file = "" if leads_out(name) else name.rpartition("/")[2]
            sound = "".join(itertools.takewhile(str.isdecimal, file))
            item = self._item(
                name, sound, size_bytes, version, metadata.get(sound), judgements.get(sound, [])
            )
            items.append(item)
        return sorted(items, key=lambda item: item.name)

    def read(self, item: Item) -> Recording:
        """The audio of an item.

        Raises:
            Unreadable: the file is gone or damaged, no decoder opens it, or its name leads out of
                the data set.
            ValueError: the data set as a whole is no longer there.
        """
        if leads_out(item.name):
            raise Unreadable(
                f"its name {item.name!r} leads out of the data set, where nothing is read; the "
                "published archive has no such file"
            )
        files = open_files(self.path, os.getpid())
        with tempfile.TemporaryFile() as copy:
            try:
                files.copy(item.name.removeprefix(f"{TOP}/"), copy)
            except DAMAGE as error:
                # Without the folder, which differs between machines where the audio does not.
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise Unreadable(f"{item.name}: {reason or type(error).__name__}") from None
            return read_audio(copy)

    def _check_genres(self, judgements: dict[str, list[Judgement]]) -> None:
        """Check the genres asked for: a misspelt one would reject every loop."""
        named = {genre for answers in judgements.values() for genre in listeners.genres_of(answers)}
        for wanted in self.genres:
            if not any(listeners.is_genre(genre, wanted) for genre in named):
                raise ValueError(
                    f"fsld: no listener named the genre {wanted!r}; those named are: "
                    f"{', '.join(sorted(named)) or 'none, as there are no annotations'}"
                )

    def _item(
        self,
        name: str,
        sound: str,
        size_bytes: int,
        version: str,
        metadata: object,
        judgements: Sequence[Judgement],
    ) -> Item:
        """The item of a WAV, from its metadata and judgements."""
        about = metadata if isinstance(metadata, dict) else {}
        finished = [judgement for judgement in judgements if listeners.is_finished(judgement)]
        accepting = [judgement for judgement in finished if not listeners.is_discarded(judgement)]
        author = str(about.get("username") or "")
        licence = licence_of(str(about.get("license") or ""))
        uploader = about.get("annotations")
        uploader_bpm = uploader.get("bpm") if isinstance(uploader, dict) else None
        bpm = listeners.tempo_of(accepting, listeners.parse_bpm(uploader_bpm))
        rejection = None
        if not leads_out(name):  # reading it rejects it
            discards = len(finished) - len(accepting)
            genres = listeners.genres_of(accepting)
            rejection = _discarded(discards, len(finished)) or self._filtered(licence, genres, bpm)
        return Item(
            name=name,
            group=author or name,
            author=author,
            licence=licence,
            url=f"https://freesound.org/s/{sound}/" if sound else "",
            bpm=bpm,
            beats_per_bar=listeners.beats_per_bar_of(accepting),
            exact=listeners.well_cut(accepting),
            size_bytes=size_bytes,
            version=version,
            rejection=rejection,
        )

    def _filtered(self, licence: str, genres: set[str], bpm: float | None) -> Rejection | None:
        """The first filter that a sound does not pass."""
        if self.licences and not any(is_licence(licence, wanted) for wanted in self.licences):
            detail = "not among the licences asked for"
            return Rejection("licence", detail, licence or "unknown", ", ".join(self.licences))
        if self.genres and not any(
            listeners.is_genre(genre, wanted) for genre in genres for wanted in self.genres
        ):
            detail, named = "not among the genres asked for", ", ".join(sorted(genres))
            return Rejection("genre", detail, named or "unknown", ", ".join(self.genres))
        if bpm is not None and not self.min_bpm <= bpm <= self.max_bpm:
            detail = "its annotated tempo is outside of those asked for"
            return Rejection("tempo", detail, bpm, f"{self.min_bpm:g} to {self.max_bpm:g}")
        return None


def _discarded(discards: int, finished: int) -> Rejection | None:
    """The rejection of a sound that a listener discarded."""
    if not discards:
        return None
    detail = "a listener says that it is not a loop"
    return Rejection("discarded", detail, f"{discards} of {finished}", "0")
