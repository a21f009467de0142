"""A performance of a score: the instruments, the effects between them, and the master."""

import numpy as np
import scipy.fft

from techloop.data.sources.synth.bass import play_bass
from techloop.data.sources.synth.chord import play_chord
from techloop.data.sources.synth.circle import Circle
from techloop.data.sources.synth.drums import (
    play_clap,
    play_hats,
    play_kick,
    play_percussion,
    play_rumble,
)
from techloop.data.sources.synth.factors import Factors
from techloop.data.sources.synth.filters import Signal, Spectrum, decay, gain, high_pass, low_pass
from techloop.data.sources.synth.score import Score
from techloop.grid import Grid


def perform(grid: Grid, factors: Factors, score: Score, rng: np.random.Generator) -> Signal:
    """Play a score: instruments, side-chain, delay, room, saturation.

    The order of random draws is that of the lines below: a change would change every loop.

    Args:
        grid: of the loop.
        factors: ground truth, by name.
        score: what is played.
        rng: for noise and the phases of oscillators.

    Returns:
        Samples without DC, peak 0.95.
    """
    circle = Circle(grid, factors["swing"], rng)
    kick = play_kick(circle, factors, score)
    rumble = play_rumble(circle, kick) * gain(factors["rumble_level_db"])
    hats = play_hats(circle, factors, score)
    clap = play_clap(circle, score) * gain(factors["clap_level_db"])
    percussion = play_percussion(circle, factors, score)
    room = _room(circle, factors["room_s"])
    bass = play_bass(circle, factors, score) * gain(factors["bass_level_db"])
    chord = play_chord(circle, factors, score) * gain(factors["chord_level_db"])
    echo = _delay(circle, score.delay_feedback)

    duck = _side_chain(circle, score, factors["sidechain_db"])
    echoed = circle.spectrum(chord + 0.5 * percussion) * echo
    wet = circle.spectrum(0.6 * clap + 0.5 * chord + 0.5 * percussion + 0.15 * hats) + 0.5 * echoed
    dry = clap + (0.5 + 0.5 * duck) * (hats + percussion) + duck * (bass + rumble)
    tails = circle.signal(wet * room + echoed) + chord
    return _master(circle, circle.spectrum(dry + duck * tails) + kick, factors["drive_db"])


def _side_chain(circle: Circle, score: Score, depth_db: float) -> Signal:
    """Gain of the other instruments: falls at each kick and recovers within about a beat."""
    t = circle.since(score.kick.steps)
    beat = np.float32(circle.samples / circle.grid.beats)
    depth = score.kick.velocity.astype(np.float32)[t.hit] * decay(t.elapsed / beat, 0.3)
    return circle.smooth(gain(-depth_db) ** depth, 0.006)


def _room(circle: Circle, decay_s: float) -> Spectrum:
    """A short room: decaying noise between 200 Hz and 5 kHz."""
    f = circle.frequency_hz
    room: Spectrum = (
        circle.reverb(decay_s, delay_s=0.008)
        * high_pass(f, 200.0)
        * low_pass(f, 5_000.0)
        * np.float32(0.6)
    )
    return room


def _delay(circle: Circle, feedback: float) -> Spectrum:
    """Endless echoes around the loop, three sixteenths apart, each darker than the last."""
    delay_s = 3 * circle.grid.duration_s / circle.grid.steps
    f = circle.frequency_hz
    once = feedback * np.exp(-2j * np.pi * f * delay_s) * low_pass(f, 3_500.0) * high_pass(f, 150.0)
    echoes: Spectrum = (0.7 * once / (1 - once)).astype(np.complex64)
    return echoes


def _master(circle: Circle, mix: Spectrum, drive_db: float) -> Signal:
    """Saturate at twice the sample rate; remove the lowest bass and the edge of the band."""
    double = 2 * circle.samples
    padded = np.zeros(double // 2 + 1, np.complex64)
    padded[: mix.size] = mix
    wide = scipy.fft.irfft(padded, double)
    wide *= gain(drive_db - 6) / np.abs(wide).max()
    squashed = scipy.fft.rfft(np.tanh(wide))[: mix.size]
    edge = np.clip((0.5 - circle.frequency_hz / circle.rate) / 0.03, 0, 1)
    out = circle.signal(squashed * high_pass(circle.frequency_hz, 18.0) * edge)
    master: Signal = (0.95 / np.abs(out).max() * out).astype(np.float32)
    return master
