"""The built-in synthesiser: deterministic, in time, circular, and controlled by its factors."""

from dataclasses import replace

import numpy as np
import pytest

from techloop.audio.recording import Unreadable
from techloop.data.source import Item
from techloop.data.sources.synth.circle import onset_samples, since
from techloop.data.sources.synth.factors import FACTORS, draw_factors
from techloop.data.sources.synth.filters import ladder
from techloop.data.sources.synth.mix import perform
from techloop.data.sources.synth.score import BassLine, Hits, compose
from techloop.data.sources.synth.source import SynthSource, render
from techloop.grid import Grid

GRID = Grid()
LOOPS = 60
NOBODY = Hits(np.zeros(0, int), np.zeros(0))
# All instruments are audible, nothing is extreme.
AUDIBLE = {name: spec.at(0.5) for name, spec in FACTORS.items()} | {
    "kick_pattern": 0.0,
    "open_hat_level_db": -10.0,
    "clap_level_db": -6.0,
    "rumble_level_db": -10.0,
    "bass_level_db": -4.0,
    "bass_resonance": 0.7,
    "chord_level_db": -6.0,
}


@pytest.fixture(scope="module")
def loops():
    source = SynthSource(GRID, LOOPS, seed=3)
    return np.stack([source.read(item).samples for item in source.items()])


def spectrum(x):
    return np.abs(np.fft.rfft(x)), np.fft.rfftfreq(x.size, 1 / GRID.sample_rate_hz)


def centroid_hz(x):
    amplitude, frequency = spectrum(x)
    return (amplitude**2 * frequency).sum() / (amplitude**2).sum()


def alone(**instruments):
    """A score of seed 0 in which only the given instruments play, and the kick."""
    score = compose(GRID, AUDIBLE, np.random.default_rng(0))
    silent = {"hat": NOBODY, "open_hat": NOBODY, "clap": NOBODY, "percussion": (NOBODY, NOBODY)}
    bass = BassLine(*(values[:0] for values in score.bass))
    return replace(score, **({**silent, "bass": bass, "chord": NOBODY} | instruments))


def play(score, **factors):
    return perform(GRID, AUDIBLE | factors, score, np.random.default_rng(1))


def test_items_have_the_factors_and_names_of_the_loops():
    items = SynthSource(GRID, 300, seed=0).items()
    assert [item.name for item in items[:2]] == ["synth/000000", "synth/000001"]
    assert len({item.group for item in items}) == 300
    assert {(item.author, item.licence, item.bpm) for item in items} == {
        ("techloop", "CC0-1.0", 125.0)
    }
    drawn = np.array([list(item.factors.values()) for item in items])
    assert list(items[0].factors) == list(FACTORS)
    for column, spec in zip(drawn.T, FACTORS.values(), strict=True):
        assert spec.low <= column.min() < column.max() <= spec.high
    correlation = np.corrcoef(drawn.T) - np.eye(len(FACTORS))
    assert np.abs(correlation).max() < 0.25  # 300 independent draws: 0.06 is one sigma


def test_a_loop_depends_on_seed_and_number_alone(loops):
    few, many = SynthSource(GRID, 2, seed=3), SynthSource(GRID, 5_000, seed=3)
    for source in (few, many):
        recording = source.read(source.items()[1])
        assert recording.rate_hz == GRID.sample_rate_hz
        np.testing.assert_array_equal(recording.samples, loops[1])
    other = SynthSource(GRID, 2, seed=4)
    assert not np.allclose(other.read(other.items()[1]).samples, loops[1])


def test_loops_are_finite_loud_and_without_dc(loops):
    assert loops.shape == (LOOPS, GRID.samples)
    assert loops.dtype == np.float32
    assert np.isfinite(loops).all()
    np.testing.assert_allclose(np.abs(loops).max(axis=1), 0.95, rtol=1e-5)
    assert np.abs(loops.mean(axis=1)).max() < 1e-5
    assert 20 * np.log10(loops.std(axis=1)).min() > -26


def test_loops_differ_widely(loops):
    centroids = np.array([centroid_hz(loop) for loop in loops])
    assert np.quantile(centroids, 0.9) > 3 * np.quantile(centroids, 0.1)
    normed = loops / np.linalg.norm(loops, axis=1, keepdims=True)
    similar = normed @ normed.T - np.eye(LOOPS)
    assert np.median(np.abs(similar)) < 0.2


@pytest.mark.parametrize(
    "grid",
    [
        Grid(bars=2),
        Grid(sample_rate_hz=48_000),
        Grid(bpm=150.0),
        Grid(beats_per_bar=3),
        Grid(sample_rate_hz=8_000, beats_per_bar=1, bars=8),
        Grid(bpm=30_000.0),  # a bar of one hop
    ],
    ids=str,
)
def test_any_grid_will_do(grid):
    source = SynthSource(grid, 3, seed=0)
    for item in source.items():
        recording = source.read(item)
        assert recording.samples.shape == (grid.samples,)
        assert recording.rate_hz == grid.sample_rate_hz
        assert np.abs(recording.samples).max() == pytest.approx(0.95, rel=1e-5)


def test_extreme_factors_stay_finite():
    for u in (0.0, 1.0):
        factors = {name: spec.at(u) for name, spec in FACTORS.items()}
        assert np.isfinite(render(GRID, factors, 0, 0)).all()


def test_impossible_settings_and_items_are_refused():
    with pytest.raises(ValueError, match="loops is 0"):
        SynthSource(GRID, 0, seed=0)
    with pytest.raises(ValueError, match="seed is -1"):
        SynthSource(GRID, 1, seed=-1)
    for name in ("synth/000002", "synth/1", "kick.wav", "synth/x"):
        with pytest.raises(Unreadable, match="none of the 2 loops"):
            SynthSource(GRID, 2, seed=0).read(Item(name=name, group=name))


# --- the circle


def test_since_counts_around_the_circle():
    hit, elapsed, left = since(np.array([2, 5]), 8)
    np.testing.assert_array_equal(hit, [1, 1, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(elapsed, [3, 4, 0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(left, [2, 1, 3, 2, 1, 5, 4, 3])


@pytest.mark.parametrize("steps", [4, 6, 14])
def test_a_rotated_score_is_a_rotated_loop(steps):
    """Tails, filters, envelopes, slides and saturation are circular: no sample is the first.

    Hats, clap and chord have free-running carriers, which do not rotate with the score.
    """

    def rotated(hits):
        order = np.argsort((hits.steps + steps) % GRID.steps)
        return type(hits)((hits.steps + steps)[order] % GRID.steps, *(x[order] for x in hits[1:]))

    bass = BassLine(  # slides across the wrap, and a note that lasts across it
        np.array([1, 4, 7, 10, 15]),
        np.array([0, 12, 3, 0, 7]),
        np.array([False, True, False, True, True]),
        np.array([True, False, False, True, False]),
    )
    percussion = (Hits(np.array([2, 7, 15]), np.array([1.0, 0.6, 0.8])), NOBODY)
    kick = Hits(np.array([0, 6, 13]), np.array([1.0, 0.7, 0.9]))
    score = alone(kick=kick, bass=bass, percussion=percussion, delay_feedback=0.6)
    again = replace(
        score, kick=rotated(kick), bass=rotated(bass), percussion=(rotated(percussion[0]), NOBODY)
    )
    expected = np.roll(play(score, room_s=1.2), steps * GRID.samples // GRID.steps)
    np.testing.assert_allclose(play(again, room_s=1.2), expected, atol=2e-4)


def test_the_wrap_is_as_smooth_as_the_samples_around_it():
    """No onset falls on the wrap, and hats and claps, whose noise would hide a seam, are off."""
    loops = []
    for number in range(50):
        factors = draw_factors(5, number) | {"chord_level_db": -4.0, "chord_decay_s": 1.0}
        score = compose(GRID, factors, np.random.default_rng([5, number]))
        parts = {
            name: type(hits)(*(x[hits.steps > 0] for x in hits))
            for name in ("kick", "chord", "bass")
            for hits in [getattr(score, name)]
        }
        parts["bass"] = parts["bass"]._replace(tied=np.zeros_like(parts["bass"].tied))
        loops.append(play(alone(**parts), **factors))

    def roughness(x):
        """Fourth difference at the wrap over its median nearby."""
        near = np.concatenate([x[:, -200:], x[:, :200]], axis=1)
        missed = np.abs(np.diff(near, n=4, axis=1))
        wrap = missed[:, 196:200].max(axis=1)
        return wrap / (np.median(missed, axis=1) + 1e-6)

    whole = np.stack(loops)
    assert roughness(whole).max() < 5
    # A control: without its first samples, a loop's end does not meet its start.
    assert np.median(roughness(whole[:, 300:])) > 30


def test_tails_of_the_last_sixteenth_reach_into_the_beginning():
    last = Hits(np.array([14]), np.ones(1))
    for name in ("open_hat", "chord"):
        factors = {"open_hat_level_db": -5.0, "chord_level_db": -2.0, "chord_decay_s": 1.5}
        quiet = play(alone(), **factors)
        with_tail = play(alone(**{name: last}, open_hat_decay_s=0.25), **factors)
        beginning = slice(0, 1_000)
        assert (with_tail - quiet)[beginning].std() > 3e-3, name


# --- the music


def test_four_on_the_floor_falls_on_the_beats(loops):
    for number in range(LOOPS):
        factors = draw_factors(3, number) | {"kick_pattern": 0.0}
        low = np.fft.rfft(render(GRID, factors, 3, number))
        low[GRID.samples * 150 // GRID.sample_rate_hz :] = 0
        energy = np.square(np.fft.irfft(low)).reshape(GRID.beats, -1)
        half = energy.shape[1] // 2
        # Each beat has the kick in its first half.
        assert (energy[:, :half].sum(axis=1) > 1.2 * energy[:, half:].sum(axis=1)).mean() >= 0.75


def test_kick_patterns_differ():
    patterns = {tuple(_score(kick_pattern=float(k)).kick.steps) for k in range(5)}
    assert len(patterns) == 5
    assert all(0 in pattern for pattern in patterns)


def _score(**factors):
    return compose(GRID, AUDIBLE | factors, np.random.default_rng(7))


@pytest.mark.parametrize("density", [0.05, 0.25, 0.5, 1.0])
def test_density_is_the_part_of_sixteenths_that_sound(density):
    score = _score(hat_density=density, bass_density=density, percussion_density=density)
    count = round(density * GRID.steps)
    assert score.hat.steps.size == score.bass.steps.size == count
    assert score.percussion[0].steps.size == count
    gaps = np.diff(score.percussion[0].steps, append=score.percussion[0].steps[0] + GRID.steps)
    assert np.ptp(gaps) <= 1  # Euclidean


def test_swing_delays_every_second_sixteenth():
    straight = onset_samples(np.arange(16), GRID, 0.0)
    swung = onset_samples(np.arange(16), GRID, 0.25)
    np.testing.assert_array_equal(swung - straight, np.tile([0, 480], 8))

    hat = alone(hat=Hits(np.array([5]), np.ones(1)), hat_level=1.0)

    def onset(swing):
        amplitude = np.fft.rfft(play(hat, swing=swing, room_s=0.1, kick_drive_db=0.0))
        amplitude[: GRID.samples * 5_000 // GRID.sample_rate_hz] = 0
        region = np.abs(np.fft.irfft(amplitude))[5 * 1_920 - 400 : 6 * 1_920]
        return int(np.argmax(region > 0.4 * region.max()))

    assert abs(onset(0.25) - onset(0.0) - 480) < 30


@pytest.mark.parametrize("name", FACTORS)
def test_each_factor_changes_the_sound(name):
    spec = FACTORS[name]
    low, high = (render(GRID, AUDIBLE | {name: value}, 0, 0) for value in (spec.low, spec.high))
    changes = [np.abs(np.fft.rfft(x.reshape(-1, 512), axis=1)) for x in (low, high)]
    difference = np.linalg.norm(changes[0] - changes[1]) / np.linalg.norm(changes[0])
    assert difference > 0.02


def _peak_hz(x, low, high):
    amplitude, frequency = spectrum(x)
    inside = (frequency >= low) & (frequency < high)
    return frequency[inside][amplitude[inside].argmax()]


def test_factors_mean_what_their_units_say():
    silent = {"rumble_level_db": -120.0}
    for pitch in (45.0, 60.0):
        kick = play(alone(), kick_pitch_hz=pitch, kick_decay_s=0.3, **silent)
        assert _peak_hz(kick, 30, 100) == pytest.approx(pitch, abs=5)
    note = BassLine(np.array([2, 10]), np.array([0, 0]), *(np.zeros((2, 2), bool)))
    bass = alone(bass=note, bass_gate=0.95, bass_square=False)
    factors = {"bass_level_db": 40.0, "sidechain_db": 0.0, "bass_env_octaves": 0.0, **silent}
    loud = {"drive_db": -30.0, "bass_resonance": 0.0, **factors}
    root = play(bass, bass_root_hz=60.0, **loud)
    assert _peak_hz(root, 40, 500) == pytest.approx(60, abs=4)
    dark, bright = (centroid_hz(play(bass, bass_cutoff_hz=f, **loud)) for f in (150.0, 1_500.0))
    assert bright > 1.5 * dark
    opened = play(bass, **(loud | {"bass_env_octaves": 3.0}))
    assert centroid_hz(opened) > 1.5 * centroid_hz(play(bass, **loud))


def test_the_kick_ducks_the_chord():
    pad = alone(chord=Hits(np.arange(0, 16, 2), np.ones(8)))
    factors = {"chord_level_db": 30.0, "chord_decay_s": 1.5, "drive_db": -30.0}

    def dip(depth):
        beats = np.square(play(pad, sidechain_db=depth, **factors)).reshape(GRID.beats, -1)
        return beats[:, :1_000].mean() / beats[:, -2_000:-1_000].mean()

    assert dip(24.0) < 0.1 < 0.4 < dip(0.0)


def test_the_ladder_is_the_textbook_response():
    ratio = np.array([0.01, 1.0, 100.0])
    np.testing.assert_allclose(np.abs(ladder(ratio, 0.0))[1:], [0.25, 1e-8], rtol=1e-3)
    # At the cut-off the loop inverts: 1 / (4 - feedback), against 1 / (1 + feedback).
    gain = np.abs(ladder(ratio, 0.9))
    assert gain[1] / gain[0] == pytest.approx((1 + 3.6) / (4 - 3.6), rel=1e-2)
