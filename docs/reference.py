"""A page of reference for each package, for `make docs`: mkdocs calls `on_files`."""

from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

TOP = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference to those that docs/ holds."""
    for name, content in pages():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def pages() -> Iterator[tuple[str, str]]:
    """Name and text of each page: a package, or the modules beside the packages."""
    package = TOP / "techloop"
    inner = sorted(path for path in package.iterdir() if (path / "__init__.py").is_file())
    yield "techloop", _page("techloop", sorted(package.glob("*.py")))
    for folder in inner:
        yield folder.name, _page(f"techloop.{folder.name}", sorted(folder.rglob("*.py")))


def _page(title: str, files: list[Path]) -> str:
    """All modules of a page but `__init__.py`, which hold no code."""
    parts = [f.relative_to(TOP).with_suffix("").parts for f in files if f.stem != "__init__"]
    return f"# {title}\n\n" + "\n".join(f"::: {'.'.join(names)}" for names in parts)
