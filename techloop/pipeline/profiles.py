"""Profiles: sizes for a machine, in `profiles/`, that `techloop profile` puts into params.yaml.

They are written there, not laid over it, so that params.yaml alone says what a stage is told, and
DVC sees what is out of date.
"""

from collections.abc import MutableMapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from techloop.artifacts import atomic_write
from techloop.params import check_params, read_yaml


def use_profile(name: str, top: str | Path = ".") -> list[str]:
    """Give params.yaml the values of `profiles/<name>.yaml`; comments and all else there stay.

    A key that the profile has with no value is taken out: another profile's cell.

    Args:
        top: of the repository.

    Returns:
        What changed, a line each.

    Raises:
        ValueError: there is no such profile, or params.yaml would not be a valid one; it is then
            left as it was.
    """
    file, folder = Path(top) / "params.yaml", Path(top) / "profiles"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ValueError(
            f"there is no profile {name!r}; {folder} has {', '.join(known) or 'none'}. Run from "
            "the top of the repository, or add a file there."
        )
    yaml = YAML()  # with comments, and numbers as they are written
    yaml.preserve_quotes, yaml.width = True, 4096
    params, profile = (read_yaml(path, yaml) for path in (file, folder / f"{name}.yaml"))
    if not isinstance(params, MutableMapping) or not isinstance(profile, MutableMapping):
        raise ValueError(f"{file} or {folder / name}.yaml has no sections")
    changes = merged(params, profile)
    text = StringIO()
    yaml.dump(params, text)
    check_params(YAML(typ="safe").load(text.getvalue()), f"{file} with {name}.yaml")
    if changes:
        atomic_write(file, text.getvalue())
    return changes


def merged(
    into: MutableMapping[str, Any], values: MutableMapping[str, Any], within: str = ""
) -> list[str]:
    """Set nested values, and say what changed; None takes a key out."""
    changes = []
    for position, (key, value) in enumerate(values.items()):
        old, place = into.get(key), f"{within}{key}"
        if isinstance(value, MutableMapping) and isinstance(old, MutableMapping):
            changes += merged(old, value, f"{place}.")
        elif value is None and key in into:
            del into[key]
            changes.append(f"{place}: taken out")
        elif key not in into and value is not None:
            # Where the profile has it: what stands behind the last key is that one's in YAML.
            into.insert(position, key, value)  # type: ignore[attr-defined]
            changes.append(f"{place}: new")
        elif old != value:
            into[key] = value
            changes.append(f"{place}: {old} -> {value}")
    return changes
