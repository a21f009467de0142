import json
import math
from pathlib import Path

import numpy as np
import pytest

from techloop.artifacts import atomic_folder, atomic_write, fingerprint, read_json, write_json


def test_a_folder_appears_complete(tmp_path: Path) -> None:
    place = tmp_path / "sub" / "folder"
    for content in ("first", "second"):
        with atomic_folder(place) as new:
            (new / "file").write_text(content)
            assert new != place
        assert (place / "file").read_text() == content
    assert [p.name for p in place.parent.iterdir()] == ["folder"]


def test_after_an_error_the_old_folder_stays_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "folder"
    with atomic_folder(place) as new:
        (new / "file").write_text("old")

    def fail() -> None:
        with atomic_folder(place) as new:
            (new / "file").write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert (place / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_json_round_trip_with_nan_and_numpy_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(
        path, {"n": np.float32(1.5), "bad": math.nan, "list": [np.int64(3), math.inf], "s": "é"}
    )
    assert read_json(path) == {"n": 1.5, "bad": None, "list": [3, None], "s": "é"}
    assert json.loads(path.read_text(encoding="utf-8"))


def test_missing_and_damaged_json_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a complete artifact.*dvc repro"):
        read_json(tmp_path / "card.json")
    atomic_write(tmp_path / "card.json", '{"half":')
    with pytest.raises(ValueError, match="is damaged"):
        read_json(tmp_path / "card.json")


def test_a_fingerprint_follows_names_and_contents_only(tmp_path: Path) -> None:
    prints = set()
    for name, content in (("a", "1"), ("a", "2"), ("b", "1")):
        folder = tmp_path / f"{name}{content}"
        atomic_write(folder / name, content)
        prints.add(fingerprint(folder))
        atomic_write(tmp_path / f"copy-{name}{content}" / name, content)
        assert fingerprint(folder) == fingerprint(tmp_path / f"copy-{name}{content}")
    assert len(prints) == 3
    assert fingerprint(tmp_path / "a1") == fingerprint({"a": tmp_path / "a1" / "a"})
