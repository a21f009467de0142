"""The chord stabs: detuned saws through a moving filter."""

import numpy as np

from techloop.data.sources.synth.circle import Circle
from techloop.data.sources.synth.factors import Factors
from techloop.data.sources.synth.filters import Signal, decay, ladder
from techloop.data.sources.synth.score import Score


def play_chord(circle: Circle, factors: Factors, score: Score) -> Signal:
    """Free-running detuned saws, gated by stabs; the filter follows the stabs and a slow LFO.

    Partials make whole cycles per loop. The moving filter is a cross-fade of fixed ones.
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
    envelope = decay(t.elapsed / circle.rate, factors["chord_decay_s"])
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
    chord: Signal = out * envelope * np.float32(scale)
    return chord
