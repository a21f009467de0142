"""Which loops are the same to the ear: copies, other encodings, bars that a track repeats."""

import functools

import numpy as np
import scipy.fft
import scipy.spatial
from jaxtyping import Float, Int

FRAMES = 32  # a loop, an eighth of a beat or so each
BANDS = 16
SPECTROGRAM_SIZE = FRAMES * BANDS
WINDOW_S = 0.064
LOWEST_HZ, HIGHEST_HZ = 40.0, 7_500.0
RANGE_DB = 50.0  # what lies further below the loudest is not heard beside it
COARSE = 16  # dimensions in which neighbours are looked up


def fingerprint_spectrogram(
    loop: Float[np.ndarray, " samples"], sample_rate_hz: int
) -> Float[np.ndarray, " dimensions"]:
    """What a loop sounds like in `SPECTROGRAM_SIZE` numbers: two such agree as their product says.

    Log-mel levels around the circle, within `RANGE_DB` of the loudest, without their mean and of
    length one. So the product of two is the correlation of their spectrograms in [-1, 1], whatever
    their gains: 1 for copies, 0 for loops that have nothing in common.
    """
    size = round(WINDOW_S * sample_rate_hz)
    starts = np.round(np.arange(FRAMES) * (len(loop) / FRAMES)).astype(int)
    frames = loop.take(starts[:, None] + np.arange(-size // 2, size - size // 2), mode="wrap")
    power = np.square(np.abs(scipy.fft.rfft(frames * np.hanning(size).astype(loop.dtype))))
    edges = _band_edges(size, sample_rate_hz)
    bands = np.add.reduceat(power[:, : edges[-1]], edges[:-1], axis=1) / np.diff(edges)
    levels_db = 10 * np.log10(bands + 1e-20)
    levels_db = np.maximum(levels_db, levels_db.max() - RANGE_DB).ravel()
    levels_db -= levels_db.mean()
    return (levels_db / (np.linalg.norm(levels_db) + 1e-9)).astype(np.float16)


@functools.cache
def _band_edges(size: int, sample_rate_hz: int) -> Int[np.ndarray, " edges"]:
    """Bins of the spectrum at which bands begin that are equally wide in mel, at least one each."""
    low, high = LOWEST_HZ, min(HIGHEST_HZ, 0.45 * sample_rate_hz)
    mel = np.linspace(np.log1p(low / 700), np.log1p(high / 700), BANDS + 1)  # O'Shaughnessy 1987
    bins = np.round(700 * np.expm1(mel) * size / sample_rate_hz).astype(int)
    return np.maximum.accumulate(np.maximum(bins, bins[0] + np.arange(BANDS + 1)))


def near_duplicates(
    prints: Float[np.ndarray, "n dimensions"],
    order: Int[np.ndarray, " n"],
    max_similarity: float,
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """For each loop the one that stands for it, and how similar they are (1 for those that stay).

    Loops are taken in `order`; one that is more similar than `max_similarity` to one kept before
    goes to the first of these. So no two that are kept are near-duplicates, and no chain of small
    steps joins loops that are different.

    Args:
        prints: one a loop, see `fingerprint_spectrogram`.
        order: loops by precedence.
        max_similarity: in (0, 1]; 1 keeps all.
    """
    n = len(prints)
    kept, similarity = np.full(n, -1), np.ones(n)
    # Near ones are near in any projection too, so those in a few dimensions hold them all: the ones
    # in which the loops differ most, or as many would be near one another there.
    coarse = _principal(prints)
    tree = scipy.spatial.cKDTree(coarse)
    radius = np.sqrt(max(2 - 2 * max_similarity, 0) + 2e-3)  # prints are rounded to 16 bits
    for i in order:
        if kept[i] >= 0:
            continue
        kept[i] = i
        if max_similarity >= 1:
            continue
        near = np.array(tree.query_ball_point(coarse[i], radius))
        near = near[kept[near] < 0]
        if near.size:
            product = prints[near].astype(np.float32) @ prints[i].astype(np.float32)
            same = product > max_similarity
            kept[near[same]], similarity[near[same]] = i, product[same]
    return kept, similarity


def _principal(prints: Float[np.ndarray, "n dimensions"]) -> Float[np.ndarray, "n coarse"]:
    """The prints along the directions in which they differ most."""
    covariance = np.zeros((prints.shape[1],) * 2)
    blocks = np.array_split(prints, max(len(prints) // 4096, 1))
    for block in blocks:
        covariance += block.T.astype(np.float32) @ block.astype(np.float32)
    _, directions = np.linalg.eigh(covariance)
    axes = directions[:, -COARSE:].astype(np.float32)
    return np.concatenate([block.astype(np.float32) @ axes for block in blocks])
