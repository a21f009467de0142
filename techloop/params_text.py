"""The text of params.yaml: reading it, and saying what is wrong with it in plain words."""

from pathlib import Path

from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


def read_yaml(path: str | Path, yaml: YAML) -> object:
    """The content of a YAML file at the top of the repository.

    Raises:
        ValueError: the file is missing or not valid YAML.
    """
    path = Path(path)
    try:
        content: object = yaml.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} is not there; run from the top of the repository, where it lies"
        ) from None
    except YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return content


def in_plain_words(error: ErrorDetails) -> str:
    """One pydantic error in plain words, with its place."""
    place = ".".join(map(str, error["loc"])) or "the file"
    match error["type"]:
        case "missing":
            return f"`{place}` is missing; every key is required, see the repository's params.yaml."
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"`{place}` is not a known key; it may be misspelt or from another version."
        case "value_error":  # by the section itself, such as an impossible grid
            message = str(error["ctx"]["error"]).removeprefix(f"{place}: ")
            return f"`{place}`: {message}"
        case _:
            return f"`{place}` is {error['input']!r}: {error['msg'].lower()}."
