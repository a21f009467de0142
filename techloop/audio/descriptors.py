"""Acoustic descriptors of loops in physical units: one value per latent frame, or one per loop.

A loop is a circle: every frame wraps around, and rotating a loop by whole hops rotates its frame
descriptors by as many frames. Frame t is centred on sample t * hop.

Silence has defined values: levels at `FLOOR_DB`, flatness 1, everything else 0.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d

from techloop.audio.spectral import circular_stft, k_weights, mel_filterbank, wrap
from techloop.grid import Grid

WINDOW = 1024  # window of the spectral descriptors, in samples
ONSET_WINDOW = 512  # shorter, as an onset can appear up to half a window too early
FLOOR_DB = -100.0
ROLLOFF_SHARE = 0.85
BANDS_HZ = {"low_db": (0.0, 200.0), "mid_db": (200.0, 2000.0), "high_db": (2000.0, math.inf)}
LEVELS = ("loudness_db", *BANDS_HZ)
KICK_BELOW_HZ = 150.0


class Descriptor(NamedTuple):
    """How a descriptor is called in code and in words, and what its values are measured in.

    Attributes:
        name: snake case, with the unit where there is one.
        label: for axes and tables.
        unit: empty for a bare number.
        per_frame: every frame has one; otherwise only a whole loop has.
    """

    name: str
    label: str
    unit: str
    per_frame: bool = True


DESCRIPTORS = (
    Descriptor("loudness_db", "loudness", "LUFS"),
    Descriptor("centroid_hz", "centroid", "Hz"),
    Descriptor("bandwidth_hz", "bandwidth", "Hz"),
    Descriptor("rolloff_hz", "roll-off", "Hz"),
    Descriptor("flatness", "flatness", ""),
    Descriptor("zero_crossing_rate", "zero crossings", "1/s"),
    Descriptor("onset_strength", "onset strength", "dB"),
    Descriptor("low_db", "low band", "dB"),
    Descriptor("mid_db", "mid band", "dB"),
    Descriptor("high_db", "high band", "dB"),
    Descriptor("onset_density", "onset density", "1/s", per_frame=False),
    Descriptor("pulse_clarity", "pulse clarity", "", per_frame=False),
    Descriptor("kick_on_beat", "kick on beat", "", per_frame=False),
)
FRAME_DESCRIPTORS = tuple(d.name for d in DESCRIPTORS if d.per_frame)
UNITS = {d.name: d.unit for d in DESCRIPTORS}
LABELS = {d.name: d.label for d in DESCRIPTORS}


def frame_descriptors(
    audio: Float[Tensor, "b samples"], sample_rate_hz: int, hop: int
) -> dict[str, Float[Tensor, "b frames"]]:
    """The descriptors of each frame (`FRAME_DESCRIPTORS`).

    * `loudness_db`: K-weighted level (ITU-R BS.1770-4) of the frame, in LUFS; a full-scale sine
      at 1 kHz has -3.
    * `centroid_hz`, `bandwidth_hz`: mean frequency and standard deviation around it, weighted by
      amplitude; `rolloff_hz`: the frequency below which 85 % of the amplitude lies.
    * `flatness`: geometric over arithmetic mean of the power spectrum, 0 (a tone) to 1 (white).
    * `zero_crossing_rate`: sign changes per second.
    * `onset_strength`: see `onset_strength`.
    * `low_db`, `mid_db`, `high_db`: power below 200 Hz, up to 2 kHz and above, in dB relative to
      a square wave at full scale (mean square of 1).

    Returns:
        Tensors `(b, samples // hop)` by name, in the order of `FRAME_DESCRIPTORS`.

    Raises:
        ValueError: the loops are not a whole number of hops long, or not finite.

    References:
        Peeters, A large set of audio features for sound description, 2004, section 6;
        ITU-R BS.1770-4, 2015, annex 1. The conventions are those of librosa 0.11; the tests
        compare with it.
    """
    _check(audio, hop)
    return _frame_descriptors(audio, _power(audio, ONSET_WINDOW, hop), sample_rate_hz, hop)


def _frame_descriptors(
    audio: Float[Tensor, "b samples"],
    short: Float[Tensor, "b bins frames"],
    sample_rate_hz: int,
    hop: int,
) -> dict[str, Float[Tensor, "b frames"]]:
    """`frame_descriptors`, given the power spectrum `short` of the window `ONSET_WINDOW`."""
    power = _power(audio, WINDOW, hop)
    amplitude = power.sqrt()
    hz = torch.arange(WINDOW // 2 + 1) * (sample_rate_hz / WINDOW)

    total, first, second = (torch.stack([hz**0, hz, hz**2]) @ amplitude).unbind(1)
    safe = total.clamp_min(1e-6)
    centroid = first / safe
    below = amplitude.cumsum(1) < ROLLOFF_SHARE * total[:, None]
    floored = power.clamp_min(1e-10)
    bands = [((hz >= low) & (hz < high)).float() for low, high in BANDS_HZ.values()]
    levels = _levels_db(power, torch.stack([k_weights(hz), *bands])).unbind(1)
    values = {
        "loudness_db": levels[0] - 0.691,
        "centroid_hz": centroid,
        # Second moment minus squared mean: one pass over the amplitudes instead of three.
        "bandwidth_hz": (second / safe - centroid.square()).clamp_min(0).sqrt(),
        "rolloff_hz": below.sum(1) * (sample_rate_hz / WINDOW),
        "flatness": floored.log().mean(1).exp() / floored.mean(1),
        "zero_crossing_rate": _zero_crossings(audio, hop) * sample_rate_hz,
        "onset_strength": _onset_strength(short, sample_rate_hz),
        **dict(zip(BANDS_HZ, levels[1:], strict=True)),
    }
    return {name: values[name] for name in FRAME_DESCRIPTORS}


def loop_descriptors(
    audio: Float[Tensor, "b samples"], grid: Grid
) -> dict[str, Float[Tensor, " b"]]:
    """The descriptors of whole loops: averages of those of frames, and three of rhythm.

    Levels are those of the mean power over the loop, and onset strength is averaged. The others
    are means weighted by the amplitude of the frames, so that pauses do not count.

    * `onset_density`: onsets per second, see `onsets`.
    * `pulse_clarity`: see `pulse_clarity`.
    * `kick_on_beat`: share of the grid's beats with a kick on them, see `kicks`.

    Returns:
        Tensors `(b,)` by name, in the order of `DESCRIPTORS`.

    Raises:
        ValueError: see `frame_descriptors`.
    """
    _check(audio, grid.hop)
    short = _power(audio, ONSET_WINDOW, grid.hop)
    frames = _frame_descriptors(audio, short, grid.sample_rate_hz, grid.hop)
    weight = 10 ** (frames["loudness_db"] / 20)
    weight = weight / weight.sum(1, keepdim=True)
    values = {}
    for name, value in frames.items():
        if name in LEVELS:
            values[name] = 10 * (10 ** (value / 10)).mean(1).log10()
        elif name == "onset_strength":
            values[name] = value.mean(1)
        else:
            values[name] = (value * weight).sum(1)
    strength = frames["onset_strength"]
    values["onset_density"] = onsets(strength, grid).float().sum(1) / grid.duration_s
    values["pulse_clarity"] = pulse_clarity(strength, grid)
    values["kick_on_beat"] = kick_on_beat(_kicks(short, strength, grid), grid)
    return {d.name: values[d.name] for d in DESCRIPTORS}


def onset_strength(
    audio: Float[Tensor, "b samples"], sample_rate_hz: int, hop: int
) -> Float[Tensor, "b frames"]:
    """Spectral flux: rise in dB since the last frame (a fall counts as 0), mean over 40 mel bands.

    Levels below -60 dB re full scale count as -60 dB, so that faint noise has no onsets.

    The onset envelope of tempo estimation is another quantity: the flux of compressed amplitudes
    in each of several bands, of a whole recording, at a frame rate of its own.

    References:
        Böck & Widmer, Maximum filter vibrato suppression for onset detection, 2013, equation 2
        (spectral flux of logarithmic magnitudes), without the maximum filter; as
        `librosa.onset.onset_strength`.
    """
    return _onset_strength(_power(audio, ONSET_WINDOW, hop), sample_rate_hz)


def _onset_strength(
    short: Float[Tensor, "b bins frames"], sample_rate_hz: int
) -> Float[Tensor, "b frames"]:
    filters = mel_filterbank(sample_rate_hz, ONSET_WINDOW, 40, 60.0)
    weights = filters / filters.sum(1, keepdim=True) * (4 / ONSET_WINDOW) ** 2
    level = 10 * (weights @ short).clamp_min(1e-6).log10()
    return (level - level.roll(1, -1)).clamp_min(0).mean(1)


def onsets(strength: Float[Tensor, "b frames"], grid: Grid) -> Bool[Tensor, "b frames"]:
    """Frames at which a sound starts: peaks of the onset strength.

    A peak is the largest value within 30 ms to either side, and more than 1 dB above the mean
    within 100 ms to either side.

    References:
        Böck, Krebs & Schedl, Evaluating the online capabilities of onset detection methods,
        2012, section 2.2.
    """
    near, wide = (max(round(s * grid.frame_rate_hz), 1) for s in (0.03, 0.1))
    peak = strength == max_pool1d(wrap(strength, near, near), 2 * near + 1, 1)
    return peak & (strength > avg_pool1d(wrap(strength, wide, wide), 2 * wide + 1, 1) + 1.0)


def kicks(audio: Float[Tensor, "b samples"], grid: Grid) -> Bool[Tensor, "b frames"]:
    """Frames at which a kick, or another low and loud sound, starts.

    There is an onset, in all bands or in those below 500 Hz (a kick's pitch may take a while to
    fall), and the level below 150 Hz rises after it. Within 60 ms that level reaches 6 dB or more
    above its minimum in the 30 ms before, comes within 9 dB of its maximum in the loop, and exceeds
    -45 dB re full scale.
    """
    short = _power(audio, ONSET_WINDOW, grid.hop)
    return _kicks(short, _onset_strength(short, grid.sample_rate_hz), grid)


def _kicks(
    short: Float[Tensor, "b bins frames"], strength: Float[Tensor, "b frames"], grid: Grid
) -> Bool[Tensor, "b frames"]:
    hz = torch.arange(ONSET_WINDOW // 2 + 1) * (grid.sample_rate_hz / ONSET_WINDOW)
    # Bands of two bins each: neighbours do not share a bin.
    edges = torch.arange(0, 500, 2 * float(hz[1]))
    bands = torch.stack([((hz >= low) & (hz < low + 2 * hz[1])).float() for low in edges])
    levels = _levels_db(short, bands).clamp_min(-60)
    starts = onsets((levels - levels.roll(1, -1)).clamp_min(0).mean(1), grid)
    starts |= onsets(strength, grid)

    level = _levels_db(short, (hz < KICK_BELOW_HZ).float()[None])[:, 0]
    before, after = (max(round(s * grid.frame_rate_hz), 1) for s in (0.03, 0.06))
    lowest = -max_pool1d(wrap(-level, before, 0), before + 1, 1)
    highest = max_pool1d(wrap(level, 0, after), after + 1, 1)
    loud = (highest > level.amax(1, keepdim=True) - 9) & (highest > -45)
    return starts & loud & (highest - lowest >= 6)


def kick_on_beat(kicks: Bool[Tensor, "b frames"], grid: Grid) -> Float[Tensor, " b"]:
    """Share of the grid's beats that have a kick within a quarter of a sixteenth."""
    beat = torch.arange(grid.beats) * (grid.frames / grid.beats)
    at = torch.arange(grid.frames)[:, None]
    distance = (at - beat).abs()
    near = torch.minimum(distance, grid.frames - distance) <= grid.frames / grid.steps / 4
    return (kicks.float() @ near.float()).clamp_max(1).mean(1)


def pulse_clarity(strength: Float[Tensor, "b frames"], grid: Grid) -> Float[Tensor, " b"]:
    """How periodic an onset strength is, from 0 to 1: its largest autocorrelation at 0.25 to 1 s.

    The autocorrelation is circular, taken of the deviation from the mean and divided by its value
    at lag 0. A constant onset strength has no pulse: 0.

    References:
        Lartillot et al., Multi-feature modeling of pulse clarity, 2008, section 3.2 (MaxAutocor).
    """
    deviation = strength - strength.mean(1, keepdim=True)
    correlation = torch.fft.irfft(torch.fft.rfft(deviation).abs().square(), n=strength.shape[1])
    last = max(min(round(grid.frame_rate_hz), strength.shape[1] // 2), 1)
    first = min(math.ceil(0.25 * grid.frame_rate_hz), last)
    best = correlation[:, first : last + 1].amax(1).clamp_min(0)
    return torch.where(
        correlation[:, 0] > 1e-9, best / correlation[:, 0].clamp_min(1e-9), 0.0
    ).clamp_max(1)


def _power(
    audio: Float[Tensor, "b samples"], window: int, hop: int
) -> Float[Tensor, "b bins frames"]:
    """Squared amplitudes of the circular STFT; several times faster than by `abs`."""
    spectrum = circular_stft(audio, window, hop)
    return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)


def _levels_db(
    power: Float[Tensor, "b bins frames"], weights: Float[Tensor, "k bins"]
) -> Float[Tensor, "b k frames"]:
    """Weighted mean squares in dB re 1, at least FLOOR_DB, of an unscaled Hann STFT (Parseval)."""
    window = 2 * (power.shape[1] - 1)
    sides = torch.full((power.shape[1],), 2.0)
    sides[0] = sides[-1] = 1.0
    # The mean square of a periodic Hann window is 3/8.
    mean_square = (weights * sides) @ power / (window**2 * 3 / 8)
    return 10 * mean_square.clamp_min(10 ** (FLOOR_DB / 10)).log10()


def _zero_crossings(audio: Float[Tensor, "b samples"], hop: int) -> Float[Tensor, "b frames"]:
    """Share of samples that differ in sign from the one before, over the `WINDOW` of each frame."""
    # Magnitudes below 1e-10 count as zero, and zero as positive (as in librosa.zero_crossings).
    negative = audio < -1e-10
    crossing = (negative != negative.roll(1, -1)).float()
    return avg_pool1d(wrap(crossing, WINDOW // 2, WINDOW // 2 - hop), WINDOW, hop)


def _check(audio: Tensor, hop: int) -> None:
    if audio.shape[-1] == 0 or audio.shape[-1] % hop:
        raise ValueError(
            f"loops of {audio.shape[-1]} samples are not a whole number of hops of {hop} samples; "
            "cut them to the grid first"
        )
    if not audio.isfinite().all():
        raise ValueError("audio holds NaN or infinity; its descriptors would be meaningless")
