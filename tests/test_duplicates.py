import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from techloop.data.deduplicate import SPECTROGRAM_SIZE, fingerprint_spectrogram, near_duplicates

RATE = 16_000
SAMPLES = 30_720  # a bar of 125 BPM


def bar(seed, samples=SAMPLES, rate=RATE):
    """A bar of its own pattern of kicks and noises over a bass line of its own."""
    rng = np.random.default_rng(seed)
    step = samples // 16
    t = np.arange(step) / rate
    x = np.zeros((16, step))
    for kick, hat, pitch in zip(
        rng.random(16) < 0.3, rng.random(16) < 0.4, rng.integers(30, 60, 16), strict=True
    ):
        i = int(rng.integers(16))
        x[i] += 0.2 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * t)
        x[i] += 0.8 * kick * np.sin(2 * np.pi * 55 * t) * np.exp(-t / 0.05)
        x[i] += 0.3 * hat * rng.standard_normal(step) * np.exp(-t / 0.02)
    return (0.5 * x.reshape(-1) + 1e-3 * rng.standard_normal(16 * step)).astype(np.float32)


def alike(x, y, rate=RATE):
    return float(
        fingerprint_spectrogram(x, rate).astype(np.float64)
        @ fingerprint_spectrogram(y, rate).astype(np.float64)
    )


def unit(vectors):
    """Spectrograms: rows of length one, in 16 bits."""
    vectors = np.asarray(vectors, float)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def turned(degrees):
    """Spectrograms in one plane; the similarity of two is the cosine of the angle between them."""
    angle = np.deg2rad(np.asarray(degrees, float))
    vectors = np.zeros((len(angle), SPECTROGRAM_SIZE))
    vectors[:, 3], vectors[:, 400] = np.cos(angle), np.sin(angle)
    return unit(vectors)


# ---- What a loop sounds like


@pytest.mark.parametrize("rate", [1_000, 8_000, 16_000, 44_100])
def test_a_spectrogram_has_length_one_at_any_rate(rate):
    x = bar(0, round(1.92 * rate) // 16 * 16, rate)
    spectrogram = fingerprint_spectrogram(x, rate)
    assert spectrogram.shape == (SPECTROGRAM_SIZE,)
    assert spectrogram.dtype == np.float16
    assert np.linalg.norm(spectrogram.astype(float)) == pytest.approx(1, abs=5e-4)
    assert spectrogram.astype(float).mean() == pytest.approx(0, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.floats(-60, 20))
def test_gain_and_sign_do_not_matter(seed, gain_db):
    x = bar(seed)
    assert alike(x, np.float32(10 ** (gain_db / 20)) * x) > 0.999
    assert alike(x, -x) > 0.999


@pytest.mark.parametrize("offset", [0.01, 0.1, 1.0])
def test_dc_does_not_matter(offset):
    x = bar(0)  # the lowest band begins at 40 Hz, which a Hann window of 64 ms keeps clear of it
    assert alike(x, x + np.float32(offset)) > 0.999


@pytest.mark.parametrize("seed", range(5))
def test_what_is_the_same_to_the_ear_is_nearly_one(seed):
    x, rng = bar(seed), np.random.default_rng(99)
    assert alike(x, x) == pytest.approx(1, abs=1e-3)
    assert alike(x, x + 1e-3 * rng.standard_normal(SAMPLES).astype(np.float32)) > 0.98
    assert alike(x, np.roll(x, round(0.002 * RATE))) > 0.99
    quiet = np.round(x * 2**15) / np.float32(2**15)
    assert alike(x, quiet) > 0.999


def test_another_encoding_is_a_near_duplicate():
    for seed in range(5):
        x = bar(seed)
        stream = io.BytesIO()
        soundfile.write(stream, x, RATE, format="OGG", subtype="VORBIS")
        stream.seek(0)
        decoded, rate = soundfile.read(stream, dtype="float32")
        assert (len(decoded), rate) == (SAMPLES, RATE)
        assert alike(x, decoded) > 0.99


def test_different_bars_are_far_from_duplicates():
    spectrograms = np.stack(
        [fingerprint_spectrogram(bar(seed), RATE) for seed in range(30)]
    ).astype(float)
    products = spectrograms @ spectrograms.T
    assert products[~np.eye(30, dtype=bool)].max() < 0.9
    assert np.diag(products) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_a_bar_that_begins_elsewhere_is_another(steps):
    x = bar(0)
    assert alike(x, np.roll(x, steps * SAMPLES // 16)) < 0.9


def test_a_loop_is_a_circle():
    # A frame is 960 samples: a turn by whole frames turns the spectrogram.
    x = bar(0)
    there, turned_there = (
        fingerprint_spectrogram(y, RATE).reshape(32, -1) for y in (x, np.roll(x, 5 * 960))
    )
    np.testing.assert_allclose(np.roll(there, 5, axis=0), turned_there, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1e-30, 0.5])
def test_silence_has_a_spectrogram_of_numbers(value):
    spectrogram = fingerprint_spectrogram(np.full(SAMPLES, value, np.float32), RATE)
    assert np.isfinite(spectrogram).all()
    if value == 0:
        assert not spectrogram.any()  # like nothing, also not like silence


# ---- Near-duplicates


def test_loops_that_differ_all_stay():
    stands_for, similarity = near_duplicates(turned([0, 30, 60, 90]), np.arange(4), 0.95)
    assert stands_for.tolist() == [0, 1, 2, 3]
    assert similarity.tolist() == [1, 1, 1, 1]


def test_copies_go_to_the_first_of_them():
    stands_for, similarity = near_duplicates(turned([0, 80, 0, 80, 0]), np.arange(5), 0.99)
    assert stands_for.tolist() == [0, 1, 0, 1, 0]
    assert similarity[[0, 1]].tolist() == [1, 1]
    assert similarity == pytest.approx(1, abs=1e-3)


def test_a_chain_does_not_join_what_is_different():
    # Neighbours are 8 degrees apart (0.990), the ends 16 (0.961).
    stands_for, similarity = near_duplicates(turned([0, 8, 16]), np.arange(3), 0.98)
    assert stands_for.tolist() == [0, 0, 2]
    assert similarity[1] == pytest.approx(np.cos(np.deg2rad(8)), abs=1e-3)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([0, 1, 2], [0, 0, 2]),
        ([1, 0, 2], [1, 1, 1]),
        ([2, 1, 0], [0, 2, 2]),
        ([2, 0, 1], [0, 2, 2]),
    ],
)
def test_the_order_decides_who_stays(order, expected):
    stands_for, _ = near_duplicates(turned([0, 8, 16]), np.array(order), 0.98)
    assert stands_for.tolist() == expected


@pytest.mark.parametrize("max_similarity", [0.98, 0.995])
def test_the_threshold_decides(max_similarity):
    stands_for, _ = near_duplicates(turned([0, 8]), np.arange(2), max_similarity)  # 0.990
    assert stands_for.tolist() == [0, 0 if max_similarity < 0.99 else 1]


def test_a_similarity_of_one_keeps_all_also_copies():
    stands_for, similarity = near_duplicates(turned([0, 0, 0]), np.array([2, 0, 1]), 1.0)
    assert stands_for.tolist() == [0, 1, 2]
    assert similarity.tolist() == [1, 1, 1]


@pytest.mark.parametrize("max_similarity", [0.5, 0.99, 1.0])
@pytest.mark.parametrize("n", [0, 1])
def test_no_loop_or_one(n, max_similarity):
    stands_for, similarity = near_duplicates(turned([30] * n), np.arange(n), max_similarity)
    assert stands_for.tolist() == list(range(n))
    assert similarity.tolist() == [1] * n


def test_silent_loops_are_nobodys_duplicates():
    stands_for, _ = near_duplicates(np.zeros((3, SPECTROGRAM_SIZE), np.float16), np.arange(3), 0.9)
    assert stands_for.tolist() == [0, 1, 2]


def test_real_loops_and_their_copies():
    rng = np.random.default_rng(1)
    originals = [bar(seed) for seed in range(10)]
    copies = [0.3 * np.roll(x, 20) + 1e-5 * rng.standard_normal(SAMPLES) for x in originals]
    spectrograms = np.stack(
        [fingerprint_spectrogram(x.astype(np.float32), RATE) for x in originals + copies]
    )
    stands_for, similarity = near_duplicates(spectrograms, np.arange(20), 0.98)
    assert stands_for.tolist() == list(range(10)) * 2
    assert (similarity[10:] > 0.98).all()


def by_brute_force(spectrograms, order, max_similarity):
    """The same by all products."""
    products = spectrograms.astype(np.float32) @ spectrograms.astype(np.float32).T
    stands_for = np.full(len(spectrograms), -1)
    for i in order:
        if stands_for[i] < 0:
            stands_for[(stands_for < 0) & (products[i] > max_similarity)] = i
            stands_for[i] = i
    return stands_for, products


@pytest.mark.parametrize("max_similarity", [0.9, 0.98, 0.99, 0.999])
@pytest.mark.parametrize("dimensions", [SPECTROGRAM_SIZE, 16, 5])
def test_it_agrees_with_brute_force(dimensions, max_similarity):
    # In few dimensions the projection loses nothing, so what it must not miss is at its edge.
    rng = np.random.default_rng(dimensions)
    base = np.zeros((1000, SPECTROGRAM_SIZE))
    where = rng.choice(SPECTROGRAM_SIZE, dimensions, replace=False)
    base[:, where] = rng.standard_normal((1000, dimensions))
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    aside = np.zeros_like(base)
    aside[:, where] = rng.standard_normal((1000, dimensions))
    aside -= (aside * base).sum(axis=1, keepdims=True) * base
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    # Planted: near the threshold, on either side of it.
    cosine = max_similarity + (1 - max_similarity) * rng.uniform(-1, 1, (1000, 1))
    spectrograms = unit(np.concatenate([base, cosine * base + np.sqrt(1 - cosine**2) * aside]))
    order = rng.permutation(2000)
    stands_for, similarity = near_duplicates(spectrograms, order, max_similarity)

    expected, products = by_brute_force(spectrograms, order, max_similarity)
    assert (
        stands_for == expected
    ).mean() > 0.999  # products depend in their last bit on how they sum
    stays = np.flatnonzero(stands_for == np.arange(2000))
    among = products[np.ix_(stays, stays)]
    assert among[~np.eye(len(stays), dtype=bool)].max() < max_similarity + 1e-6
    dropped = np.flatnonzero(stands_for != np.arange(2000))
    assert len(dropped) > 300
    assert np.isin(stands_for[dropped], stays).all()
    assert (products[dropped, stands_for[dropped]] > max_similarity - 1e-6).all()
    np.testing.assert_allclose(
        similarity[dropped], products[dropped, stands_for[dropped]], atol=1e-5
    )
    place = np.argsort(order)
    assert (place[stands_for[dropped]] < place[dropped]).all()
    assert (similarity[stays] == 1).all()
