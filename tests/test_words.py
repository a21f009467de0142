"""Plain words: names of variables, and sentences in docstrings, comments and messages."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
FOLDERS = ("techloop", "stages", "tests", "benchmarks", "notebooks", "examples", "docs")
BANNED_NAMES = {"told", "said", "heard", "found", "known", "made", "kept"}
# A sentence that has to be read twice: it begins with what it is about, and says so last.
SENTENCE = re.compile(r"(?:^|[.:;!?]\s+|\n\s*\n\s*)Of\s+[a-z`{'\"]")
CLAUSE = re.compile(r";\s+of\s[^.;:()]*?,\s")
BARE_NO = re.compile(r"\b(?:is|are) no (?!longer\b|less\b|more\b|matter\b)[a-z]")
NAMED = (ast.ClassDef, ast.FunctionDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
PATTERNS = (SENTENCE, CLAUSE, BARE_NO)


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that is assigned to, and every parameter, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, NAMED) and node.name:
            yield node.lineno, node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.lineno, node.rest


def texts(source: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Strings (those of f-strings joined) and blocks of comments, with their line."""
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(value) for value in ast.walk(node) if value is not node}
            parts = [v.value if isinstance(v, ast.Constant) else "x" for v in node.values]
            yield node.lineno, "".join(map(str, parts))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in inside
        ):
            yield node.lineno, node.value
    block, begin, last = "", 0, -2
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1 or token.line[: token.start[1]].strip():
                yield begin, block
                block, begin = "", token.start[0]
            block += token.string.lstrip("#: ") + " "
            last = token.start[0]
    yield begin, block


def complaints(file: Path) -> list[str]:
    """What a reader would stumble over in a file."""
    source = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return [
            f"{file.name}: {' '.join(m.group().split())!r}"
            for pattern in PATTERNS
            for m in pattern.finditer(source)
        ]
    tree = ast.parse(source)
    found_names = [
        f"{file.name}:{line}: variable `{name}`"
        for line, name in names(tree)
        if name.strip("_") in BANNED_NAMES
    ]
    sentences = [
        f"{file.name}:{line}: {' '.join(text[max(m.start() - 8, 0) : m.end() + 24].split())!r}"
        for line, text in texts(source, tree)
        for pattern in PATTERNS
        for m in pattern.finditer(text)
    ]
    return found_names + sentences


def readable_files() -> list[Path]:
    """All code and prose that people read."""
    code = [file for folder in FOLDERS for file in (TOP / folder).rglob("*.py")]
    prose = [TOP / "params.yaml", *TOP.glob("*.md"), *TOP.glob("[!.]*/*.md")]
    prose += [*TOP.glob("data/raw/*.md"), *TOP.glob("profiles/*.yaml")]
    prose += [*TOP.glob("techloop/reporting/templates/*")]
    this = Path(__file__)
    return sorted(file for file in (*code, *prose) if file.is_file() and file != this)


@pytest.mark.parametrize("file", readable_files(), ids=lambda file: str(file.relative_to(TOP)))
def test_words_are_plain(file: Path) -> None:
    assert complaints(file) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("told = 1", 1),
        ("def f(kept, *, other): ...", 1),
        ("for found in []: pass", 1),
        ("self.made = 2", 1),
        ("with open('x') as heard: pass", 1),
        ("try: pass\nexcept OSError as told: pass", 1),
        ("match x:\n    case [found, *kept]: pass", 2),
        ("match x:\n    case {'a': int() as known, **made}: pass", 2),
        ('def f():\n    """Of several processes the first."""', 1),
        ("raise ValueError(f'{x}. Of these none fits.')", 1),
        ("# A step.\n# Of two runs the second resumes.\n", 1),
        ("# Lines are logged at once; of a bar, two states.", 1),
        ("# The mean of all loops; of few loops it is nan.", 0),
        ("print('this is no number')", 1),
        ("rows = 1  # of the table; the number of rows is no longer than that", 0),
        ('"""A share of the rows. Often more."""', 0),
    ],
)
def test_complaints_are_the_rules(tmp_path: Path, source: str, count: int) -> None:
    file = tmp_path / "x.py"
    file.write_text(source)
    assert len(complaints(file)) == count
