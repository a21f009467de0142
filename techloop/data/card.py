"""The content of a dataset's `card.json`."""

from typing import TypedDict


class Shard(TypedDict):
    """A file of audio, and how many loops it holds."""

    file: str
    loops: int


class Contents(TypedDict):
    """What a dataset holds: counts, files, and the fingerprint of those that training reads."""

    loops: int
    hours: float
    splits: dict[str, int]
    shards: list[Shard]
    licences: dict[str, int]
    authors: int
    rejected: dict[str, int]
    fingerprint: str


class Card(Contents):
    """All of `card.json`: the contents, and what they were made from."""

    format: int
    grid: dict[str, float]
    source: str
    items: int
    preparation: dict[str, float | str]
    max_similarity: float
    seed: int
