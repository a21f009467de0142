"""The ends of a cut joined, so that it plays in a loop without a click."""

import numpy as np
from jaxtyping import Float

SEAM_FADE_S = 0.015  # of the cross-fade that joins the ends of a cut


def close_seam(
    x: Float[np.ndarray, " samples"], start: int, end: int, fade: int, *, circular: bool
) -> Float[np.ndarray, " cut"]:
    """The cut x[start:end] with its ends joined: played in a loop, it does not click.

    Over its last `fade` samples it turns into what precedes `start`, so that the wrap is as
    continuous as the recording was there. Where nothing precedes, its first samples come out of
    what follows `end`. Where there is neither, the cut is the whole recording and stays as it is,
    as it does where the joint would be most of what is heard (a rest after a loud bar).

    Args:
        x: the recording.
        start: first sample of the cut.
        end: one past its last.
        fade: samples of the cross-fade.
        circular: the recording itself is a loop, so its end precedes its start.
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
    """One turning into the other, at the level that both have.

    Weights that add up to 1 leave a dip between sounds that have nothing in common, after which
    the seam is heard as an onset; how alike the two are says how deep it would be.
    """
    rise = np.sin(np.linspace(0, np.pi / 2, len(out), endpoint=False)).astype(out.dtype) ** 2
    fall = 1 - rise
    alike = max(float(out @ into) / (float(np.linalg.norm(out) * np.linalg.norm(into)) + 1e-9), 0.0)
    dip = np.sqrt(fall**2 + rise**2 + 2 * alike * fall * rise)
    return ((fall * out + rise * into) / dip).astype(out.dtype)
