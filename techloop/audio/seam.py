"""The seam of a loop: both ends of a cut are joined, so that it repeats without a click."""

import numpy as np
from jaxtyping import Float

SEAM_FADE_S = 0.015  # length of the cross-fade at the seam


def close_seam(
    x: Float[np.ndarray, " samples"], start: int, end: int, fade: int, *, circular: bool
) -> Float[np.ndarray, " cut"]:
    """The cut x[start:end] with its ends joined: played in a loop, it does not click.

    The last `fade` samples cross-fade into the samples before `start`, so that the wrap is as
    continuous as the recording was there. Where nothing precedes `start`, the first samples
    cross-fade out of the samples after `end`. The cut stays unchanged where there is neither, and
    where the cross-fade would be louder than the cut itself (a rest after a loud bar).

    Args:
        x: the recording.
        start: first sample of the cut.
        end: one past its last.
        fade: samples of the cross-fade.
        circular: the recording itself is a loop, so that its end precedes its start.
    """
    cut = x[start:end]
    fade = min(fade, len(cut))
    closed = cut.copy()
    if circular and len(cut) == len(x):
        return closed
    if circular or start >= fade:
        before = x.take(np.arange(start - fade, start), mode="wrap")
        closed[len(cut) - fade :] = _cross_fade(cut[len(cut) - fade :], before)
    elif end + fade <= len(x):
        closed[:fade] = _cross_fade(x[end : end + fade], cut[:fade])
    return closed if np.square(closed).sum() <= 2 * np.square(cut).sum() else cut.copy()


def _cross_fade(
    out: Float[np.ndarray, " samples"], into: Float[np.ndarray, " samples"]
) -> Float[np.ndarray, " samples"]:
    """A cross-fade from one signal into another that keeps their level.

    Weights that add up to 1 leave a dip in level between uncorrelated sounds, and the rise after it
    would sound like an onset. The correlation says how deep the dip is, so it is divided out.
    """
    rise = np.sin(np.linspace(0, np.pi / 2, len(out), endpoint=False)).astype(out.dtype) ** 2
    fall = 1 - rise
    norms = float(np.linalg.norm(out) * np.linalg.norm(into))
    correlation = max(float(out @ into) / (norms + 1e-9), 0.0)
    dip = np.sqrt(fall**2 + rise**2 + 2 * correlation * fall * rise)
    faded: np.ndarray = (fall * out + rise * into) / dip
    return faded.astype(out.dtype)
