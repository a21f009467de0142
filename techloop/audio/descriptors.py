"""Acoustic descriptors of loops, in physical units: one value a latent frame, or one a loop.

A loop is a circle: every frame wraps around, and rotating a loop by whole hops rotates its frame
descriptors by as many frames. Frame t is centred on sample t * hop.

Silence has defined values: levels at `FLOOR_DB`, centroid, bandwidth, roll-off, zero crossings,
onset strength, onset density, pulse clarity and kick_on_beat 0, flatness 1.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d

from techloop.audio.spectral import circular_stft, k_weights, mel_filterbank, wrap
from techloop.grid import Grid

WINDOW = 1024  # of the spectral descriptors, in samples
ONSET_WINDOW = 512  # shorter, as an onset is early by up to half a window
FLOOR_DB = -100.0
ROLLOFF_SHARE = 0.85
BANDS_HZ = {"low_db": (0.0, 200.0), "mid_db": (200.0, 2000.0), "high_db": (2000.0, math.inf)}
LEVELS = ("loudness_db", *BANDS_HZ)
KICK_BELOW_HZ = 150.0

# Units for axes and tables, by descriptor.
UNITS = {
    "loudness_db": "LUFS",
    "centroid_hz": "Hz",
    "bandwidth_hz": "Hz",
    "rolloff_hz": "Hz",
    "flatness": "",
    "zero_crossing_rate": "1/s",
    "onset_strength": "dB",
    "low_db": "dB",
    "mid_db": "dB",
    "high_db": "dB",
    "onset_density": "1/s",
    "pulse_clarity": "",
    "kick_on_beat": "",
}
FRAME_DESCRIPTORS = tuple(UNITS)[:10]
LABELS = {
    "loudness_db": "loudness",
    "centroid_hz": "centroid",
    "bandwidth_hz": "bandwidth",
    "rolloff_hz": "roll-off",
    "flatness": "flatness",
    "zero_crossing_rate": "zero crossings",
    "onset_strength": "onset strength",
    "low_db": "low band",
    "mid_db": "mid band",
    "high_db": "high band",
    "onset_density": "onset density",
    "pulse_clarity": "pulse clarity",
    "kick_on_beat": "kick on beat",
}


def frame_descriptors(
    audio: Float[Tensor, "b samples"], sample_rate_hz: int, hop: int
) -> dict[str, Float[Tensor, "b frames"]]:
    """The ten descriptors of each frame.

    * `loudness_db`: K-weighted level (ITU-R BS.1770-4) of the frame, in LUFS; a full-scale sine
      at 1 kHz has -3.
    * `centroid_hz`, `bandwidth_hz`: mean frequency and standard deviation around it, weighted by
      amplitude; `rolloff_hz`: the frequency below which 85 % of the amplitude lies.
    * `flatness`: geometric over arithmetic mean of the power spectrum, 0 (a tone) to 1 (white).
    * `zero_crossing_rate`: sign changes a second.
    * `onset_strength`: see `onset_strength`.
    * `low_db`, `mid_db`, `high_db`: power below 200 Hz, up to 2 kHz and above, in dB relative to
      a square wave at full scale (mean square of 1).

    Returns:
        Arrays `(b, samples // hop)` by name, in the order of `UNITS`.

    Raises:
        ValueError: the loops are no whole number of hops, or not finite.

    References:
        Peeters, A large set of audio features for sound description, 2004, section 6;
        ITU-R BS.1770-4, 2015, annex 1. Conventions are those of librosa 0.11, which the tests
        compare with.
    """
    _check(audio, hop)
    return _frame_descriptors(audio, _power(audio, ONSET_WINDOW, hop), sample_rate_hz, hop)


def _frame_descriptors(
    audio: Float[Tensor, "b samples"],
    short: Float[Tensor, "b bins frames"],
    sample_rate_hz: int,
    hop: int,
) -> dict[str, Float[Tensor, "b frames"]]:
    """`frame_descriptors` of audio whose power at the onsets' window is known."""
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
        # The second moment about zero less the squared mean: one pass instead of three.
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
    """The descriptors of whole loops: those of frames, summed up, and three of rhythm.

    Levels are those of the mean power over the loop, onset strength its mean; the others are
    means weighted by the amplitude of the frames, so that pauses do not count.

    * `onset_density`: onsets a second, see `onsets`.
    * `pulse_clarity`: see `pulse_clarity`.
    * `kick_on_beat`: share of the grid's beats with a kick on them, see `kicks`.

    Returns:
        Arrays `(b,)` by name, in the order of `UNITS`.

    Raises:
        ValueError: as `frame_descriptors`.
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
    return {name: values[name] for name in UNITS}


def onset_strength(
    audio: Float[Tensor, "b samples"], sample_rate_hz: int, hop: int
) -> Float[Tensor, "b frames"]:
    """Rise of the mel spectrum from the frame before, in dB, falls as 0, mean over 40 bands.

    Levels are taken above -60 dB re full scale, so that noise below counts for nothing.

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
    """Frames at which something starts: peaks of an onset strength.

    A peak is the largest value within 30 ms, and 1 dB above the mean of the 100 ms around it.

    References:
        Böck, Krebs & Schedl, Evaluating the online capabilities of onset detection methods,
        2012, section 2.2.
    """
    near, wide = (max(round(s * grid.frame_rate_hz), 1) for s in (0.03, 0.1))
    peak = strength == max_pool1d(wrap(strength, near, near), 2 * near + 1, 1)
    return peak & (strength > avg_pool1d(wrap(strength, wide, wide), 2 * wide + 1, 1) + 1.0)


def kicks(audio: Float[Tensor, "b samples"], grid: Grid) -> Bool[Tensor, "b frames"]:
    """Frames at which a kick, or what sounds as low and as loud, starts.

    An onset, of all bands or of those below 500 Hz (a kick's pitch may take a while to fall), after
    which the level below 150 Hz rises: within 60 ms it is 6 dB or more above its lowest of the
    30 ms before, within 9 dB of the highest of the loop, and above -45 dB re full scale.
    """
    short = _power(audio, ONSET_WINDOW, grid.hop)
    return _kicks(short, _onset_strength(short, grid.sample_rate_hz), grid)


def _kicks(
    short: Float[Tensor, "b bins frames"], strength: Float[Tensor, "b frames"], grid: Grid
) -> Bool[Tensor, "b frames"]:
    hz = torch.arange(ONSET_WINDOW // 2 + 1) * (grid.sample_rate_hz / ONSET_WINDOW)
    # In steps of two bins, so that each band has a level of its own.
    edges = torch.arange(0, 500, 2 * float(hz[1]))
    bands = torch.stack([((hz >= low) & (hz < low + 2 * hz[1])).float() for low in edges])
    levels = _levels_db(short, bands).clamp_min(-60)
    found = onsets((levels - levels.roll(1, -1)).clamp_min(0).mean(1), grid)
    found |= onsets(strength, grid)

    level = _levels_db(short, (hz < KICK_BELOW_HZ).float()[None])[:, 0]
    before, after = (max(round(s * grid.frame_rate_hz), 1) for s in (0.03, 0.06))
    lowest = -max_pool1d(wrap(-level, before, 0), before + 1, 1)
    highest = max_pool1d(wrap(level, 0, after), after + 1, 1)
    loud = (highest > level.amax(1, keepdim=True) - 9) & (highest > -45)
    return found & loud & (highest - lowest >= 6)


def kick_on_beat(kicks: Bool[Tensor, "b frames"], grid: Grid) -> Float[Tensor, " b"]:
    """Share of the grid's beats that have a kick within a quarter of a sixteenth."""
    beat = torch.arange(grid.beats) * (grid.frames / grid.beats)
    at = torch.arange(grid.frames)[:, None]
    distance = (at - beat).abs()
    near = torch.minimum(distance, grid.frames - distance) <= grid.frames / grid.steps / 4
    return (kicks.float() @ near.float()).clamp_max(1).mean(1)


def pulse_clarity(strength: Float[Tensor, "b frames"], grid: Grid) -> Float[Tensor, " b"]:
    """How periodic an onset strength is: its highest autocorrelation at 0.25 to 1 s, 0 to 1.

    The circular autocorrelation of the deviation from the mean, over its value at lag 0. A
    constant onset strength has no pulse: 0.

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
    """Share of the WINDOW samples around each t * hop whose sign is not that of the one before."""
    # What is below 1e-10 counts as zero, and zero as positive (librosa.zero_crossings).
    negative = audio < -1e-10
    crossing = (negative != negative.roll(1, -1)).float()
    return avg_pool1d(wrap(crossing, WINDOW // 2, WINDOW // 2 - hop), WINDOW, hop)


def _check(audio: Tensor, hop: int) -> None:
    if audio.shape[-1] == 0 or audio.shape[-1] % hop:
        raise ValueError(
            f"loops of {audio.shape[-1]} samples are no whole number of hops of {hop} samples; "
            "cut them to the grid first"
        )
    if not audio.isfinite().all():
        raise ValueError("audio holds NaN or infinity; descriptors of it would mean nothing")
