"""Profiles: sizes for a machine, in `profiles/`, that `techloop profile` writes into params.yaml.

They are written there, not merged when a stage runs, so that params.yaml alone has the values of a
stage, and DVC sees what is out of date.
"""

from collections.abc import Mapping, MutableMapping
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from techloop.artifacts import atomic_write
from techloop.params import check_params
from techloop.params_text import read_yaml


def use_profile(name: str, top: str | Path = ".") -> list[str]:
    """Write the values of `profiles/<name>.yaml` into params.yaml; comments and other keys stay.

    A key without a value in the profile is removed from params.yaml: another profile's cell.

    Args:
        name: of the profile.
        top: of the repository.

    Returns:
        What changed, one line per key.

    Raises:
        ValueError: the profile does not exist, or params.yaml would become invalid; it stays as it
            was.
    """
    file, folder = Path(top) / "params.yaml", Path(top) / "profiles"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ValueError(
            f"profile {name!r} does not exist; {folder} has {', '.join(names) or 'none'}. Run from "
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
    into: MutableMapping[str, object], values: Mapping[str, object], within: str = ""
) -> list[str]:
    """Set nested values, where None removes a key; what changed, one line per key.

    Args:
        into: nested mappings, which are changed.
        values: what to set.
        within: the place of `into` in the file, for the lines.
    """
    changes = []
    for position, (key, value) in enumerate(values.items()):
        old, place = into.get(key), f"{within}{key}"
        if isinstance(value, Mapping) and isinstance(old, MutableMapping):
            changes += merged(old, value, f"{place}.")
        elif value is None and key in into:
            del into[key]
            changes.append(f"{place}: removed")
        elif key not in into and value is not None:
            # At the profile's position: YAML attaches comments behind the last key to that key.
            into.insert(position, key, value)  # type: ignore[attr-defined]  # ruamel's CommentedMap
            changes.append(f"{place}: new")
        elif old != value:
            into[key] = value
            changes.append(f"{place}: {old} -> {value}")
    return changes
