"""The data set's metadata and the judgements of listeners, by number of the sound."""

import json
import tempfile
import warnings

from techloop.data.sources.fsld.files import ANNOTATION, DAMAGE, Archive, Folder, read_annotations
from techloop.data.sources.fsld.judgements import Judgement
from techloop.data.sources.fsld.published import ANNOTATIONS, ARCHIVE


def read_metadata(files: Folder | Archive) -> dict[str, object]:
    """The metadata of the sounds.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    try:
        with tempfile.TemporaryFile() as copy:
            files.copy("metadata.json", copy)
            copy.seek(0)
            metadata = json.load(copy)
    except (*DAMAGE, ValueError) as error:
        raise ValueError(
            f"the metadata.json of the Freesound Loop Dataset cannot be read ({error}). Without it "
            "no loop has a licence or an author, so none is used. It lies beside audio/ in "
            f"{ARCHIVE}; `techloop fetch-fsld` fetches that."
        ) from None
    if not isinstance(metadata, dict):
        raise ValueError(
            "the metadata.json of the Freesound Loop Dataset is a "
            f"{type(metadata).__name__}; the published one is an object with one key per sound"
        )
    return metadata


def read_judgements(files: Folder | Archive) -> dict[str, list[Judgement]]:
    """The judgements of each sound; files that cannot be read count as absent, with a warning."""
    judgements: dict[str, list[Judgement]] = {}
    damaged = []
    for name, content in sorted(read_annotations(files), key=lambda annotation: annotation[0]):
        try:
            judgement = json.loads(content) if content is not None else None
        except (ValueError, RecursionError):
            judgement = None
        if not isinstance(judgement, dict):
            damaged.append(name)
        elif sound := ANNOTATION.fullmatch(name):
            judgements.setdefault(sound[1], []).append(judgement)
    if damaged:
        warnings.warn(
            f"fsld: {len(damaged)} annotations cannot be read and count as absent, the first of "
            f"them {damaged[0]}",
            stacklevel=2,
        )
    if not judgements:
        warnings.warn(
            "fsld: no annotations were found, so tempi are those of the uploaders, and meter and "
            f"cut are unknown; {ANNOTATIONS} belongs beside the data set",
            stacklevel=2,
        )
    return judgements
