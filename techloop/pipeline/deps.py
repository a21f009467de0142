"""Writes the `deps` of every stage from what its code imports: `make deps`."""

from collections.abc import Iterable
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from techloop.artifacts import atomic_write
from techloop.closure import TOP, closure

PIPELINES = ("dvc.yaml", "study/dvc.yaml", "notebooks/dvc.yaml")


def code_deps(stage: str, top: Path = TOP) -> list[str]:
    """Files of the checkout that a stage's outputs depend on, besides its inputs.

    Args:
        stage: name of its script in `stages/`.
        top: of the checkout.
    """
    # A notebook's own code is listed by hand, with the notebook.
    notebook = [file for file in (top / "notebooks" / f"{stage}.py",) if file.is_file()]
    files = closure([f"stages.{stage}", *notebook], top)
    names = [file.relative_to(top).as_posix() for file in (*files, *templates(files))]
    return sorted(name for name in names if not name.startswith("notebooks/"))


def templates(files: Iterable[Path]) -> set[Path]:
    """Templates beside some modules that their code names, and templates that these name."""
    named: set[Path] = set()
    pending = list(files)
    while pending:
        file = pending.pop()
        folder = file.parent if file.parent.name == "templates" else file.parent / "templates"
        text = file.read_text(encoding="utf-8")
        new = {template for template in folder.glob("*") if template.name in text} - named - {file}
        named |= new
        pending += new
    return named


def written_deps(file: Path, top: Path = TOP) -> tuple[str, str]:
    """The text of a dvc.yaml, and how it should be: each stage's inputs unchanged, then its code.

    Args:
        file: a dvc.yaml.
        top: of the checkout.
    """
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 4096, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = file.read_text(encoding="utf-8")
    pipeline = yaml.load(text)
    for name, body in pipeline["stages"].items():
        stage = body.get("do", body)
        inputs = [d for d in stage["deps"] if not str(d).startswith(("techloop/", "stages/"))]
        stage["deps"][:] = inputs + code_deps(name, top)
    out = StringIO()
    yaml.dump(pipeline, out)
    return text, out.getvalue()


def main() -> None:
    """Bring every dvc.yaml up to date, and say which changed."""
    for name in PIPELINES:
        before, after = written_deps(TOP / name)
        if before != after:
            atomic_write(TOP / name, after)
        print(f"{name}: {'written' if before != after else 'up to date'}")


if __name__ == "__main__":
    main()
