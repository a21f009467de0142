"""Which split a group of recordings goes to: by a hash of its name."""

from techloop.data.columns import SPLITS
from techloop.data.rows import hash_of


def split_of(group: str, train_fraction: float, validation_fraction: float) -> str:
    """The split of a group. It depends on its name and the fractions only, not on other groups."""
    place = place_of(group)
    if place < train_fraction:
        return "train"
    return "validation" if place < train_fraction + validation_fraction else "test"


def place_of(group: str) -> float:
    """A number in [0, 1) that is as good as random, and always the same for a group."""
    return int.from_bytes(hash_of(group)[:6]) / 2**48


def refuse_empty_splits(split_by_group: dict[str, str], duplicates: int) -> None:
    """Refuse a dataset with an empty split: training, validation and testing each need one.

    Args:
        split_by_group: split of each group that has loops.
        duplicates: how many loops were left out as near-duplicates.

    Raises:
        ValueError: a split is empty; names fractions that fill all three, if any do.
    """
    empty = [split for split in SPLITS if split not in split_by_group.values()]
    if not empty:
        return
    n, places = len(split_by_group), sorted(map(place_of, split_by_group))
    message = (
        f"split {' and '.join(empty)} would be empty: {n} group{'s' * (n != 1)} of recordings "
        "(those of one author, else one file, stay together) fall into splits by a hash of their "
        "names. "
    )
    if duplicates:
        message += (
            f"{duplicates} loops were left out as near-duplicates of others; a `max_similarity` "
            "nearer to 1 keeps more. "
        )
    if n < len(SPLITS):
        raise ValueError(message + "Add recordings: three groups are the least, dozens are better.")
    held_out = max(n // 10, 1)
    train, rest = ((places[n - k * held_out - 1] + places[n - k * held_out]) / 2 for k in (2, 1))
    raise ValueError(
        message + f"Add recordings, or set `train_fraction: {train:.6f}` and "
        f"`validation_fraction: {rest - train:.6f}` in params.yaml, which fill all three."
    )
