"""The acid bass: a saw or square wave through a ladder filter."""

import numpy as np
import scipy.fft
from jaxtyping import Float, Int

from techloop.data.sources.synth.circle import Circle, onset_samples, since
from techloop.data.sources.synth.factors import Factors
from techloop.data.sources.synth.filters import Signal, decay, ladder
from techloop.data.sources.synth.score import Score

TABLE_SIZE = 2048
TABLES_PER_OCTAVE = 8


def play_bass(circle: Circle, factors: Factors, score: Score) -> Signal:
    """A saw or square wave through a ladder filter whose cut-off falls from each note's onset.

    The oscillator reads wave tables that are filtered already, one per cut-off. So harmonics are
    exact, nothing aliases, and the filter has no state that would have to wrap around the loop.
    """
    line = score.bass
    if line.steps.size == 0:
        return circle.silence()
    samples, rate = circle.samples, float(circle.rate)
    # Time starts at the first note that is not tied; the result is rolled back at the end.
    first = int(np.flatnonzero(~line.tied)[0])
    steps, tones, accents, tied = (np.roll(values, -first) for values in line)
    onsets = onset_samples(steps, circle.grid, circle.swing)
    start = int(onsets[0])
    onsets = (onsets - start) % samples
    hit, elapsed, left = since(onsets, samples)
    struck = since(onsets[~tied], samples)
    seconds = struck.elapsed / circle.rate

    # Pitch: a tied note slides from the note before.
    semitones = tones.astype(np.float32)
    before = np.where(tied, np.roll(semitones, 1), semitones).astype(np.float32)
    bent = semitones[hit] + (before - semitones)[hit] * decay(elapsed / circle.rate, 0.025)
    octave = np.log2(factors["bass_root_hz"]) + bent / 12
    cycles = np.cumsum(np.exp2(octave.astype(np.float64))) / rate
    began = np.concatenate([[0.0], cycles])[np.arange(samples) - struck.elapsed.astype(int)]
    phase = (cycles - began) % 1

    # Filter and loudness: accents raise both.
    accent = circle.smooth(accents.astype(np.float32)[hit], 0.004)
    sweep = np.float32(factors["bass_env_octaves"]) * decay(seconds, score.bass_decay_s)
    cutoff = np.log2(factors["bass_cutoff_hz"]) + circle.smooth(sweep * (1 + 0.4 * accent), 0.002)
    gate = np.float32(score.bass_gate * samples / circle.grid.steps)
    tied_next = np.roll(tied, -1)[hit]
    sounding = np.where(tied_next, np.float32(samples), np.minimum(elapsed + left, gate)) - elapsed
    loudness = np.clip(sounding / (0.008 * rate), 0, 1) * np.minimum(seconds / 0.002, 1)
    loudness *= (0.7 + 0.3 * accent) * (0.4 + 0.6 * decay(seconds, 0.3))

    # One table per highest pitch (which limits the harmonics) and per ratio of cut-off to pitch.
    tops, top = np.unique(np.maximum(semitones, before), return_inverse=True)
    opening = np.maximum(cutoff - octave, -1) * TABLES_PER_OCTAVE
    lowest = int(np.floor(opening.min()))
    opening -= lowest
    tables = _bass_tables(
        harmonics=np.minimum(
            0.45 * rate / (factors["bass_root_hz"] * 2 ** (tops / 12)), TABLE_SIZE / 2 - 1
        ).astype(int),
        ratios=2 ** ((lowest + np.arange(int(opening.max()) + 2)) / TABLES_PER_OCTAVE),
        resonance=factors["bass_resonance"],
        square=score.bass_square,
    )
    row = opening.astype(int)
    between = (opening - row).astype(np.float32)
    place = phase * TABLE_SIZE
    column = place.astype(int)
    along = (place - column).astype(np.float32)
    width = tables.shape[-1]
    at = (top[hit] * tables.shape[1] + row) * width + column
    flat = tables.ravel()
    low = flat[at] * (1 - along) + flat[at + 1] * along
    high = flat[at + width] * (1 - along) + flat[at + width + 1] * along
    voice = low + (high - low) * between
    return np.roll((voice * loudness).astype(np.float32), start)


def _bass_tables(
    harmonics: Int[np.ndarray, " tops"],
    ratios: Float[np.ndarray, " cutoffs"],
    resonance: float,
    square: bool,
) -> Float[np.ndarray, "tops cutoffs size"]:
    """One cycle of the filtered wave per table; its first sample is repeated at the end.

    Args:
        harmonics: how many each table has at most.
        ratios: cut-off over pitch.
        resonance: of the filter, see `ladder`.
        square: only odd harmonics, so a square wave, not a saw.
    """
    k = np.arange(1, harmonics.max() + 1)
    saw = -1j / k * (k % 2 if square else 1)
    response = ladder(k / ratios[:, None], resonance) * saw.astype(np.complex64)
    spectra = np.zeros((harmonics.size, ratios.size, k.size + 1), np.complex64)
    spectra[..., 1:] = response * (k <= harmonics[:, None, None])
    waves = scipy.fft.irfft(spectra, TABLE_SIZE) * np.float32(TABLE_SIZE / 2)
    return np.concatenate([waves, waves[..., :1]], axis=-1)
