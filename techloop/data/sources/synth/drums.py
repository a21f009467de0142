"""Kick, rumble, hats, clap and percussion."""

import numpy as np
import scipy.fft

from techloop.data.sources.synth.circle import Circle
from techloop.data.sources.synth.factors import Factors
from techloop.data.sources.synth.filters import (
    Signal,
    Spectrum,
    decay,
    gain,
    high_pass,
    low_pass,
    unit_rms,
)
from techloop.data.sources.synth.score import Score


def play_kick(circle: Circle, factors: Factors, score: Score) -> Spectrum:
    """A sine whose pitch falls by octaves, and a click; distorted at twice the sample rate."""
    hit, elapsed, left = circle.since(score.kick.steps, oversampling=2)
    rate = 2 * circle.rate
    t = elapsed / rate
    fall = score.kick_sweep_s
    octaves = np.float32(2**score.kick_sweep_octaves - 1)
    cycles = np.float32(factors["kick_pitch_hz"]) * (t + octaves * fall * (1 - decay(t, fall)))
    body = np.sin(np.float32(2 * np.pi) * cycles) * decay(t, factors["kick_decay_s"])
    click = circle.rng.standard_normal(int(0.006 * rate) + 1, dtype=np.float32)
    click *= np.hanning(2 * click.size)[click.size :] ** 2
    click[-1] = 0
    body += (
        np.float32(0.5 * score.kick_click) * click[np.minimum(elapsed, click.size - 1).astype(int)]
    )
    drive = gain(factors["kick_drive_db"])
    driven = np.tanh(drive * body) / np.tanh(drive)
    fade = np.minimum(left / (np.float32(0.004) * rate), 1)
    velocity = score.kick.velocity.astype(np.float32)[hit]
    spectrum: Spectrum = scipy.fft.rfft(driven * fade * velocity)
    return 0.5 * spectrum[: circle.samples // 2 + 1]


def play_rumble(circle: Circle, kick: Spectrum) -> Signal:
    """The kick in a dark hall, compressed, as loud as the kick."""
    hall = circle.reverb(decay_s=2.0, delay_s=0.03)
    dark = low_pass(circle.frequency_hz, 90.0) ** 2 * high_pass(circle.frequency_hz, 20.0)
    return np.tanh(1.5 * unit_rms(circle.signal(kick * hall * dark))) * np.float32(0.5)


def play_hats(circle: Circle, factors: Factors, score: Score) -> Signal:
    """Noise and free-running metallic tones above a cut-off; a closed hat stops the open one."""
    rate = float(circle.rate)
    metal_hz = circle.rng.uniform(min(2_500, 0.2 * rate), 0.47 * rate, 8)
    lines = np.zeros(circle.frequency_hz.size, np.complex64)
    bins = np.rint(metal_hz * circle.samples / rate).astype(int)
    lines[bins] = np.exp(2j * np.pi * circle.rng.random(8))
    bright = high_pass(circle.frequency_hz, factors["hat_cutoff_hz"])
    hiss = unit_rms(circle.signal(circle.spectrum(circle.noise()) * bright))
    ring = unit_rms(circle.signal(lines * bright))
    metal = np.float32(score.hat_metal)
    voice = (1 - metal) * hiss + metal * ring

    envelope = circle.silence()
    if score.hat.steps.size:
        closed = circle.since(score.hat.steps)
        strength = score.hat.velocity.astype(np.float32)[closed.hit]
        fall = decay(closed.elapsed / circle.rate, factors["hat_decay_s"])
        envelope += np.float32(score.hat_level) * strength * fall
    if score.open_hat.steps.size:
        opened = circle.since(score.open_hat.steps)
        fall = decay(opened.elapsed / circle.rate, score.open_hat_decay_s)
        if score.hat.steps.size:
            # Hats struck together both sound; a later closed hat silences the open one.
            later = closed.elapsed < opened.elapsed
            fall = np.where(later, fall * decay(closed.elapsed / circle.rate, 0.004), fall)
        envelope += gain(factors["open_hat_level_db"]) * fall
    hats: Signal = voice * envelope
    return hats


def play_clap(circle: Circle, score: Score) -> Signal:
    """A clap (bursts and a tail of noise around 1.2 kHz) or a snare (a tone and bright noise)."""
    if score.clap.steps.size == 0:
        return circle.silence()
    t = circle.since(score.clap.steps)
    seconds = t.elapsed / circle.rate
    tail = decay(seconds, score.clap_decay_s)
    f = circle.frequency_hz
    noise = circle.spectrum(circle.noise())
    if score.snare:
        hiss = unit_rms(circle.signal(noise * high_pass(f, 900.0) * low_pass(f, 5_000.0)))
        tone = np.sin(np.float32(2 * np.pi * 185) * (seconds + 0.01 * (1 - decay(seconds, 0.01))))
        voice = 0.35 * hiss * tail + 0.8 * tone * decay(seconds, 0.06)
    else:
        hiss = unit_rms(circle.signal(noise * high_pass(f, 700.0) * low_pass(f, 1_800.0)))
        burst = np.where(seconds < 0.03, decay(seconds % np.float32(0.011), 0.004), tail)
        voice = 0.45 * hiss * burst
    clap: Signal = voice * score.clap.velocity.astype(np.float32)[t.hit]
    return clap


def play_percussion(circle: Circle, factors: Factors, score: Score) -> Signal:
    """Two small drums, tuned a fifth apart, with some frequency modulation."""
    out = circle.silence()
    for hits, ratio in zip(score.percussion, (1.0, 1.5), strict=True):
        if hits.steps.size == 0:
            continue
        hit, elapsed, left = circle.since(hits.steps)
        t = elapsed / circle.rate
        envelope = decay(t, score.percussion_decay_s)
        pitch_hz = factors["percussion_pitch_hz"] * ratio
        omega = np.float32(2 * np.pi * pitch_hz)
        # Carson's rule: no more modulation than fits below the edge of the band.
        room = (0.45 * float(circle.rate) / pitch_hz - 1) / score.percussion_ratio - 1
        bend = (
            np.float32(np.clip(room, 0, score.percussion_fm))
            * envelope
            * np.sin(np.float32(score.percussion_ratio) * omega * t)
        )
        fade = np.minimum(left / (np.float32(0.002) * circle.rate), 1)
        out += np.sin(omega * t + bend) * envelope * fade * hits.velocity.astype(np.float32)[hit]
    return np.float32(score.percussion_level) * out
