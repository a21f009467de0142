"""Beat trackers by others, whose tempo is further evidence."""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from techloop.data.tempo.envelope import ENVELOPE_HZ, Envelope
from techloop.data.tempo.librosa_tempo import NotInstalledError, librosa_tempo
from techloop.preparation_config import TrackerName

# How many times likelier a tempo becomes when a tracker finds it.
TRACKER_WEIGHT: dict[TrackerName, float] = {"librosa": 1.5, "beat_this": 3.0}
TRACKER_WITHIN = 0.02  # how near a tempo must be to count as the same, as a share
Tracker = Callable[
    [Float[np.ndarray, " samples"], int, Envelope],
    tuple[float, Float[np.ndarray, " n"] | None],
]


def _librosa(
    x: Float[np.ndarray, " samples"], sample_rate_hz: int, envelope: Envelope
) -> tuple[float, None]:
    """Tempo by librosa, from the middle minute of a long recording; no downbeats.

    References:
        Ellis, Beat Tracking by Dynamic Programming, 2007, section 3.2; by librosa.
    """
    rate_hz = ENVELOPE_HZ // 4
    flux = envelope.onsets
    flux = flux[: len(flux) // 4 * 4].reshape(-1, 4).sum(axis=1)
    first = max(len(flux) // 2 - 30 * rate_hz, 0)
    middle = flux[first : first + 60 * rate_hz]
    return float(librosa_tempo()(onset_envelope=middle, sr=rate_hz, hop_length=1)[0]), None


def _beat_this(
    x: Float[np.ndarray, " samples"], sample_rate_hz: int, envelope: Envelope
) -> tuple[float, Float[np.ndarray, " n"] | None]:
    """Tempo and downbeats by beat_this; 0 and None where it finds no beat.

    References:
        Foscarin, Schlüter & Widmer, Beat this! Accurate beat tracking without DBN postprocessing,
        2024.

    Raises:
        NotInstalledError: it is not installed.
    """
    beats_s, downbeats_s = (
        np.asarray(times_s, float) for times_s in beat_this_model()(x, sample_rate_hz)
    )
    if len(beats_s) < 2:
        return 0.0, None
    return 60 / float(np.median(np.diff(beats_s))), downbeats_s if len(downbeats_s) else None


@functools.cache
def beat_this_model() -> Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    """beat_this with its weights: `(samples, rate)` to the times of beats and downbeats.

    Raises:
        NotInstalledError: it is not installed.
    """
    try:
        from beat_this.inference import Audio2Beats
    except ImportError as error:
        raise NotInstalledError(
            "tracker is `beat_this`, which is not installed here. `pip install beat-this` in the "
            "environment (it fetches its weights on first use), or set `tracker: librosa`."
        ) from error
    model: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
    model = Audio2Beats(checkpoint_path="final0", device="cpu")
    return model


# Each takes samples, their rate and their envelope, and returns a tempo (0: none) and downbeats.
TRACKERS: dict[TrackerName, Tracker] = {"librosa": _librosa, "beat_this": _beat_this}
