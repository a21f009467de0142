"""The documents say what is true: links lead somewhere, and what they name exists."""

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*TOP.glob("*.md"), *TOP.glob("docs/*.md"), *TOP.glob("[!.]*/README.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(
    r"`((?:techloop|stages|tests|docs|examples|profiles|cluster|benchmarks)/[\w/.@-]+\.\w+)`"
)
DEFINITION = re.compile(r"`(\w+)`(?:\s\([^)]*\))?\s+(?:\w+\s+)?in\s+`(techloop/[\w/]+\.py)`")
TARGET = re.compile(r"`make ([a-z]+)\b")

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(TOP)))


def anchors(document: Path) -> set[str]:
    """Names of the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def broken_links(document: Path) -> list[str]:
    """Links of a document to files or headings that do not exist; addresses are not asked."""
    broken = []
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def undefined(text: str) -> list[str]:
    """What a text says is defined in a file and is not: "`name` in `techloop/file.py`"."""
    missing = []
    for name, file in DEFINITION.findall(text):
        path = TOP / file
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
        names = {node.name for node in ast.walk(tree) if hasattr(node, "name")}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
        if name not in names:
            missing.append(f"{name} in {file}")
    return missing


@documents
def test_links_lead_somewhere(document: Path) -> None:
    assert broken_links(document) == []


@documents
def test_files_that_are_named_exist(document: Path) -> None:
    named = FILE.findall(document.read_text(encoding="utf-8"))
    assert [name for name in named if not (TOP / name).exists()] == []


@documents
def test_what_is_said_to_be_in_a_file_is_there(document: Path) -> None:
    assert undefined(document.read_text(encoding="utf-8")) == []


@documents
def test_targets_of_make_exist(document: Path) -> None:
    makefile = (TOP / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(TARGET.findall(document.read_text(encoding="utf-8"))) <= targets


def test_broken_documents_are_noticed(tmp_path: Path) -> None:
    document = tmp_path / "x.md"
    document.write_text("# One: two\n[a](x.md#one-two) [b](x.md#three) [c](y.md) [d](https://e)\n")
    assert broken_links(document) == ["x.md#three", "y.md"]
    assert undefined("`Grid` in `techloop/grid.py`, `grit` in `techloop/grid.py`") == [
        "grit in techloop/grid.py"
    ]
    assert undefined("`x` in `techloop/nowhere.py`") == ["x in techloop/nowhere.py"]


def test_the_readme_is_short_and_shows_the_report() -> None:
    text = (TOP / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    assert "](docs/report.png)" in text


def test_the_architecture_answers_what_a_stranger_asks() -> None:
    """The answers name the places; `test_what_is_said_to_be_in_a_file_is_there` finds them."""
    text = (TOP / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {name for name, _ in DEFINITION.findall(text)}
    assert {"normalise", "audio_vae_loss", "gaussian_kl", "checkpoint_folder", "fit"} <= named
