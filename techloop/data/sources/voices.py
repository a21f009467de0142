"""The instruments of the synthesiser, each a function on a circle.

Envelopes count from the last onset around the loop, filters and reverbs are circular convolutions
(products of spectra of the loop's own length), free-running oscillators make whole cycles in a loop
and the other ones start and end in silence. So the first sample follows the last like any other.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.ndimage
from jaxtyping import Bool, Complex, Float, Int

from techloop.grid import Grid

Factors = Mapping[str, float]
Signal = Float[np.ndarray, " samples"]
Spectrum = Complex[np.ndarray, " bins"]


# --- what is played


class Hits(NamedTuple):
    """Sounding sixteenths of the loop, ascending, and how hard each is struck (0 to 1)."""

    steps: Int[np.ndarray, " hits"]
    velocity: Float[np.ndarray, " hits"]


class BassLine(NamedTuple):
    """Notes of the bass; a tied one is reached by a slide from the note before."""

    steps: Int[np.ndarray, " hits"]
    semitones: Int[np.ndarray, " hits"]
    accent: Bool[np.ndarray, " hits"]
    tied: Bool[np.ndarray, " hits"]


@dataclass(frozen=True)
class Score:
    """What is played, and the settings of the instruments that no factor names."""

    kick: Hits
    hat: Hits
    open_hat: Hits
    clap: Hits
    percussion: tuple[Hits, Hits]
    bass: BassLine
    chord: Hits
    chord_semitones: tuple[int, ...]
    kick_sweep_octaves: float
    kick_sweep_s: float
    kick_click: float
    hat_level: float
    hat_metal: float
    open_hat_decay_s: float
    snare: bool
    clap_decay_s: float
    percussion_level: float
    percussion_decay_s: float
    percussion_fm: float
    percussion_ratio: float
    bass_square: bool
    bass_gate: float
    bass_decay_s: float
    chord_lfo_cycles: int
    chord_lfo_octaves: float
    chord_lfo_phase: float
    chord_env_octaves: float
    delay_feedback: float


# --- the circle


class Since(NamedTuple):
    """At each sample of a circle: the onset that was last, samples since it and until the next."""

    hit: Int[np.ndarray, " samples"]
    elapsed: Float[np.ndarray, " samples"]
    left: Float[np.ndarray, " samples"]


def since(onsets: Int[np.ndarray, " hits"], samples: int) -> Since:
    """Count from the last onset around a circle; onsets ascend, and there is at least one."""
    gaps = np.diff(onsets, append=onsets[0] + samples)
    hit = np.repeat(np.arange(onsets.size), gaps)
    elapsed = np.arange(samples) - np.repeat(onsets - onsets[0], gaps)
    left = np.repeat(gaps, gaps) - elapsed
    shift = onsets[0]
    return Since(
        np.roll(hit, shift),
        np.roll(elapsed.astype(np.float32), shift),
        np.roll(left.astype(np.float32), shift),
    )


def onset_samples(
    steps: Int[np.ndarray, " hits"], grid: Grid, swing: float
) -> Int[np.ndarray, " hits"]:
    """Where sixteenths fall, every second one late by `swing` sixteenths."""
    return np.rint((steps + swing * (steps % 2)) * (grid.samples / grid.steps)).astype(np.int64)


def _decay(elapsed_s: Signal, time_s: float) -> Signal:
    # Bounded, as denormal numbers are slow.
    return np.exp(-np.minimum(elapsed_s / np.float32(time_s), 40)).astype(np.float32)


def _gain(level_db: float) -> np.float32:
    return np.float32(10 ** (level_db / 20))


def _low_pass(frequency_hz: Signal, cutoff_hz: float) -> Spectrum:
    """Two poles without resonance."""
    return np.square(1 / (1 + np.complex64(1j / cutoff_hz) * frequency_hz))


def _high_pass(frequency_hz: Signal, cutoff_hz: float) -> Spectrum:
    """Four poles without resonance."""
    ratio = np.complex64(1j / cutoff_hz) * frequency_hz
    pole = np.square(ratio / (1 + ratio))
    return np.square(pole)


def ladder(ratio: Float[np.ndarray, "*shape"], resonance: float) -> Complex[np.ndarray, "*shape"]:
    """Response of the four-pole transistor ladder at frequency / cutoff; it would howl at 1.

    References:
        Stilson & Smith, Analyzing the Moog VCF, ICMC 1996.
    """
    feedback = np.float32(4 * resonance)
    # The ladder loses its bass as it gains its peak; half of that is made up for.
    makeup = np.float32((1 + feedback) ** 0.5)
    pole = 1 + np.complex64(1j) * ratio.astype(np.float32)
    square = pole * pole
    return makeup / (square * square + feedback)


def _unit_rms(x: Signal) -> Signal:
    return x / np.float32(max(np.sqrt(np.mean(np.square(x))), 1e-9))


# --- the performance


class Circle:
    """A loop's samples and bins, its swung clock and the noise, shared while it is played."""

    def __init__(self, grid: Grid, swing: float, rng: np.random.Generator):
        self.grid = grid
        self.swing = swing
        self.rng = rng
        self.samples = grid.samples
        self.rate = np.float32(grid.sample_rate_hz)
        self.frequency_hz = scipy.fft.rfftfreq(self.samples, 1 / grid.sample_rate_hz).astype(
            np.float32
        )

    def noise(self) -> Signal:
        """White noise of unit power, as long as the loop."""
        return self.rng.standard_normal(self.samples, dtype=np.float32)

    def spectrum(self, x: Signal) -> Spectrum:
        """Of a loop."""
        return scipy.fft.rfft(x)

    def signal(self, spectrum: Spectrum) -> Signal:
        """The loop that has a spectrum."""
        return scipy.fft.irfft(spectrum, self.samples)

    def silence(self) -> Signal:
        """A loop of it."""
        return np.zeros(self.samples, np.float32)

    def smooth(self, x: Signal, width_s: float) -> Signal:
        """Moving average around the circle, that rounds steps off."""
        width = max(1, round(width_s * float(self.rate)))
        return scipy.ndimage.uniform_filter1d(x, width, mode="wrap")

    def reverb(self, decay_s: float, delay_s: float) -> Spectrum:
        """Noise of unit energy that falls by 60 dB in `decay_s` after a delay."""
        t = np.arange(self.samples, dtype=np.float32) / self.rate
        tail = self.noise() * _decay(t, decay_s / math.log(1000))
        tail /= np.sqrt(np.square(tail).sum())
        return self.spectrum(np.roll(tail, round(delay_s * float(self.rate))))

    def since(self, steps: Int[np.ndarray, " hits"], oversampling: int = 1) -> Since:
        """As `since`, by the swung grid."""
        onsets = onset_samples(steps, self.grid, self.swing)
        return since(onsets * oversampling, self.samples * oversampling)


def perform(grid: Grid, factors: Factors, score: Score, rng: np.random.Generator) -> Signal:
    """Play a score: instruments, side-chain, delay, room, saturation; peak 0.95, no DC."""
    circle = Circle(grid, factors["swing"], rng)
    kick = _kick(circle, factors, score)
    rumble = _rumble(circle, kick) * _gain(factors["rumble_level_db"])
    hats = _hats(circle, factors, score)
    clap = _clap(circle, score) * _gain(factors["clap_level_db"])
    percussion = _percussion(circle, factors, score)
    room = _room(circle, factors["room_s"])
    bass = _bass(circle, factors, score) * _gain(factors["bass_level_db"])
    chord = _chord(circle, factors, score) * _gain(factors["chord_level_db"])
    echo = _delay(circle, score.delay_feedback)

    duck = _duck(circle, score, factors["sidechain_db"])
    echoed = circle.spectrum(chord + 0.5 * percussion) * echo
    wet = circle.spectrum(0.6 * clap + 0.5 * chord + 0.5 * percussion + 0.15 * hats) + 0.5 * echoed
    dry = clap + (0.5 + 0.5 * duck) * (hats + percussion) + duck * (bass + rumble)
    tails = circle.signal(wet * room + echoed) + chord
    return _master(circle, circle.spectrum(dry + duck * tails) + kick, factors["drive_db"])


def _kick(circle: Circle, factors: Factors, score: Score) -> Spectrum:
    """A sine that falls by octaves to its pitch, and a click; driven at twice the rate."""
    hit, elapsed, left = circle.since(score.kick.steps, oversampling=2)
    rate = 2 * circle.rate
    t = elapsed / rate
    fall = score.kick_sweep_s
    octaves = np.float32(2**score.kick_sweep_octaves - 1)
    cycles = np.float32(factors["kick_pitch_hz"]) * (t + octaves * fall * (1 - _decay(t, fall)))
    body = np.sin(np.float32(2 * np.pi) * cycles) * _decay(t, factors["kick_decay_s"])
    click = circle.rng.standard_normal(int(0.006 * rate) + 1, dtype=np.float32)
    click *= np.hanning(2 * click.size)[click.size :] ** 2
    click[-1] = 0
    body += (
        np.float32(0.5 * score.kick_click) * click[np.minimum(elapsed, click.size - 1).astype(int)]
    )
    drive = _gain(factors["kick_drive_db"])
    driven = np.tanh(drive * body) / np.tanh(drive)
    fade = np.minimum(left / (np.float32(0.004) * rate), 1)
    velocity = score.kick.velocity.astype(np.float32)[hit]
    return 0.5 * scipy.fft.rfft(driven * fade * velocity)[: circle.samples // 2 + 1]


def _rumble(circle: Circle, kick: Spectrum) -> Signal:
    """The kick in a dark hall, squashed; as loud as the kick."""
    hall = circle.reverb(decay_s=2.0, delay_s=0.03)
    dark = _low_pass(circle.frequency_hz, 90.0) ** 2 * _high_pass(circle.frequency_hz, 20.0)
    return np.tanh(1.5 * _unit_rms(circle.signal(kick * hall * dark))) * np.float32(0.5)


def _hats(circle: Circle, factors: Factors, score: Score) -> Signal:
    """Noise and free-running metal, above a cut-off; the closed hat chokes the open one."""
    rate = float(circle.rate)
    metal_hz = circle.rng.uniform(min(2_500, 0.2 * rate), 0.47 * rate, 8)
    lines = np.zeros(circle.frequency_hz.size, np.complex64)
    bins = np.rint(metal_hz * circle.samples / rate).astype(int)
    lines[bins] = np.exp(2j * np.pi * circle.rng.random(8))
    bright = _high_pass(circle.frequency_hz, factors["hat_cutoff_hz"])
    hiss = _unit_rms(circle.signal(circle.spectrum(circle.noise()) * bright))
    ring = _unit_rms(circle.signal(lines * bright))
    metal = np.float32(score.hat_metal)
    voice = (1 - metal) * hiss + metal * ring

    envelope = circle.silence()
    if score.hat.steps.size:
        closed = circle.since(score.hat.steps)
        strength = score.hat.velocity.astype(np.float32)[closed.hit]
        fall = _decay(closed.elapsed / circle.rate, factors["hat_decay_s"])
        envelope += np.float32(score.hat_level) * strength * fall
    if score.open_hat.steps.size:
        opened = circle.since(score.open_hat.steps)
        fall = _decay(opened.elapsed / circle.rate, score.open_hat_decay_s)
        if score.hat.steps.size:
            # Struck together both sound; a closed hat after it silences the open one.
            later = closed.elapsed < opened.elapsed
            fall = np.where(later, fall * _decay(closed.elapsed / circle.rate, 0.004), fall)
        envelope += _gain(factors["open_hat_level_db"]) * fall
    return voice * envelope


def _clap(circle: Circle, score: Score) -> Signal:
    """Hands: bursts and a tail of noise around 1.2 kHz; or a snare: a tone and bright noise."""
    if score.clap.steps.size == 0:
        return circle.silence()
    t = circle.since(score.clap.steps)
    seconds = t.elapsed / circle.rate
    tail = _decay(seconds, score.clap_decay_s)
    f = circle.frequency_hz
    noise = circle.spectrum(circle.noise())
    if score.snare:
        hiss = _unit_rms(circle.signal(noise * _high_pass(f, 900.0) * _low_pass(f, 5_000.0)))
        tone = np.sin(np.float32(2 * np.pi * 185) * (seconds + 0.01 * (1 - _decay(seconds, 0.01))))
        voice = 0.35 * hiss * tail + 0.8 * tone * _decay(seconds, 0.06)
    else:
        hiss = _unit_rms(circle.signal(noise * _high_pass(f, 700.0) * _low_pass(f, 1_800.0)))
        burst = np.where(seconds < 0.03, _decay(seconds % np.float32(0.011), 0.004), tail)
        voice = 0.45 * hiss * burst
    return voice * score.clap.velocity.astype(np.float32)[t.hit]


def _percussion(circle: Circle, factors: Factors, score: Score) -> Signal:
    """Two small drums, tuned a fifth apart, with some frequency modulation."""
    out = circle.silence()
    for hits, ratio in zip(score.percussion, (1.0, 1.5), strict=True):
        if hits.steps.size == 0:
            continue
        hit, elapsed, left = circle.since(hits.steps)
        t = elapsed / circle.rate
        decay = _decay(t, score.percussion_decay_s)
        pitch_hz = factors["percussion_pitch_hz"] * ratio
        omega = np.float32(2 * np.pi * pitch_hz)
        # Carson's rule: no more modulation than fits below the edge of the band.
        room = (0.45 * float(circle.rate) / pitch_hz - 1) / score.percussion_ratio - 1
        bend = (
            np.float32(np.clip(room, 0, score.percussion_fm))
            * decay
            * np.sin(np.float32(score.percussion_ratio) * omega * t)
        )
        fade = np.minimum(left / (np.float32(0.002) * circle.rate), 1)
        out += np.sin(omega * t + bend) * decay * fade * hits.velocity.astype(np.float32)[hit]
    return np.float32(score.percussion_level) * out


TABLE_SIZE = 2048
TABLES_PER_OCTAVE = 8


def _bass(circle: Circle, factors: Factors, score: Score) -> Signal:
    """A saw or square in a ladder whose cut-off falls from each note's onset.

    The oscillator reads wave tables that have gone through the filter already, one for each
    cut-off: exact in its harmonics, free of aliasing, and without a state to carry around the loop.
    """
    line = score.bass
    if line.steps.size == 0:
        return circle.silence()
    samples, rate = circle.samples, float(circle.rate)
    # On a clock that starts with a note that is struck; rolled back in the end.
    first = int(np.flatnonzero(~line.tied)[0])
    steps, tones, accents, tied = (np.roll(values, -first) for values in line)
    onsets = onset_samples(steps, circle.grid, circle.swing)
    start = int(onsets[0])
    onsets = (onsets - start) % samples
    hit, elapsed, left = since(onsets, samples)
    struck = since(onsets[~tied], samples)
    seconds = struck.elapsed / circle.rate

    # Pitch: slides approach the note from the one before.
    semitones = tones.astype(np.float32)
    before = np.where(tied, np.roll(semitones, 1), semitones).astype(np.float32)
    bent = semitones[hit] + (before - semitones)[hit] * _decay(elapsed / circle.rate, 0.025)
    octave = np.log2(factors["bass_root_hz"]) + bent / 12
    cycles = np.cumsum(np.exp2(octave.astype(np.float64))) / rate
    began = np.concatenate([[0.0], cycles])[np.arange(samples) - struck.elapsed.astype(int)]
    phase = (cycles - began) % 1

    # Filter and loudness: accents open both.
    accent = circle.smooth(accents.astype(np.float32)[hit], 0.004)
    sweep = np.float32(factors["bass_env_octaves"]) * _decay(seconds, score.bass_decay_s)
    cutoff = np.log2(factors["bass_cutoff_hz"]) + circle.smooth(sweep * (1 + 0.4 * accent), 0.002)
    gate = np.float32(score.bass_gate * samples / circle.grid.steps)
    tied_next = np.roll(tied, -1)[hit]
    sounding = np.where(tied_next, np.float32(samples), np.minimum(elapsed + left, gate)) - elapsed
    loudness = np.clip(sounding / (0.008 * rate), 0, 1) * np.minimum(seconds / 0.002, 1)
    loudness *= (0.7 + 0.3 * accent) * (0.4 + 0.6 * _decay(seconds, 0.3))

    # A table for each top pitch (which limits the harmonics) and each cut-off over the pitch.
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
    """A cycle of the filtered wave for each limit and each cut-off over the pitch, and a guard."""
    k = np.arange(1, harmonics.max() + 1)
    saw = -1j / k * (k % 2 if square else 1)
    response = ladder(k / ratios[:, None], resonance) * saw.astype(np.complex64)
    spectra = np.zeros((harmonics.size, ratios.size, k.size + 1), np.complex64)
    spectra[..., 1:] = response * (k <= harmonics[:, None, None])
    waves = scipy.fft.irfft(spectra, TABLE_SIZE) * np.float32(TABLE_SIZE / 2)
    return np.concatenate([waves, waves[..., :1]], axis=-1)


def _chord(circle: Circle, factors: Factors, score: Score) -> Signal:
    """Detuned saws that run freely, opened by stabs; the filter follows them and a slow LFO.

    Partials make whole cycles in the loop; the moving filter is a cross-fade of still ones.
    """
    if score.chord.steps.size == 0:
        return circle.silence()
    samples, rate = circle.samples, float(circle.rate)
    spectrum = np.zeros(circle.frequency_hz.size, np.complex64)
    for semitones in score.chord_semitones:
        for cents in (-5, 5):
            pitch_hz = factors["bass_root_hz"] * 2 ** (semitones / 12 + cents / 1200)
            cycles = max(1, round(pitch_hz * samples / rate))
            k = np.arange(1, int(0.45 * samples / cycles) + 1)
            spectrum[k * cycles] += np.exp(2j * np.pi * circle.rng.random(k.size)) / k

    t = circle.since(score.chord.steps)
    envelope = _decay(t.elapsed / circle.rate, factors["chord_decay_s"])
    envelope = circle.smooth(envelope * score.chord.velocity.astype(np.float32)[t.hit], 0.006)
    turn = np.arange(samples, dtype=np.float32) * np.float32(2 * np.pi / samples)
    lfo = np.sin(score.chord_lfo_cycles * turn + np.float32(score.chord_lfo_phase))
    octaves = score.chord_lfo_octaves * lfo + score.chord_env_octaves * envelope

    low, high = float(octaves.min()), float(octaves.max())
    stills = max(2, int(np.ceil((high - low) * 2)) + 1)
    cutoffs_hz = factors["chord_cutoff_hz"] * 2 ** np.linspace(low, high, stills)
    position = (octaves - low) * np.float32((stills - 1) / (high - low))
    out = circle.silence()
    for i, cutoff_hz in enumerate(cutoffs_hz):
        weight = np.maximum(1 - np.abs(position - i), 0)
        out += weight * circle.signal(spectrum * ladder(circle.frequency_hz / cutoff_hz, 0.3))
    scale = 1 / np.sqrt(np.square(np.abs(spectrum)).sum() * 2) * samples
    return out * envelope * np.float32(scale)


def _duck(circle: Circle, score: Score, depth_db: float) -> Signal:
    """What the kick leaves to the others: down at each onset, back within a beat or so."""
    t = circle.since(score.kick.steps)
    beat = np.float32(circle.samples / circle.grid.beats)
    depth = score.kick.velocity.astype(np.float32)[t.hit] * _decay(t.elapsed / beat, 0.3)
    return circle.smooth(_gain(-depth_db) ** depth, 0.006)


def _room(circle: Circle, decay_s: float) -> Spectrum:
    """A short room: decaying noise without bottom."""
    f = circle.frequency_hz
    return (
        circle.reverb(decay_s, delay_s=0.008)
        * _high_pass(f, 200.0)
        * _low_pass(f, 5_000.0)
        * np.float32(0.6)
    )


def _delay(circle: Circle, feedback: float) -> Spectrum:
    """Echoes at three sixteenths, darker each time, around the loop for ever."""
    delay_s = 3 * circle.grid.duration_s / circle.grid.steps
    f = circle.frequency_hz
    once = (
        feedback * np.exp(-2j * np.pi * f * delay_s) * _low_pass(f, 3_500.0) * _high_pass(f, 150.0)
    )
    return (0.7 * once / (1 - once)).astype(np.complex64)


def _master(circle: Circle, mix: Spectrum, drive_db: float) -> Signal:
    """Saturate at twice the rate, take what is below 25 Hz and the edge of the band away."""
    double = 2 * circle.samples
    padded = np.zeros(double // 2 + 1, np.complex64)
    padded[: mix.size] = mix
    wide = scipy.fft.irfft(padded, double)
    wide *= _gain(drive_db - 6) / np.abs(wide).max()
    squashed = scipy.fft.rfft(np.tanh(wide))[: mix.size]
    edge = np.clip((0.5 - circle.frequency_hz / circle.rate) / 0.03, 0, 1)
    out = circle.signal(squashed * _high_pass(circle.frequency_hz, 18.0) * edge)
    return (0.95 / np.abs(out).max() * out).astype(np.float32)
