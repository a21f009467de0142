"""Any folder of audio files, with all folders in it."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from techloop.audio import SUFFIXES, read_audio
from techloop.sources import Item


class FolderSource:
    """The audio files in a folder, recursively, in the order of their names.

    An item's name is the path relative to the folder; each file is its own group, as nothing
    is known of its author. Links are followed, each file and folder is visited once.
    """

    name = "folder"

    def __init__(self, path: str | Path) -> None:
        # Absolute: workers on other machines may run elsewhere.
        self.path = Path(path).absolute()

    def items(self) -> list[Item]:
        """Every file with the suffix of a format that can be read, sorted by name.

        Raises:
            ValueError: there is no such folder, or no audio in it.
        """
        if not self.path.is_dir():
            raise ValueError(
                f"{self.path} is no folder, so there is no audio to prepare. Set "
                "`prepare_loops.folder.path` in params.yaml to the folder that holds yours "
                "(a relative path counts from the top of the repository)."
            )
        names = sorted(path.relative_to(self.path).as_posix() for path in self._files())
        if not names:
            raise ValueError(
                f"{self.path} holds no audio: no file in it, or in a folder in it, ends in one of "
                f"{', '.join(sorted(SUFFIXES))}. `prepare_loops.folder.path` in params.yaml may "
                "name the wrong folder."
            )
        return [Item(name=name, group=name) for name in names]

    def read(self, item: Item) -> tuple[Float[np.ndarray, "channels samples"], int]:
        """Samples in [-1, 1] and their rate in Hz.

        Raises:
            Unreadable: the file is gone, or no decoder opens it.
        """
        return read_audio(self.path / item.name)

    def _files(self) -> Iterator[Path]:
        """Audio files, each once however many links lead to it or round in a circle."""
        seen: set[str] = set()
        for folder, folders, files in os.walk(self.path, followlinks=True):
            folders.sort()
            if (real := os.path.realpath(folder)) in seen:
                folders.clear()
                continue
            seen.add(real)
            for file in sorted(files):
                path = Path(folder, file)
                if path.suffix.lower() in SUFFIXES and (real := os.path.realpath(path)) not in seen:
                    seen.add(real)
                    yield path
