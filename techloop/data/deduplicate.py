"""Which loops sound the same: copies, other encodings, bars that a track repeats."""

import functools

import numpy as np
import scipy.fft
import scipy.spatial
from jaxtyping import Float, Float16, Int

FRAMES = 32  # per loop: about an eighth of a beat each
BANDS = 16
SPECTROGRAM_SIZE = FRAMES * BANDS
WINDOW_S = 0.064
LOWEST_HZ, HIGHEST_HZ = 40.0, 7_500.0
RANGE_DB = 50.0  # below the loudest level; what is softer is masked by it
COARSE_SIZE = 16  # dimensions in which neighbours are looked up


def fingerprint_spectrogram(
    loop: Float[np.ndarray, " samples"], sample_rate_hz: int
) -> Float16[np.ndarray, " dimensions"]:
    """A spectrogram of `SPECTROGRAM_SIZE` numbers that says how similar loops sound.

    Log-mel levels around the circle, within `RANGE_DB` of the loudest, minus their mean, scaled to
    length one. So the product of two is the correlation of their levels in [-1, 1], whatever their
    gains: 1 for copies, about 0 for loops that have nothing in common. Silence is all zeros.
    """
    size = round(WINDOW_S * sample_rate_hz)
    starts = np.round(np.arange(FRAMES) * (len(loop) / FRAMES)).astype(int)
    frames = loop.take(starts[:, None] + np.arange(-size // 2, size - size // 2), mode="wrap")
    power = np.square(np.abs(scipy.fft.rfft(frames * np.hanning(size).astype(loop.dtype))))
    edges = _band_edges(size, sample_rate_hz)
    bands = np.add.reduceat(power[:, : edges[-1]], edges[:-1], axis=1) / np.diff(edges)
    levels_db: np.ndarray = 10 * np.log10(bands + 1e-20)
    levels_db = np.maximum(levels_db, levels_db.max() - RANGE_DB).ravel()
    levels_db -= levels_db.mean()
    levels_db = levels_db / (np.linalg.norm(levels_db) + 1e-9)
    return levels_db.astype(np.float16)


@functools.cache
def _band_edges(size: int, sample_rate_hz: int) -> Int[np.ndarray, " edges"]:
    """Bins of a spectrum at which bands begin: equally wide in mel, at least one bin each."""
    low, high = LOWEST_HZ, min(HIGHEST_HZ, 0.45 * sample_rate_hz)
    mel = np.linspace(np.log1p(low / 700), np.log1p(high / 700), BANDS + 1)  # O'Shaughnessy 1987
    bins = np.round(700 * np.expm1(mel) * size / sample_rate_hz).astype(int)
    return np.maximum.accumulate(np.maximum(bins, bins[0] + np.arange(BANDS + 1)))


def near_duplicates(
    spectrograms: Float[np.ndarray, "n dimensions"],
    order: Int[np.ndarray, " n"],
    max_similarity: float,
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """For each loop the one that stands for it, and how similar they are (1 for those that stay).

    Loops are taken in `order`. A loop that is more similar than `max_similarity` to one that
    stays is represented by the first such one. So no two that stay are near-duplicates, and no
    chain of small steps joins loops that are different.

    Args:
        spectrograms: of each loop, by `fingerprint_spectrogram`.
        order: loops by precedence.
        max_similarity: in (0, 1]; at 1 all stay.
    """
    n = len(spectrograms)
    stands_for, similarity = np.full(n, -1), np.ones(n)
    # Neighbours are neighbours in any projection too, so the neighbours in a few dimensions include
    # them all. The dimensions are those in which loops differ most, which leaves the fewest others.
    coarse = _project(spectrograms)
    tree = scipy.spatial.cKDTree(coarse)
    radius = np.sqrt(max(2 - 2 * max_similarity, 0) + 2e-3)  # spectrograms have 16 bits
    for i in order:
        if stands_for[i] >= 0:
            continue
        stands_for[i] = i
        if max_similarity >= 1:
            continue
        near = np.array(tree.query_ball_point(coarse[i], radius))
        near = near[stands_for[near] < 0]
        if near.size:
            product = spectrograms[near].astype(np.float32) @ spectrograms[i].astype(np.float32)
            same = product > max_similarity
            stands_for[near[same]], similarity[near[same]] = i, product[same]
    return stands_for, similarity


def _project(spectrograms: Float[np.ndarray, "n dimensions"]) -> Float[np.ndarray, "n coarse"]:
    """Spectrograms along the directions in which they differ most."""
    covariance = np.zeros((spectrograms.shape[1],) * 2)
    blocks = np.array_split(spectrograms, max(len(spectrograms) // 4096, 1))
    for block in blocks:
        covariance += block.T.astype(np.float32) @ block.astype(np.float32)
    _, directions = np.linalg.eigh(covariance)
    axes = directions[:, -COARSE_SIZE:].astype(np.float32)
    return np.concatenate([block.astype(np.float32) @ axes for block in blocks])
