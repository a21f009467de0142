"""Librosa's tempo estimate, loaded so that processes do not disturb one another."""

import functools
import tempfile
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from filelock import FileLock
from jaxtyping import Float


@runtime_checkable
class TempoEstimator(Protocol):
    """The part of `librosa.feature.tempo` that is used."""

    def __call__(
        self,
        *,
        onset_envelope: Float[np.ndarray, " frames"],
        sr: float,
        hop_length: int,
        prior: object = None,
    ) -> Float[np.ndarray, " 1"]:
        """The tempo in beats per minute, of frames at the rate `sr / hop_length`."""
        ...


class NotInstalledError(ValueError):
    """The installation lacks a package, so no recording in doubt can be prepared."""


@functools.cache
def librosa_tempo() -> TempoEstimator:
    """`librosa.feature.tempo`, compiled: one process after the other.

    Processes that compile for numba's cache at the same time can damage it, and then each process
    that uses it crashes (numba issue 10128).

    Raises:
        NotInstalledError: librosa is not installed.
    """
    with FileLock(Path(tempfile.gettempdir(), "techloop-compiles-librosa.lock"), mode=0o666):
        try:
            from librosa.feature import tempo  # takes seconds, and most recordings do not need it
        except ImportError as error:
            raise NotInstalledError(
                "the tempo is in doubt, and librosa, which helps to decide, cannot be imported "
                f"({error}). `pip install 'techloop[data]'`, or put the tempo into the file's "
                "name, as in `my loop 128bpm.wav`."
            ) from error
        tempo(onset_envelope=np.ones(400, np.float32), sr=40, hop_length=1)  # compiles
        estimator: TempoEstimator = tempo
        return estimator
