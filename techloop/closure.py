"""Which code an output depends on: what makes a stage, a checkpoint or a part stale."""

import ast
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent  # holds the packages `techloop` and `stages`
PACKAGES = ("techloop", "stages")
# Modules that hand no value to an output: they start, parse and record a stage. What may be imported
# from them is checked (tests/test_closure.py), so that no constant hides in one.
NO_OUTPUT = frozenset(
    {"stages", "techloop", "techloop.allocator", "techloop.closure", "techloop.params"}
)
NO_OUTPUT_PACKAGES = ("techloop.tracking",)


def module_file(module: str, top: Path = TOP) -> Path | None:
    """The file of a module of ours; None where there is none of that name."""
    base = top.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def imported_modules(file: Path, top: Path = TOP) -> set[str]:
    """Modules of ours that running a file may import, lazily or not, with the packages around them.

    What is imported for type checkers alone does not count: it is never run.
    """
    found = set()
    for node in _run_nodes(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] in PACKAGES:
                prefixes = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
                found |= {prefix for prefix in prefixes if module_file(prefix, top)}
    return found


def closure(start: Iterable[Path | str], top: Path = TOP) -> list[Path]:
    """All files that an output of some code depends on, themselves included, sorted.

    Left out are `NO_OUTPUT` modules with what only they import, and packages' `__init__.py` that
    hold no code.

    Args:
        start: files, or modules by name.
        top: of the checkout.

    Raises:
        ValueError: there is no module of a name.
    """
    files: set[Path] = set()
    waiting = list(start)
    while waiting:
        place = waiting.pop()
        if isinstance(place, str) and _changes_no_output(place):
            continue
        file = place if isinstance(place, Path) else module_file(place, top)
        if file is None:
            raise ValueError(f"there is no module {place} below {top}")
        if file not in files:
            files.add(file)
            waiting += sorted(imported_modules(file, top))
    return sorted(file for file in files if _code(file))


@functools.cache  # what this process runs, though a file be edited meanwhile
def code_fingerprint(*modules: str) -> str:
    """SHA-256 over the code that what these modules make depends on; 16 hex digits.

    Comments, docstrings and layout do not count: a checkpoint outlives a change of words.

    Args:
        modules: by name; one that is not of this repository (a user's own source of audio) counts
            by its file.
    """
    files = closure(
        [module_file(module) or Path(inspect.getfile(sys.modules[module])) for module in modules]
    )
    total = hashlib.sha256()
    for file in files:
        name = file.relative_to(TOP).as_posix() if file.is_relative_to(TOP) else file.name
        total.update(f"{name} {hashlib.sha256(_code(file).encode()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def _changes_no_output(module: str) -> bool:
    return module in NO_OUTPUT or any(f"{module}.".startswith(f"{p}.") for p in NO_OUTPUT_PACKAGES)


def _run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all within it, without blocks for type checkers."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for otherwise in child.orelse:
                yield from _run_nodes(otherwise)
        else:
            yield from _run_nodes(child)


@functools.cache
def _code(file: Path) -> str:
    """A file's code in one notation, without comments and docstrings; empty where there is none."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del body[0]
    return ast.unparse(tree)
